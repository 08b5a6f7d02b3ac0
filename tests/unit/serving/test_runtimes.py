import importlib.util
import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import serving
from assay.errors import BundleError
from assay.models.abstention import Abstention
from assay.models.predictor import MAX_BATCH, Predictor
from serving import model, runtimes
from serving.settings import Settings, SettingsError

from toybundle import model as toy_model
from toybundle import pixels, toy_bundle

SCALE = 0.01
"""With the toy model's own, a difference in its seventh bit would be all the difference."""
ORT = f"onnxruntime {onnxruntime.__version__}, fp32"
AMX = frozenset({"amx_bf16"})

needs_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")


def expected(images: np.ndarray) -> np.ndarray:
    odds = np.exp(SCALE * images.mean(axis=(1, 2))[:, ::-1])
    return (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def plain(tmp_path: Path) -> Predictor:
    """A model that differs little where numbers have few bits, in ONNX Runtime; it abstains now and then."""
    proto, fitted = toy_model(scale=SCALE).SerializeToString(), Abstention(coverage=0.9, threshold=0.34)
    return Predictor(toy_bundle(tmp_path / "b", proto, expected(pixels(3)), abstention=fitted), threads=1)


@pytest.fixture
def wished() -> Settings:
    return Settings(runtime="openvino", concurrency=2)


def test_the_flags_of_a_cpu_are_read(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nflags\t\t: fpu avx512_bf16\nbugs\t\t: none\n\nprocessor\t: 1\nflags\t\t: fpu\n")
    assert runtimes.cpu_flags(info) == {"fpu", "avx512_bf16"}
    info.write_text("Features\t: fp bf16\n")  # Arm
    assert runtimes.cpu_flags(info) == runtimes.cpu_flags(tmp_path / "none") == frozenset()


@pytest.mark.parametrize("flags", [frozenset(), frozenset({"avx512_bf16"})])
def test_without_amx_it_is_onnxruntime(plain: Predictor, monkeypatch: pytest.MonkeyPatch, flags: frozenset) -> None:
    monkeypatch.setattr(runtimes, "cpu_flags", lambda: flags)
    assert runtimes.choose(plain, Settings()) == (plain, ORT)


def test_onnxruntime_can_be_asked_for(plain: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "cpu_flags", lambda: AMX)
    assert runtimes.choose(plain, Settings(runtime="onnxruntime")) == (plain, ORT)


def test_what_is_not_installed_is_not_chosen(plain: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "cpu_flags", lambda: AMX)
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert runtimes.choose(plain, Settings()) == (plain, ORT)


def test_what_is_asked_for_and_not_installed_is_one_line(
    plain: Predictor, wished: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(SettingsError, match=r"^ASSAY_SERVE_RUNTIME: .*install assay\[openvino\]") as raised:
        runtimes.choose(plain, wished)
    assert "\n" not in str(raised.value)


@needs_openvino
def test_with_amx_it_is_openvino(plain: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "cpu_flags", lambda: AMX)
    predictor, runtime = runtimes.choose(plain, Settings())
    assert runtime.startswith("openvino 2")
    assert predictor is not plain


@needs_openvino
def test_it_gives_nearly_the_same_for_any_number_of_images(plain: Predictor, wished: Settings) -> None:
    predictor, runtime = runtimes.choose(plain, wished)
    for n in (1, 8, 0, MAX_BATCH + 1, 1):
        rows = predictor.probabilities(pixels(n))
        assert rows.dtype == np.float32
        np.testing.assert_allclose(rows, expected(pixels(n)), atol=runtimes.TOLERANCES[runtime.split(", ")[1]])


@needs_openvino
def test_the_precision_is_that_of_the_cpu(plain: Predictor, wished: Settings) -> None:
    bf16 = not runtimes.cpu_flags().isdisjoint(runtimes.BF16)
    predictor, runtime = runtimes.choose(plain, wished)
    assert runtime.endswith(", bf16" if bf16 else ", fp32")
    exact = np.allclose(predictor.probabilities(pixels(50)), expected(pixels(50)), rtol=0, atol=1e-6)
    assert exact != bf16


@needs_openvino
def test_without_bf16_in_the_cpu_it_is_fp32(
    plain: Predictor, wished: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtimes, "cpu_flags", frozenset)
    predictor, runtime = runtimes.choose(plain, wished)
    assert runtime.endswith(", fp32")
    np.testing.assert_allclose(predictor.probabilities(pixels(50)), expected(pixels(50)), atol=1e-6)


@needs_openvino
def test_threads_do_not_mix_up_their_answers(plain: Predictor, wished: Settings) -> None:
    predictor, _ = runtimes.choose(plain, wished)
    pictures = [pixels(n) for n in range(1, 33)]
    alone = [predictor.probabilities(picture) for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        for rows, again in zip(alone * 8, pool.map(predictor.probabilities, pictures * 8), strict=True):
            np.testing.assert_array_equal(rows, again)


@needs_openvino
def test_in_auto_disagreement_leads_back_with_one_line(
    plain: Predictor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runtimes, "cpu_flags", lambda: AMX)
    monkeypatch.setattr(runtimes, "TOLERANCES", {"bf16": -1.0, "fp32": -1.0})
    with caplog.at_level(logging.WARNING):
        assert runtimes.choose(plain, Settings()) == (plain, ORT)
    (line,) = caplog.messages
    assert line.startswith("ONNX Runtime is used, not OpenVINO")
    assert "\n" not in line


@needs_openvino
def test_disagreement_of_what_was_asked_for_is_an_error(
    plain: Predictor, wished: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtimes, "TOLERANCES", {"bf16": -1.0, "fp32": -1.0})
    with pytest.raises(BundleError, match=r"OpenVINO in .* gives golden outputs"):
        runtimes.choose(plain, wished)


@pytest.mark.parametrize(
    ("shift", "threshold", "message"),
    [
        ([0.03, 0, 0], 0.9, "golden outputs .* apart, at most 0.02"),
        ([np.nan, 0, 0], 0.9, "not numbers"),
        ([0.006, -0.006, 0], 0.9, "another label"),
        ([0.002, 0, 0], 0.502, "abstains from other"),
    ],
)
def test_agreement_is_of_label_abstention_and_probabilities(
    tmp_path: Path, shift: list[float], threshold: float, message: str
) -> None:
    golden = np.tile(np.float32([0.495, 0.505, 0.0] if "label" in message else [0.501, 0.4, 0.099]), (3, 1))
    fitted = Abstention(coverage=0.9, threshold=threshold)
    predictor = Predictor(toy_bundle(tmp_path / "b", golden=golden, abstention=fitted))
    same = predictor.computed_by(lambda pixels: golden[: len(pixels)])
    runtimes._check_agreement(same, "it", 0.02)
    other = predictor.computed_by(lambda pixels: golden[: len(pixels)] + np.float32(shift))
    with pytest.raises(BundleError, match=message):
        runtimes._check_agreement(other, "it", 0.02)


@needs_openvino
def test_weights_in_other_files_stay_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where OpenVINO by itself would find them
    options = {"save_as_external_data": True, "location": "weights", "size_threshold": 0}
    onnx.save(toy_model(), "model.onnx", **options)
    toy_bundle(tmp_path / "b", Path("model.onnx").read_bytes())
    with pytest.raises(BundleError, match="cannot load it"):
        model.load(Settings(bundle=str(tmp_path / "b"), runtime="openvino"))


def test_operators_of_its_own_stay_refused(tmp_path: Path) -> None:
    proto = toy_model()
    proto.graph.node[-1].domain = "com.somebody"
    proto.opset_import.append(onnx.helper.make_opsetid("com.somebody", 1))
    toy_bundle(tmp_path / "b", proto.SerializeToString())
    with pytest.raises(BundleError, match="cannot load it"):
        model.load(Settings(bundle=str(tmp_path / "b"), runtime="openvino"))


WATCHED = """
import sys
told = []
sys.addaudithook(lambda event, args: told.append((event, args)) if event.startswith("socket.") else None)
from serving import model, runtimes
from serving.settings import Settings
print(model.load(Settings(bundle=sys.argv[1], runtime="openvino"))[1].runtime)
import threading
assert threading.active_count() == 1, threading.enumerate()
assert not told, told
assert not [name for name, module in sys.modules.items() if "telemetry" in name and module], "telemetry was loaded"
"""


@needs_openvino
def test_nobody_is_told_and_nothing_is_left_at_home(plain: Predictor, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    own = {"HOME": str(home), "XDG_CACHE_HOME": str(home), "XDG_CONFIG_HOME": str(home)}
    without_ci = {name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD", "JENKINS_URL")}
    command = [sys.executable, "-c", WATCHED, str(plain.bundle.folder)]
    folder = Path(serving.__file__).parents[1]
    done = subprocess.run(
        command, env={**without_ci, **own}, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("openvino ")
    assert not list(home.rglob("*"))
