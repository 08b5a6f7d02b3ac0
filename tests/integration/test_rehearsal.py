"""The real service in a process, given a test split over HTTP."""

import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from assay import rehearsal as rehearsal_module
from assay.config import DataConfig, SplitConfig
from assay.data.dataset import Dataset
from assay.data.scan import scan
from assay.data.sources import open_source
from assay.data.splits import split
from assay.models.bundle import Bundle
from assay.models.predictor import Predictor
from assay.rehearsal import rehearse
from assay.service import ServiceError, free_port, running

from toybundle import colour_folder, model, toy_bundle


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """About 20 test images that the toy bundle tells apart."""
    uri = str(colour_folder(tmp_path / "images"))
    return split(scan(open_source(uri), DataConfig(source=uri, image_size=16), tmp_path / "store"), SplitConfig())


def bundle(folder: Path, scale: float = 0.1) -> Bundle:
    return toy_bundle(folder, size=16, proto=model(size=16, scale=scale).SerializeToString())


def test_the_service_says_what_the_model_says(tmp_path: Path, dataset: Dataset) -> None:
    result = rehearse(bundle(tmp_path / "b"), "7", dataset)
    assert result.passed
    assert result.images == result.agreeing == result.right == len(dataset.subset("test"))
    assert 0 < result.p50_ms <= result.p95_ms <= result.p99_ms


def test_another_answer_is_named_and_does_not_pass(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    duller = Predictor(toy_bundle(tmp_path / "duller", size=16, proto=model(size=16, scale=0.01).SerializeToString()))
    monkeypatch.setattr(rehearsal_module, "Predictor", lambda _: duller)
    result = rehearse(bundle(tmp_path / "b"), "7", dataset, limit=3)
    assert not result.passed
    assert (result.images, result.agreeing) == (3, 0)
    assert "over HTTP" in result.disagreeing[0]


def test_a_bundle_that_is_damaged_is_never_served(tmp_path: Path) -> None:
    served = bundle(tmp_path / "b")
    (served.folder / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(ServiceError, match=r"model\.onnx: altered or damaged"), running(served, "1", free_port()):
        pass


def test_a_service_that_was_started_for_somebody_ends_when_that_one_is_killed(tmp_path: Path, assay_home: Path) -> None:
    code = """
import sys, time
from pathlib import Path
from assay.models.bundle import Bundle
from assay.service import free_port, running
with running(Bundle.load(Path(sys.argv[1])), "1", free_port()) as process:
    print(process.pid, flush=True)
    time.sleep(600)
"""
    command = [sys.executable, "-c", code, str(bundle(tmp_path / "b").folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout
        service = psutil.Process(int(starter.stdout.readline()))
        family = [service, *service.children(recursive=True)]
        starter.kill()
    assert not psutil.wait_procs(family, timeout=60)[1]


def test_a_port_that_is_taken_is_told_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServiceError, match="is in use"), running(bundle(tmp_path / "b"), "1", port):
            pass
