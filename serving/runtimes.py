"""What computes a model: ONNX Runtime, or OpenVINO in bf16 where the CPU has instructions for that.

A model always goes through ONNX Runtime first. That refuses operators of its own kind and weights in other files, which
OpenVINO would read, and reproduces the golden outputs; what OpenVINO gives is then held against those.
"""

import importlib
import importlib.util
import logging
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from assay.errors import AssayError, BundleError
from assay.models.abstention import in_set
from assay.models.bundle import MODEL
from assay.models.predictor import GOLDEN_TOLERANCE, Infer, Predictor
from serving.settings import PREFIX, Settings, SettingsError

TOLERANCES = {"bf16": 0.02, "fp32": GOLDEN_TOLERANCE}
"""Largest absolute difference of a golden probability, by precision. In bf16 a number has 8 significant bits: of two
trained models and 600 images each, 0.0097 was the largest difference, and half were below 1e-5."""

FAST_BF16, BF16 = "amx_bf16", ("amx_bf16", "avx512_bf16")
"""Flags of CPUs on which OpenVINO in bf16 leaves ONNX Runtime behind for certain, and of those that have bf16 at all.
On others OpenVINO would imitate it, which is slower than fp32."""

log = logging.getLogger("assay.serving")


def choose(plain: Predictor, settings: Settings) -> tuple[Predictor, str]:
    """The predictor to serve with, and what it computes with, in words: `openvino 2026.4.1, bf16`.

    Args:
        plain: the model in ONNX Runtime, which has reproduced its golden outputs.
        settings: the wish, how many requests are worked on at once, and the threads for each.

    Raises:
        SettingsError: OpenVINO was asked for and is not installed, or cannot be loaded.
        BundleError: OpenVINO was asked for and cannot run the model, or gives something else.
    """
    flags = cpu_flags()
    fallback = plain, f"onnxruntime {onnxruntime.__version__}, fp32"
    if not _is_wanted(settings.runtime, flags):
        return fallback
    try:
        return _with_openvino(plain, settings, "bf16" if flags.intersection(BF16) else "fp32")
    except AssayError as error:
        if settings.runtime != "auto":
            raise
        log.warning("ONNX Runtime is used, not OpenVINO: %s", error)
        return fallback


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Instructions that the CPU has, by the names that Linux on x86 gives them; none elsewhere."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), ()))


def _is_wanted(wish: str, flags: frozenset[str]) -> bool:
    if wish != "auto":
        return wish == "openvino"
    return FAST_BF16 in flags and importlib.util.find_spec("openvino") is not None


def _with_openvino(plain: Predictor, settings: Settings, precision: str) -> tuple[Predictor, str]:
    module = _openvino()
    infer, used = _compiled(module, plain.bundle.read(MODEL), settings, precision)
    predictor = plain.computed_by(infer)
    # Also the first inference, of one thread alone: OpenVINO 2026.4 can deadlock when two make it together.
    _check_agreement(predictor, f"OpenVINO in {used}", TOLERANCES[used])
    return predictor, f"openvino {module.__version__.partition('-')[0]}, {used}"


def _openvino() -> Any:
    """The module, without what it would tell others.

    Raises:
        SettingsError: it is not installed, or cannot be loaded.
    """
    # Its import would send an event to its maker and leave an identity in the home folder. Without these two modules,
    # which no inference needs, it does neither.
    modules: dict[str, Any] = dict.fromkeys(("openvino_telemetry", "openvino.tools.ovc"))
    sys.modules.update({name: nothing for name, nothing in modules.items() if name not in sys.modules})
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        reason = " ".join(str(error).split())[:200]
        advice = f"install assay[openvino], or set {PREFIX}RUNTIME to auto"
        raise SettingsError(f"{PREFIX}RUNTIME: OpenVINO cannot be loaded ({reason}); {advice}") from None


def _compiled(module: Any, model: bytes, settings: Settings, precision: str) -> tuple[Infer, str]:
    """What computes the model, and the precision that it really has.

    Raises:
        BundleError: OpenVINO cannot load it.
    """
    options = {
        "INFERENCE_PRECISION_HINT": {"bf16": "bf16", "fp32": "f32"}[precision],
        # One stream a thread of the engine: with fewer they would wait for each other.
        "NUM_STREAMS": settings.workers,
        "INFERENCE_NUM_THREADS": settings.workers * settings.threads,
        # Workers, or containers, that all pin their threads to the first CPUs share those.
        "ENABLE_CPU_PINNING": False,
    }
    try:
        core = module.Core()
        compiled = core.compile_model(core.read_model(model=model), "CPU", options)
    except Exception as error:  # the runtime's exceptions have no base class of their own
        reason = " ".join(str(error).split())[-300:]
        raise BundleError(f"{MODEL}: OpenVINO cannot load it: {reason}") from None
    kind = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    return _by(compiled), {"bf16": "bf16", "f32": "fp32"}[kind]


def _by(compiled: Any) -> Infer:
    """A request each for every thread: one request does one thing at a time."""
    own = threading.local()

    def infer(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        rows: NDArray[np.float32] = own.request.infer([pixels])[0]
        return rows

    return infer


def _check_agreement(predictor: Predictor, who: str, tolerance: float) -> None:
    """Golden inputs get the label, the abstention and, nearly, the probabilities that they had at export.

    Raises:
        BundleError: they do not.
    """
    bundle = predictor.bundle
    inputs, expected = bundle.golden()
    rows = np.concatenate([predictor.probabilities(inputs[:1]), predictor.probabilities(inputs)])
    expected = np.concatenate([expected[:1], expected])
    difference = float(np.abs(rows - expected).max())
    # The negation also catches what is NaN.
    if not difference <= tolerance:
        raise BundleError(f"{bundle.folder}: {who} gives golden outputs {difference:.1e} apart, at most {tolerance:g}")
    if (rows.argmax(axis=1) != expected.argmax(axis=1)).any():
        raise BundleError(f"{bundle.folder}: {who} gives another label to a golden input")
    fitted = bundle.meta.abstention
    if fitted and (in_set(rows, fitted.threshold) != in_set(expected, fitted.threshold)).any():
        raise BundleError(f"{bundle.folder}: {who} abstains from other golden inputs")
