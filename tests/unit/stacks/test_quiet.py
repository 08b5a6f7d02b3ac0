"""Standard output is for results: whatever a library has to say goes elsewhere, or nowhere."""

import subprocess
import sys

import pytest

pytest.importorskip("kfp_server_api", reason="needs the extra kubeflow")

LIBRARIES = """
import logging, zenml, kfp_server_api, kubernetes
from stacks.quiet import quiet
quiet()
kfp_server_api.Configuration(), kubernetes.client.Configuration()
logging.getLogger("urllib3.connectionpool").warning("Retrying")
logging.getLogger("some.library").critical("Broken")
print("result")
"""


def test_a_librarys_words_are_not_among_the_results() -> None:
    done = subprocess.run([sys.executable, "-c", LIBRARIES], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "result\n"
    assert "Broken" in done.stderr
    assert "Retrying" not in done.stderr
