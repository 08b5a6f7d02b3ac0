import platform
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from assay import digests, lineage
from assay.config import UseCase


@dataclass(frozen=True)
class Digests:
    digest: str = "data"
    split_digest: str = "split"


def use_case(**changes: Any) -> UseCase:
    return UseCase(name="demo", data={"source": "photos"}, recipe={"backbone": "resnet10t", **changes})


def collect(**changes: Any) -> lineage.Lineage:
    dataset: Any = Digests()
    return lineage.collect(use_case(**changes), dataset)


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    git(tmp_path, "init")
    (tmp_path / "file").write_text("1")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-m", "first")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commit_of_a_clean_checkout(checkout: Path) -> None:
    collected = collect()
    assert collected.git_commit == git(checkout, "rev-parse", "HEAD")
    assert not collected.git_dirty


@pytest.mark.parametrize("name", ["file", "new"])
def test_changes_in_no_commit_are_told(checkout: Path, name: str) -> None:
    (checkout / name).write_text("2")
    assert collect().git_dirty


def test_a_checkout_whose_state_git_cannot_tell_counts_as_changed(checkout: Path) -> None:
    (checkout / ".git" / "index").write_bytes(b"broken")
    assert collect().git_commit == git(checkout, "rev-parse", "HEAD")
    assert collect().git_dirty


def test_a_folder_within_the_checkout_will_do(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkout / "deep").mkdir()
    monkeypatch.chdir(checkout / "deep")
    assert collect().git_commit == git(checkout, "rev-parse", "HEAD")


def test_outside_of_a_checkout_the_commit_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert (collect().git_commit, collect().git_dirty) == ("unknown", False)


def test_without_git_the_commit_is_unknown(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(checkout))
    assert collect().git_commit == "unknown"


def test_before_the_first_commit_it_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(tmp_path, "init")
    monkeypatch.chdir(tmp_path)
    assert collect().git_commit == "unknown"


def test_digests_are_of_the_data_the_split_and_the_use_case() -> None:
    collected = collect()
    assert (collected.data_digest, collected.split_digest) == ("data", "split")
    assert collected.config_digest == digests.of_json(use_case().model_dump(mode="json"))
    assert collected.config_digest == collect().config_digest != collect(epochs=3).config_digest


def test_versions_are_those_installed() -> None:
    versions = collect().versions
    assert set(versions) == {"python", *lineage.PACKAGES}
    assert versions["python"] == platform.python_version()
    assert versions["numpy"] == version("numpy")


def test_a_package_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lineage, "PACKAGES", ("no-such-package",))
    assert collect().versions["no-such-package"] == "not installed"
