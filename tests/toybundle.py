"""A bundle whose model names the strongest colour: real, exact and made in a millisecond, without torch."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from assay.models.bundle import Bundle, BundleMeta, Lineage, Parity
from assay.preprocess import Geometry

SIZE = 4
LABELS = ("blue", "green", "red")


def model(classes: int = 3, size: int = SIZE, scale: float = 0.1, batch: str | int = "n") -> onnx.ModelProto:
    """Softmax of the mean of each channel, blue first; with more classes than channels the rest is nought."""
    weights = np.zeros((3, classes), np.float32)
    weights[[2, 1, 0], [0, 1, 2]] = scale
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["means"], keepdims=0),
        helper.make_node("MatMul", ["means", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, [batch, size, size, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [batch, classes])],
        [numpy_helper.from_array(np.array([1, 2]), "axes"), numpy_helper.from_array(weights, "weights")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def pixels(n: int, size: int = SIZE) -> np.ndarray:
    """uint8 [n, size, size, 3], the same for the same `n`."""
    return np.random.default_rng(n).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def expected(images: np.ndarray) -> np.ndarray:
    """What the model gives, by numpy: float32 [n, 3]."""
    odds = np.exp(0.1 * images.mean(axis=(1, 2))[:, ::-1])
    return (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)


def npy(array: np.ndarray) -> bytes:
    """An array as the bytes of an .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def toy_bundle(
    folder: Path,
    proto: bytes | None = None,
    golden: np.ndarray | None = None,
    card: bytes = b"",
    size: int = SIZE,
    **changes: Any,
) -> Bundle:
    """Write the bundle to `folder`; two `card`s make two digests."""
    values: dict[str, Any] = {
        "name": "colours",
        "labels": LABELS,
        "geometry": Geometry(size),
        "mean": (0.5, 0.5, 0.5),
        "std": (0.2, 0.2, 0.2),
        "temperature": 1.0,
        "opset": 20,
        "parity": Parity(max_abs_difference=0, top1_agreement=1.0, images=1),
        "lineage": Lineage(
            git_commit="unknown", git_dirty=False, data_digest="d", split_digest="s", config_digest="c", versions={}
        ),
    }
    files = {
        "model.onnx": model(size=size).SerializeToString() if proto is None else proto,
        "weights.safetensors": b"",
        "card.md": card,
        "golden_inputs.npy": npy(pixels(3, size)),
        "golden_outputs.npy": npy(expected(pixels(3, size)) if golden is None else golden),
    }
    return Bundle.create(folder, BundleMeta(**{**values, **changes}), files)


def colour_folder(root: Path, count: int = 40) -> Path:
    """A folder of class folders with pictures of 16 pixels that the toy bundle tells apart, `count` a class."""
    generator = np.random.default_rng(0)
    for label, colour in {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}.items():
        (root / label).mkdir(parents=True)
        for index in range(count):
            noise = generator.integers(-20, 20, (16, 16, 3))
            Image.fromarray((np.array(colour) + noise).astype(np.uint8)).save(root / label / f"{index}.png")
    return root
