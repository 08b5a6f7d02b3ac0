"""From trained weights to the bundle: one ONNX graph with everything between pixels and calibrated probabilities."""

import io
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save

from assay import console, digests
from assay.errors import BundleError
from assay.models import backbones, card
from assay.models.abstention import Abstention, fit_abstention
from assay.models.bundle import (
    CARD,
    GOLDEN_INPUTS,
    GOLDEN_OUTPUTS,
    MODEL,
    WEIGHTS,
    Bundle,
    BundleMeta,
    Lineage,
    Parity,
)
from assay.models.calibration import TEMPERATURES, fit_temperature
from assay.models.predictor import INPUT, MAX_BATCH, OUTPUT, run, session

if TYPE_CHECKING:
    from assay.data.dataset import Dataset, Subset
    from assay.training import Trained

OPSET = 20
NEAR_TIE = 1e-3
"""Where torch's two highest probabilities are closer than this, rounding may decide which is first."""
MAX_DIFFERENCE = 1e-3
"""Largest absolute difference of a probability between ONNX Runtime and torch; 1e-7 to 3e-5 is what is measured."""
GOLDEN_PHOTOS = 7
MAX_WEIGHT_BYTES = 2**31 - 2**20
"""An ONNX file is one protobuf message, which ends at 2 GiB."""


