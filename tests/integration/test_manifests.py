"""The manifests as checkov judges them: whatever it finds is mended, or has a reason in serving/k8s/checkov.yaml."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving import manifests

CHECKOV = Path(sys.prefix) / ".cache" / "checkov" / "bin" / "checkov"
"""Where `make manifests` installs it: it has many requirements that would contradict ours."""
TEST_OVERLAYS = Path(__file__).parents[1] / "overlays"
JUSTIFIED = yaml.safe_load((manifests.K8S / "checkov.yaml").read_text())

pytestmark = [
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed"),
    pytest.mark.skipif(not CHECKOV.is_file(), reason="checkov is not installed: `make manifests` does it"),
]

RELEASE = ("surface_crack", "7", "ab" * 32, "registry.example/assay@sha256:" + "cd" * 32)


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with every manifest that we have, rendered, and one that is wrong in the namespace `assay-broken`."""
    folder = tmp_path / "rendered"
    folder.mkdir()
    for environment in manifests.environments():
        (folder / f"{environment}.yaml").write_text(manifests.render(environment, *RELEASE))
        access = ["kubectl", "kustomize", str(manifests.K8S / "access" / environment)]
        (folder / f"access-{environment}.yaml").write_bytes(
            subprocess.run(access, capture_output=True, check=True).stdout
        )
    text = (folder / "staging.yaml").read_text().replace("assay-staging", "assay-broken")
    (folder / "broken.yaml").write_text(text.replace("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false"))
    monkeypatch.setenv("ASSAY_OVERLAYS", str(TEST_OVERLAYS))
    (folder / "everything.yaml").write_text(manifests.render("everything", *RELEASE))
    return folder


def judged(folder: Path, state: Path) -> dict[str, Any]:
    command = [str(CHECKOV), "--directory", str(folder), "--framework", "kubernetes", "--skip-download"]
    done = subprocess.run(
        [*command, "--output", "json", "--quiet", "--compact"],
        capture_output=True, env={**os.environ, "HOME": str(state)}, timeout=300, check=False,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_what_checkov_finds_has_a_reason(written: Path, tmp_path: Path) -> None:
    found = judged(written, tmp_path)
    assert found["summary"]["parsing_errors"] == 0
    assert found["summary"]["passed"] > 200
    failed = {(check["check_id"], *check["resource"].split(".")[:2]) for check in found["results"]["failed_checks"]}
    broken = {check for check, _, namespace in failed if namespace == "assay-broken"}
    assert "CKV_K8S_22" in broken, "checkov finds nothing any more"
    ours = {(check, kind) for check, kind, namespace in failed if namespace != "assay-broken"}
    assert ours == {(entry["check"], entry["kind"]) for entry in JUSTIFIED}


def test_reasons_are_given() -> None:
    assert all(len(entry["reason"]) > 40 for entry in JUSTIFIED)
