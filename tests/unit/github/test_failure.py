"""A pipeline that fails tells whose it is: real runs of both, by the commands that a person types."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from workflows.hosted import News, playing

from assay import notify, registry

from toybundle import colour_folder, toy_bundle

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.long


@pytest.fixture
def news(monkeypatch: pytest.MonkeyPatch) -> Iterator[News]:
    for name in ("MLFLOW_TRACKING_URI", "ASSAY_LEDGER"):
        monkeypatch.delenv(name, raising=False)
    with playing(News()) as found:
        monkeypatch.setenv(notify.URL, found.url)
        yield found


def fail(folder: Path, *words: str) -> str:
    """Run a command that fails, and give what it says is wrong."""
    path = os.pathsep.join(map(str, (ROOT / "src", ROOT)))
    command = [sys.executable, "-m", "assay", *words]
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode, done.stdout
    return done.stderr.strip().splitlines()[-1].removeprefix("assay: ")


def test_news_of_a_failure_name_the_use_case_and_what_it_was_about(tmp_path: Path, news: News) -> None:
    images = colour_folder(tmp_path / "images")
    for number, path in enumerate(sorted(images.rglob("*.png"))):
        path.write_bytes(b"no image" + bytes([number % 256]))
    use_case = {
        "name": "colours",
        "data": {"source": str(images), "image_size": 16},
        "recipe": {"backbone": "resnet10t"},
    }
    (tmp_path / "configs").mkdir()
    config = tmp_path / "configs" / "colours.yaml"
    config.write_text(yaml.safe_dump({"parameters": {"use_case": use_case}}))
    said = fail(tmp_path, "train", str(config))
    assert news.last() == ("failure", "colours", "", "")
    assert news.told[-1]["reason"].startswith(f"training: {said}"[:200])

    version = registry.register(toy_bundle(tmp_path / "bundle"), "colours", registry.open_run("colours", "run"), {})
    said = fail(tmp_path, "promote", "--to", "production", str(version))
    assert "there is no verdict on its bundle" in said
    assert news.last() == ("failure", "colours", "1", "")
    assert news.told[-1]["environment"] == "production"
    assert len(news.told) == 2