class Servable(torch.nn.Module):
    """A backbone with what stands before and behind it when it serves.

    Args:
        backbone: float32 [n, 3, size, size], normalised, to logits [n, classes].
        mean: of pixels / 255, by RGB channel.
        std: likewise.
        temperature: what the logits are divided by.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self, backbone: torch.nn.Module, mean: tuple[float, ...], std: tuple[float, ...], temperature: float = 1.0
    ) -> None:
        super().__init__()
        self.backbone = _with_plain_pools(backbone)
        self.temperature = temperature
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1) * 255)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Logits float32 [n, classes] of uint8 [n, size, size, 3], before the temperature."""
        pixels = images.permute(0, 3, 1, 2).float()
        logits: torch.Tensor = self.backbone((pixels - self.mean) / self.std)
        return logits

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Probabilities float32 [n, classes] of uint8 [n, size, size, 3]."""
        return torch.softmax(self.logits(images) / self.temperature, dim=1)


class _GlobalMean(torch.nn.Module):
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features.mean((2, 3), keepdim=True)


def _with_plain_pools(module: torch.nn.Module) -> torch.nn.Module:
    """Global pools as means: torch exports a pool of channels-last features as eight operators with a gather."""
    for name, child in module.named_children():
        if isinstance(child, torch.nn.AdaptiveAvgPool2d) and child.output_size in (1, (1, 1)):
            setattr(module, name, _GlobalMean())
        else:
            _with_plain_pools(child)
    return module


def export(trained: "Trained", dataset: "Dataset", folder: Path, lineage: Lineage, name: str = "model") -> Bundle:
    """Make the bundle of a trained model; the same inputs give the same bytes.

    The temperature and the threshold of abstention are fitted, and the ONNX model compared with the torch model, on the
    validation split.

    Args:
        trained: the weights and what they were trained with.
        dataset: the data set they were trained on, split.
        folder: where the bundle shall stand; a bundle that is there is replaced, once the new one is whole.
        lineage: what the bundle says of its origin.
        name: of the use case.

    Raises:
        BundleError: the data set is another than the one trained on, the validation split is empty, the weights do not
            fit the backbone or are not finite, torch cannot export it, or ONNX and torch disagree. Nothing is written.
    """
    _check_same_data(trained, dataset, lineage)
    validation = dataset.subset("validation")
    model = Servable(_backbone(trained), trained.mean, trained.std).eval()
    logits = _logits(model, validation)
    model.temperature = _temperature(logits, validation.targets)
    proto = to_onnx(model, trained.geometry.size)
    content = proto.SerializeToString()
    parity = _parity(session(content), validation, logits / model.temperature)
    abstention = _abstention(logits / model.temperature, validation.targets, trained.recipe.coverage)
    meta = BundleMeta(
        name=name,
        labels=trained.labels,
        geometry=trained.geometry,
        mean=trained.mean,
        std=trained.std,
        temperature=model.temperature,
        abstention=abstention,
        opset=OPSET,
        parity=parity,
        lineage=lineage,
    )
    golden = golden_inputs(validation, len(trained.labels), trained.geometry.size)
    files = {
        MODEL: content,
        WEIGHTS: save(model.backbone.state_dict()),
        CARD: card.render(meta, trained.settled, dataset).encode(),
        GOLDEN_INPUTS: _npy(golden),
        GOLDEN_OUTPUTS: _npy(run(session(content, threads=1), golden)),
    }
    return Bundle.create(folder, meta, files)


def to_onnx(model: Servable, size: int) -> onnx.ModelProto:
    """The model as one ONNX graph, with nothing in it of the machine that made it.

    Args:
        model: in eval mode.
        size: height and width of its images, in pixels; the number of images stays free.

    Raises:
        BundleError: torch cannot export it, or what it exported is not portable.
    """
    name = type(model.backbone).__name__
    if sum(t.nbytes for t in model.state_dict().values()) > MAX_WEIGHT_BYTES:
        raise BundleError(
            f"{name}: more than 2 GiB of weights, which one ONNX file cannot hold; use a smaller backbone"
        )
    # Two images: torch takes a dimension of one as fixed.
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    try:
        with _silence():
            program: Any = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                external_data=False,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("n")},),
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise BundleError(f"{name}: torch cannot export it to ONNX: {str(error).splitlines()[0]}") from None
    proto: onnx.ModelProto = program.model_proto
    _strip(proto)
    _check_portable(proto, name)
    return proto


def golden_inputs(subset: "Subset", classes: int, size: int) -> NDArray[np.uint8]:
    """Images uint8 [n, size, size, 3] to recognise a model by: a few of the split, the classes in turn, and a pattern.

    The pattern has gradients and noise, so it notices channels that are swapped and axes that are turned.
    """
    by_class = [np.flatnonzero(subset.targets == index) for index in range(classes)]
    in_turn = sorted(
        (place, index, int(row))
        for index, rows in enumerate(by_class)
        for place, row in enumerate(rows[:GOLDEN_PHOTOS])
    )
    photos = subset.read(np.array([row for _, _, row in in_turn[:GOLDEN_PHOTOS]], dtype=np.int64))
    ramp = np.linspace(0, 255, size).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (size, size), dtype=np.uint8)
    pattern = np.stack([*np.meshgrid(ramp, ramp), noise], axis=-1)
    return np.concatenate([photos, pattern[np.newaxis]])


def _check_same_data(trained: "Trained", dataset: "Dataset", lineage: Lineage) -> None:
    told_by = {
        "data digest": (trained.data_digest, dataset.digest, lineage.data_digest),
        "split digest": (trained.split_digest, dataset.split_digest, lineage.split_digest),
        "labels' digest": (digests.of_json(trained.labels), digests.of_json(dataset.labels)),
    }
    for what, values in told_by.items():
        if len(set(values)) > 1:
            raise BundleError(
                f"{trained.folder}: the {what} of training, data set and lineage differ ({', '.join(values)}); "
                "export with the data set it was trained on"
            )


def _backbone(trained: "Trained") -> torch.nn.Module:
    backbone: torch.nn.Module = backbones.build(
        trained.backbone, len(trained.labels), dropout=trained.recipe.dropout, image_size=trained.geometry.size
    )
    path = trained.folder / WEIGHTS
    try:
        content = path.read_bytes()
        if digests.of_bytes(content) != trained.weights_digest:
            raise BundleError(f"{path}: changed since it was trained; train again")
        backbone.load_state_dict(load(content), strict=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise BundleError(f"{path}: no weights of {trained.backbone}: {reason}; train again") from None
    return backbone.float().eval()


def _batches(subset: "Subset", stage: str) -> Iterator[tuple[slice, NDArray[np.uint8]]]:
    with console.progress(stage, len(subset), "images") as advance:
        for start in range(0, len(subset), MAX_BATCH):
            rows = np.arange(start, min(start + MAX_BATCH, len(subset)))
            yield slice(start, start + len(rows)), subset.read(rows)
            advance(len(rows))


def _logits(model: Servable, subset: "Subset") -> NDArray[np.float32]:
    """Logits float32 [n, classes] of a split, by torch."""
    if not len(subset):
        raise BundleError("the validation split is empty: nothing to calibrate and compare on; give it a larger share")
    with torch.inference_mode():
        parts = [model.logits(torch.from_numpy(pixels)).numpy() for _, pixels in _batches(subset, "calibrate")]
    logits: NDArray[np.float32] = np.concatenate(parts)
    if not np.isfinite(logits).all():
        raise BundleError("the trained model's logits are not finite on the validation split; lower the learning rate")
    return logits


def _temperature(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> float:
    temperature = fit_temperature(logits, targets)
    if temperature in TEMPERATURES:
        console.warn(
            "export", f"temperature {temperature} is at its bound: do not take the probabilities at their word"
        )
    return temperature


def _abstention(scaled: NDArray[np.float32], targets: NDArray[np.int64], coverage: float) -> Abstention:
    fitted = fit_abstention(torch.softmax(torch.from_numpy(scaled), dim=1).numpy(), targets, coverage)
    if fitted.threshold == 0 and scaled.shape[1] > 1:
        console.warn(
            "export",
            f"the model will abstain from every image: {len(targets):,} validation images give a threshold of 0 for a "
            f"coverage of {coverage:g}; give validation more images, or lower recipe.coverage",
        )
    return fitted


def _parity(model: ort.InferenceSession, subset: "Subset", scaled: NDArray[np.float32]) -> Parity:
    """Compare the ONNX model with torch's logits / temperature, and refuse a model that differs."""
    tally = _Tally()
    for rows, pixels in _batches(subset, "compare"):
        tally.add(run(model, pixels), torch.softmax(torch.from_numpy(scaled[rows]), dim=1).numpy())
    if tally.disagreements or tally.difference > MAX_DIFFERENCE:
        raise BundleError(
            f"{MODEL}: differs from torch on the validation split: another label on {tally.disagreements} of "
            f"{tally.images} images, probabilities by up to {tally.difference:.1e} (at most {MAX_DIFFERENCE:.0e}); "
            "this backbone does not survive the export"
        )
    return tally.parity()


