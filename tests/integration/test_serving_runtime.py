"""The service with OpenVINO as it is run: what it says of itself, what it answers, and what it leaves behind."""

import importlib.util
import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assay.models.bundle import Bundle
from assay.models.predictor import Predictor
from assay.service import ServiceError, address, free_port, running
from serving.runtimes import TOLERANCES

from pictures import encoded, picture
from toybundle import model, pixels, toy_bundle

pytestmark = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")

SCALE = 0.01
PICTURES = [encoded(picture(seed)) for seed in range(2, 10)]


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A toy that differs little in bf16; the service around it is asked to use OpenVINO, at a home of its own."""
    home = tmp_path / "home"
    home.mkdir()
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("ASSAY_SERVE_RUNTIME", "openvino")
    odds = np.exp(SCALE * pixels(3).mean(axis=(1, 2))[:, ::-1])
    golden = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)
    return toy_bundle(tmp_path / "b", model(scale=SCALE).SerializeToString(), golden)


def asked(port: int, path: str, data: bytes | None = None) -> dict[str, Any]:
    request = urllib.request.Request(address(port) + path, data)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return dict(json.loads(answer.read()))


def test_it_answers_many_at_once_nearly_as_the_model_does(bundle: Bundle, tmp_path: Path) -> None:
    port, plain = free_port(), Predictor(bundle, threads=1)
    with running(bundle, "1", port):
        runtime = asked(port, "/v1/model")["runtime"]
        name, precision = runtime.split(", ")
        assert name.startswith("openvino 2")
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda data: asked(port, "/v1/predict", data), PICTURES * 4))
        explained = asked(port, "/v1/predict?explain=true", PICTURES[0])
    for data, answer in zip(PICTURES * 4, answers, strict=True):
        expected = plain.classify(data).probabilities
        assert max(abs(answer["probabilities"][label] - p) for label, p in expected.items()) <= TOLERANCES[precision]
    assert explained["heatmap"].startswith("data:image/png;base64,")
    assert not list((tmp_path / "home").rglob("*"))


def test_a_runtime_that_is_none_ends_the_service_with_one_line(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_SERVE_RUNTIME", "torch")
    message = "ASSAY_SERVE_RUNTIME: must be auto, onnxruntime or openvino"
    with pytest.raises(ServiceError, match=message), running(bundle, "1", free_port()):
        pytest.fail("it is ready")
