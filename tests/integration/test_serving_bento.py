"""The service as a bento: built by `bentoml build`, and served where Assay is not installed."""

import json
import os
import re
import site
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from asking import ask

import serving
from assay.processes import stop

from pictures import encoded, picture
from toybundle import toy_bundle

pytestmark = pytest.mark.long

ROOT = Path(serving.__file__).parents[1]
PATIENCE_S = 60
# An interpreter with the packages of this environment, and without what makes the checkout importable in it.
PYTHON = Path(sys.base_prefix) / "bin" / "python3"
PACKAGES = os.pathsep.join(site.getsitepackages())


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("bentoml")
    (folder / "temporary").mkdir()
    nowhere = {f"{kind}_proxy": "http://127.0.0.1:9" for kind in ("http", "https", "all")}
    own = {"BENTOML_HOME": str(folder), "TMPDIR": str(folder / "temporary"), "BENTOML_DO_NOT_TRACK": "True"}
    # A bento that is served gets bytecode beside its source; what is looked at is what was built.
    return {**os.environ, **nowhere, **own, "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture(scope="module")
def bento(environment: dict[str, str]) -> Path:
    command = [sys.executable, "-m", "bentoml", "build", "-f", "serving/bentofile.yaml", "--version", "test", "."]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return Path(environment["BENTOML_HOME"]) / "bentos" / "assay" / "test"


@pytest.fixture
def port(bento: Path, environment: dict[str, str], tmp_path: Path) -> Iterator[int]:
    """Of the bento, served."""
    if not PYTHON.exists():
        pytest.skip(f"there is no {PYTHON}")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(listener.getsockname()[1])
    own = {"PYTHONPATH": PACKAGES, "ASSAY_SERVE_BUNDLE": str(toy_bundle(tmp_path / "bundle").folder)}
    command = [str(PYTHON), "-m", "bentoml", "serve", "assay:test", "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=tmp_path, env={**environment, **own}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        end = time.monotonic() + PATIENCE_S
        while process.poll() is None and time.monotonic() < end and not ready(port):
            time.sleep(0.1)
        assert ready(port), (tmp_path / "log").read_text(errors="replace")[-3000:]
        yield port
    finally:
        stop(process, 20)


def ready(port: int) -> bool:
    try:
        return ask(port, "GET", "/v1/ready")[0] == 200
    except OSError:
        return False


def test_the_bento_answers_without_the_checkout(port: int) -> None:
    status, body = ask(port, "POST", "/v1/predict", encoded(picture(2)))
    assert (status, json.loads(body)["model"]["name"]) == (200, "colours")
    assert b"<!doctype html>" in ask(port, "GET", "/")[1]


def test_the_bento_holds_the_service_and_the_lock_and_no_address(bento: Path) -> None:
    inside = {str(path.relative_to(bento / "src")) for path in (bento / "src").rglob("*") if path.is_file()}
    assert {"serving/service.py", "serving/page/app.js", "src/assay/preprocess.py"} <= inside
    others = [name for name in inside if not name.startswith(("serving/", "src/assay/")) or "pycache" in name]
    assert others == ["bentofile.yaml"]
    wanted = [bento / "bento.yaml", *(bento / "env" / "python").iterdir()]
    described = "".join(path.read_text(encoding="utf-8") for path in wanted)
    assert described.count("--hash=sha256:") > 1000
    assert not re.findall(r"\S*(?:://|index-url|find-links|trusted-host)\S*", described)
    assert str(ROOT) not in described