@dataclass
class _Tally:
    images: int = 0
    near_ties: int = 0
    disagreements: int = 0
    difference: float = 0.0

    def add(self, onnx_probabilities: NDArray[np.float32], torch_probabilities: NDArray[np.float32]) -> None:
        clear = _lead(torch_probabilities) >= NEAR_TIE
        other = onnx_probabilities.argmax(axis=1) != torch_probabilities.argmax(axis=1)
        self.images += len(clear)
        self.near_ties += int((~clear).sum())
        self.disagreements += int((clear & other).sum())
        self.difference = max(self.difference, float(np.abs(onnx_probabilities - torch_probabilities).max()))

    def parity(self) -> Parity:
        clear = self.images - self.near_ties
        return Parity(
            max_abs_difference=_round_up(self.difference),
            top1_agreement=1.0 - self.disagreements / clear if clear else 1.0,
            images=self.images,
            near_ties=self.near_ties,
        )


def _lead(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """By how much the highest probability of each row is ahead of the next; 1 where there is but one class."""
    if probabilities.shape[1] == 1:
        return np.ones(len(probabilities), np.float32)
    top = np.partition(probabilities, -2, axis=1)[:, -2:]
    lead: NDArray[np.float32] = top[:, 1] - top[:, 0]
    return lead


def _round_up(value: float) -> float:
    """The next number with one significant digit: the others are rounding noise, which differs between processors."""
    if value == 0:
        return 0.0
    digits = -math.floor(math.log10(value))
    return float(f"{math.ceil(value * 10**digits) / 10**digits:.0e}")


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


@contextmanager
def _silence() -> Iterator[None]:
    """The exporter reports on its own insides, by warnings and logs; its errors are raised all the same."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _strip(message: Any) -> None:
    """Drop the comments of a protobuf message and all below it: stack traces, file names, the exporter's notes."""
    for field, value in message.ListFields():
        if field.name in ("metadata_props", "doc_string"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for child in value if field.is_repeated else (value,):
                _strip(child)


def _check_portable(proto: onnx.ModelProto, name: str) -> None:
    """Refuse what another runtime could not load: foreign operators, functions, weights in other files."""
    onnx.checker.check_model(proto, full_check=True)
    domains = {node.domain for node in proto.graph.node} | {opset.domain for opset in proto.opset_import}
    external = [t.name for t in proto.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    if domains - {"", "ai.onnx"} or proto.functions or external:
        raise BundleError(f"{name}: its ONNX has operators of {sorted(domains)} or weights elsewhere: not portable")
