"""The golden images as files, with the answers that a service must give: how a release is told from a wrong one.

They are the bundle's golden inputs, which have the model's own size, so that decoding and resizing leave them as they
are. A service can be checked with them by whoever has no bundle and no model at hand.
"""

import json
from base64 import b64decode, b64encode
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from assay import digests
from assay.errors import BundleError
from assay.models.bundle import Bundle
from assay.release.endpoint import Answer, Endpoint, Unreachable

MAX_IMAGES = 8
MAX_BYTES = 700_000
"""With its images in base 64, it must fit into a ConfigMap (1 MiB)."""
TOP = 5
"""Probabilities that are compared, the largest ones."""
TOLERANCE = 1e-3
"""Largest absolute difference of a probability. The service itself has reproduced all outputs before it was ready, to
1e-4 with ONNX Runtime; what is sent is rounded, and bfloat16 is less exact (`serving.runtimes`)."""
BFLOAT16_TOLERANCE = 3e-2


@dataclass(frozen=True)
class Example:
    """One image, and what must be said of it."""

    image: bytes
    """PNG."""
    probabilities: dict[str, float]
    """Of the `TOP` most probable labels."""


@dataclass(frozen=True)
class Golden:
    """The examples of one bundle."""

    bundle_digest: str
    examples: tuple[Example, ...]

    @classmethod
    def of(cls, bundle: Bundle) -> "Golden":
        """The first golden inputs of a bundle, as many as may be kept.

        Raises:
            BundleError: not even one is small enough.
        """
        inputs, outputs = bundle.golden()
        examples: list[Example] = []
        left = MAX_BYTES
        for pixels, row in zip(inputs[:MAX_IMAGES], outputs, strict=False):
            image = _png(pixels)
            left -= len(image) * 4 // 3
            if left < 0:
                break
            best = np.argsort(-row, kind="stable")[:TOP]
            examples.append(Example(image, {bundle.meta.labels[i]: float(row[i]) for i in best}))
        if not examples:
            raise BundleError(f"{bundle.folder}: its golden images have more than {MAX_BYTES:,} bytes each")
        return cls(bundle.digest, tuple(examples))

    @classmethod
    def decode(cls, data: bytes, digest: str) -> "Golden":
        """What `encode` gave.

        Raises:
            BundleError: the bytes have another digest.
        """
        if digests.of_bytes(data) != digest:
            raise BundleError(f"golden images: have digest {digests.of_bytes(data)[:12]}, expected {digest[:12]}")
        found = json.loads(data)
        examples = tuple(Example(b64decode(e["image"]), e["probabilities"]) for e in found["examples"])
        return cls(found["bundle_digest"], examples)

    def encode(self) -> bytes:
        """Canonical JSON."""
        examples = [{"image": b64encode(e.image).decode(), "probabilities": e.probabilities} for e in self.examples]
        return json.dumps({"bundle_digest": self.bundle_digest, "examples": examples}, sort_keys=True).encode()

    @property
    def digest(self) -> str:
        """SHA-256 of `encode`."""
        return digests.of_bytes(self.encode())


def tolerance_of(runtime: str) -> float:
    """The difference of a probability that is rounding, by what a service says that it computes with."""
    return BFLOAT16_TOLERANCE if "bf16" in runtime else TOLERANCE


def problem_of(endpoint: Endpoint, example: Example, bundle_digest: str, tolerance: float = TOLERANCE) -> str | None:
    """What is wrong with the answer to a golden image; None if nothing is.

    Raises:
        Unreachable: there is no answer.
    """
    answer = endpoint.send("POST", "/v1/predict?top_k=100000", example.image)
    if answer.status != 200:
        return f"answered {answer.status}: {_message(answer)}"
    said = answer.content()
    return _difference(said, example, bundle_digest, tolerance)


def _difference(said: dict[str, Any], example: Example, bundle_digest: str, tolerance: float) -> str | None:
    try:
        answering, probabilities = said["model"]["digest"], said["probabilities"]
        apart = max(abs(p - probabilities.get(label, -1.0)) for label, p in example.probabilities.items())
    except (KeyError, TypeError, AttributeError):
        return f"gave an answer of another kind: {str(said)[:80]}"
    if answering != bundle_digest:
        return f"was answered by bundle {str(answering)[:12]} instead of {bundle_digest[:12]}"
    if not apart <= tolerance:
        return f"gave a probability for a golden image that is {apart:.1e} away from the expected one"
    return None


def _message(answer: Answer) -> str:
    try:
        return str(answer.content()["error"]["message"])[:200]
    except (Unreachable, KeyError, TypeError):
        return repr(answer.body[:80])


def _png(pixels: np.ndarray) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
