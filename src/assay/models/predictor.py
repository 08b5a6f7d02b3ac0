"""Classifying with a bundle: ONNX Runtime on the CPU, no torch. Evaluation and serving both go through this."""

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from assay.errors import BundleError
from assay.models.abstention import answered, in_set
from assay.models.bundle import MODEL, Bundle
from assay.preprocess import VERSION, decode

INPUT, OUTPUT = "images", "probabilities"
MAX_BATCH = 64
"""More images than this go through the model in parts, so that memory does not grow with their number."""
GOLDEN_TOLERANCE = 1e-4
"""Largest absolute difference of a golden probability: CPUs and versions of the runtime round differently (1e-6
measured), while a wrong weight or another preprocessing shows as 1e-2 and more."""

Infer = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""What computes a model: probabilities float32 [n, classes] of uint8 [n, size, size, 3], from any thread."""


@dataclass(frozen=True)
class Prediction:
    """What the model says about one image."""

    label: str
    probabilities: dict[str, float]
    """Label to probability, in the bundle's order of labels."""
    abstained: bool = False
    """Whether the model gives no answer: not exactly one label is in its conformal set (`assay.models.abstention`)."""


def session(model: bytes, threads: int | None = None) -> ort.InferenceSession:
    """An ONNX Runtime session on the CPU, silent, with all graph optimisations.

    Args:
        model: the serialised ONNX model; weights in other files are refused.
        threads: threads within one operator; None leaves it to the runtime (one a physical core).

    Raises:
        BundleError: the runtime cannot load it, or it has operators of its own.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = threads or 0
    # Without it, a model given as bytes may name files below the working directory as its weights.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's exceptions have no base class of their own
        reason = " ".join(str(error).split())[:300]
        raise BundleError(f"{MODEL}: ONNX Runtime {ort.__version__} cannot load it: {reason}") from None


def run(model: ort.InferenceSession, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Probabilities float32 [n, classes] of uint8 [n, size, size, 3], at most `MAX_BATCH` images at a time.

    Raises:
        BundleError: the model's output is not finite.
    """
    return _in_parts(_by(model), pixels)


def _by(model: ort.InferenceSession) -> Infer:
    def infer(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        rows: NDArray[np.float32] = model.run([OUTPUT], {INPUT: pixels})[0]
        return rows

    return infer


def _in_parts(infer: Infer, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    probabilities: NDArray[np.float32] = np.concatenate([infer(part) for part in _parts(pixels)])
    if not np.isfinite(probabilities).all():
        raise BundleError(f"{MODEL}: gives probabilities that are not numbers; train and export it again")
    return probabilities


def _parts(pixels: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    return [pixels[start : start + MAX_BATCH] for start in range(0, max(len(pixels), 1), MAX_BATCH)]


class Predictor:
    """A bundle, loaded into memory; safe to call from several threads at once."""

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        """Load the model.

        Args:
            bundle: what to load.
            threads: as in `session`.

        Raises:
            BundleError: the model cannot be loaded, or is not the one that `bundle.json` describes.
        """
        self.bundle = bundle
        self._check_preprocess()
        model = session(bundle.read(MODEL), threads)
        self._check_signature(model)
        self._infer = _by(model)

    def computed_by(self, infer: Infer) -> "Predictor":
        """The same bundle, computed by something else; whether that gives the same is for the caller to find out."""
        other = copy.copy(self)
        other._infer = infer
        return other

    def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Calibrated probabilities float32 [n, classes] of images uint8 [n, size, size, 3], RGB.

        Raises:
            ValueError: the array has another type or shape.
            BundleError: the model's output is not finite.
        """
        size = self.bundle.meta.geometry.size
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (size, size, 3):
            given = f"{pixels.dtype} {list(pixels.shape)}"
            raise ValueError(f"pixels must be uint8 [n, {size}, {size}, 3], given: {given}")
        return _in_parts(self._infer, pixels)

    def classify(self, data: bytes) -> Prediction:
        """Decode an image file and classify it.

        Raises:
            assay.preprocess.Unreadable: `data` is no image that can be decoded.
            BundleError: the model's output is not finite.
        """
        rows = self.probabilities(decode(data, self.bundle.meta.geometry)[np.newaxis])
        labels, fitted = self.bundle.meta.labels, self.bundle.meta.abstention
        abstained = fitted is not None and not bool(answered(in_set(rows, fitted.threshold))[0])
        return Prediction(labels[int(rows[0].argmax())], dict(zip(labels, rows[0].tolist(), strict=True)), abstained)

    def check_golden(self) -> None:
        """Give the golden inputs to the model and compare with what it gave when it was exported.

        Raises:
            BundleError: a probability differs by more than `GOLDEN_TOLERANCE`.
        """
        inputs, expected = self.bundle.golden()
        difference = float(np.abs(self.probabilities(inputs) - expected).max())
        # The negation also catches a golden output that is NaN.
        if not difference <= GOLDEN_TOLERANCE:
            raise BundleError(
                f"{self.bundle.folder}: golden outputs differ by {difference:.1e}, more than {GOLDEN_TOLERANCE:.0e}: "
                "this machine does not run the model as it was exported; check the version of onnxruntime"
            )

    def _check_preprocess(self) -> None:
        if self.bundle.meta.preprocess != VERSION:
            raise BundleError(
                f"{self.bundle.folder}: trained on images decoded by version {self.bundle.meta.preprocess} of "
                f"assay.preprocess, this is version {VERSION}; scan and train again, or use the Assay it was made with"
            )

    def _check_signature(self, model: ort.InferenceSession) -> None:
        size, classes = self.bundle.meta.geometry.size, len(self.bundle.meta.labels)
        ends = (*model.get_inputs(), *model.get_outputs())
        # The runtime gives a dimension that is free as a name or None.
        found = [(end.name, end.type, [d if isinstance(d, int) else "n" for d in end.shape]) for end in ends]
        expected = [(INPUT, "tensor(uint8)", ["n", size, size, 3]), (OUTPUT, "tensor(float)", ["n", classes])]
        if found != expected:
            raise BundleError(f"{self.bundle.folder / MODEL}: inputs and outputs are {found}, must be {expected}")
