"""The bundle: the folder that passes from training to serving, and whose digest is its identity.

It holds exactly `FILES`, and beside them perhaps `run.json`. `bundle.json` lists the SHA-256 of every other file and
seals itself, so a byte that changed is found and the file it is in is named. Reading one needs neither torch nor onnx.
"""

import io
import json
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from assay import digests
from assay.errors import BundleError
from assay.models.abstention import Abstention
from assay.preprocess import VERSION as PREPROCESS_VERSION
from assay.preprocess import Geometry

FORMAT = 1
MODEL, META, WEIGHTS, CARD = "model.onnx", "bundle.json", "weights.safetensors", "card.md"
GOLDEN_INPUTS, GOLDEN_OUTPUTS = "golden_inputs.npy", "golden_outputs.npy"
RUN = "run.json"
CONTENTS = frozenset({MODEL, WEIGHTS, CARD, GOLDEN_INPUTS, GOLDEN_OUTPUTS})
"""The files whose digests `bundle.json` lists."""
FILES = CONTENTS | {META}
"""The files that the bundle's digest covers."""
MAX_META_BYTES = 16 * 2**20
"""`bundle.json` of 10,000 classes with long names has under 3 MiB; a larger file is not read."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Label = Annotated[str, Field(min_length=1, max_length=1000)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Lineage(_Record):
    """What a bundle was made from."""

    git_commit: str
    """Commit of the checkout, `unknown` outside of one."""
    git_dirty: bool
    """Whether the checkout had changes that are in no commit."""
    data_digest: str
    split_digest: str
    config_digest: str
    versions: dict[str, str]
    """Package name to version, `python` among them."""


class Parity(_Record):
    """How the ONNX model compares with the torch model on the validation split."""

    max_abs_difference: float = Field(ge=0)
    """Largest absolute difference of a probability."""
    top1_agreement: Share
    """Share of the images, near ties apart, that get the same label."""
    images: int = Field(ge=0)
    near_ties: int = Field(0, ge=0)
    """Images left out of the agreement: torch's two highest probabilities are closer than a rounding error matters."""


class BundleMeta(_Record):
    """What `bundle.json` says about the model."""

    format: Literal[1] = 1
    name: str = Field(min_length=1, max_length=200)
    """The use case."""
    labels: tuple[Label, ...] = Field(min_length=1)
    """Class names; the index is that of the model's output."""
    geometry: Geometry
    preprocess: int = PREPROCESS_VERSION
    """Version of `assay.preprocess` that decoded the training data."""
    mean: tuple[float, float, float]
    """Of pixels / 255, by RGB channel: in the graph, kept here for those who train on from the weights."""
    std: tuple[Positive, Positive, Positive]
    temperature: Positive
    """What the logits are divided by in the graph."""
    thresholds: dict[str, Share] = {}
    """Label to the probability from which it is given; none: the most probable label is."""
    abstention: Abstention | None = None
    """When the model gives no answer; None: it always gives one."""
    opset: int = Field(ge=1)
    parity: Parity
    lineage: Lineage

    @model_validator(mode="after")
    def _labels_are_one_each(self) -> Self:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("a label stands twice in labels")
        if strangers := set(self.thresholds) - set(self.labels):
            raise ValueError(f"thresholds name {sorted(strangers)}, which are no labels")
        if self.geometry.size < 1:
            raise ValueError("geometry.size must be at least 1")
        return self


class _Document(_Record):
    """`bundle.json`: the seal is the digest of the rest."""

    meta: BundleMeta
    files: dict[str, Sha256]
    seal: Sha256


@dataclass(frozen=True)
class Bundle:
    """A bundle whose every byte has been checked; made by `load` and `create`."""

    folder: Path
    meta: BundleMeta
    files: Mapping[str, str]
    """Name to SHA-256 of each file, `bundle.json` among them."""

    @classmethod
    def load(cls, folder: Path, expected_digest: str | None = None) -> "Bundle":
        """Open a bundle and check all of it.

        Args:
            folder: the bundle's folder.
            expected_digest: the identity it must have; only this guards against one that was altered on purpose.

        Raises:
            BundleError: not exactly the files of a bundle, an unknown format, a byte that changed, another identity.
        """
        _check_names(folder)
        document, meta_digest = _read_document(folder / META)
        for name, digest in sorted(document.files.items()):
            if _digest(folder / name) != digest:
                raise BundleError(f"{folder / name}: altered or damaged (digest differs from {META}); fetch it again")
        bundle = cls(folder, document.meta, {**document.files, META: meta_digest})
        if expected_digest is not None and bundle.digest != expected_digest:
            raise BundleError(f"{folder}: is bundle {bundle.digest}, expected {expected_digest}; fetch the right one")
        return bundle

    @classmethod
    def create(cls, folder: Path, meta: BundleMeta, files: Mapping[str, bytes]) -> "Bundle":
        """Write a bundle whole or not at all; a bundle that stands at `folder` is replaced.

        Args:
            folder: where it will stand.
            meta: what `bundle.json` shall say.
            files: content of each of `CONTENTS`.

        Raises:
            BundleError: other files than `CONTENTS`, `folder` holds something that is no bundle, or it cannot be
                written.
        """
        if set(files) != CONTENTS:
            raise BundleError(f"{folder}: a bundle is made of {sorted(CONTENTS)}, given: {sorted(files)}")
        with _staged(folder) as staging:
            for name, content in files.items():
                (staging / name).write_bytes(content)
            (staging / META).write_bytes(_sealed(meta, {name: digests.of_bytes(files[name]) for name in files}))
            loaded = cls.load(staging)
        return cls(folder, loaded.meta, loaded.files)

    @property
    def digest(self) -> str:
        """The identity: as `digests.of_files` over all files but `run.json`."""
        return digests.of_json([[name, digest] for name, digest in sorted(self.files.items())])

    def read(self, name: str) -> bytes:
        """Content of one file, checked once more: it may have changed since the bundle was loaded.

        Raises:
            BundleError: it cannot be read, or its digest differs.
        """
        try:
            content = (self.folder / name).read_bytes()
        except OSError as error:
            raise BundleError(f"{self.folder / name}: {error.strerror or error}; fetch the bundle again") from None
        if digests.of_bytes(content) != self.files[name]:
            raise BundleError(f"{self.folder / name}: changed since the bundle was loaded; fetch the bundle again")
        return content

    def golden(self) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Inputs uint8 [n, size, size, 3] and the probabilities float32 [n, classes] that the model gave for them.

        Raises:
            BundleError: they are not of these shapes and types.
        """
        inputs = self._array(GOLDEN_INPUTS, np.dtype(np.uint8), (self.meta.geometry.size, self.meta.geometry.size, 3))
        outputs = self._array(GOLDEN_OUTPUTS, np.dtype(np.float32), (len(self.meta.labels),))
        if not len(inputs) or len(inputs) != len(outputs):
            raise BundleError(f"{self.folder}: {len(inputs)} golden inputs and {len(outputs)} outputs; export it again")
        return inputs, outputs

    def _array(self, name: str, dtype: np.dtype[Any], row: tuple[int, ...]) -> NDArray[Any]:
        try:
            array: NDArray[Any] = np.load(io.BytesIO(self.read(name)), allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise BundleError(f"{self.folder / name}: not an array: {error}; export the bundle again") from None
        if array.dtype != dtype or array.shape[1:] != row:
            expected = f"{dtype} [n, {', '.join(map(str, row))}]"
            given = f"{array.dtype} {list(array.shape)}"
            raise BundleError(f"{self.folder / name}: is {given}, must be {expected}; export the bundle again")
        return array


def write_run(folder: Path, ids: Mapping[str, str]) -> None:
    """Write `run.json` beside a bundle's files: the run ids given, and `created`, the time now (UTC, ISO 8601).

    It is the one file that the digest leaves out, for it differs between two runs that make the same bundle.

    Raises:
        BundleError: it cannot be written.
    """
    content = {**ids, "created": datetime.now(UTC).isoformat(timespec="seconds")}
    # In the parent folder: a temporary name inside the bundle would be a stranger there if the process died.
    temporary = folder.parent / f".{folder.name}.{RUN}.{os.getpid()}"
    try:
        temporary.write_bytes(_render(content))
        temporary.replace(folder / RUN)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise BundleError(f"{folder / RUN}: {error.strerror or error}") from None


def _check_names(folder: Path) -> None:
    try:
        entries = {entry.name: entry for entry in os.scandir(folder)}
    except OSError as error:
        raise BundleError(f"{folder}: {error.strerror or error}; give the folder of a bundle") from None
    if missing := FILES - set(entries):
        raise BundleError(f"{folder}: {', '.join(sorted(missing))} missing; give the folder of a whole bundle")
    if strangers := set(entries) - FILES - {RUN}:
        raise BundleError(f"{folder}: {', '.join(sorted(strangers))} does not belong in a bundle; fetch it again")
    for name, entry in sorted(entries.items()):
        if not stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode):
            raise BundleError(f"{folder / name}: not a regular file; fetch the bundle again")


def _read_document(path: Path) -> tuple[_Document, str]:
    """The content of `bundle.json`, and the digest of its bytes."""
    raw = _read_small(path)
    try:
        value = json.loads(raw)
        if value["meta"]["format"] != FORMAT:
            raise BundleError(f"{path}: format {value['meta']['format']}, this Assay reads {FORMAT}; use a newer Assay")
        document = _Document.model_validate_json(raw)
        # Also catches what JSON readers let pass: doubled keys, spaces, 1e0 for 1.0.
        intact = _sealed(document.meta, document.files) == raw and set(document.files) == CONTENTS
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BundleError(f"{path}: {where}: {first['msg']}; export the bundle again") from None
    except (ValueError, TypeError, KeyError, RecursionError):
        raise BundleError(f"{path}: does not describe a bundle; fetch it again") from None
    if not intact:
        raise BundleError(f"{path}: altered or damaged (its seal does not match); fetch it again")
    return document, digests.of_bytes(raw)


def _read_small(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_META_BYTES + 1)
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror or error}") from None
    if len(raw) > MAX_META_BYTES:
        raise BundleError(f"{path}: larger than {MAX_META_BYTES} bytes, which no bundle needs; fetch it again")
    return raw


def _sealed(meta: BundleMeta, files: Mapping[str, str]) -> bytes:
    # A bundle that never abstains does not say so: one that was sealed without the field keeps its seal.
    without = {"abstention"} if meta.abstention is None else None
    body = {"meta": meta.model_dump(mode="json", exclude=without), "files": dict(files)}
    return _render({**body, "seal": digests.of_json(body)})


def _render(value: Any) -> bytes:
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


def _digest(path: Path) -> str:
    try:
        return digests.of_file(path)
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror or error}; fetch the bundle again") from None


@contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` that takes its place when the block ends well, and is gone when it does not."""
    _check_replaceable(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
            staging = Path(scratch, "new")
            staging.mkdir()
            yield staging
            _swap(staging, folder, Path(scratch, "old"))
    except OSError as error:
        raise BundleError(f"{folder}: cannot be written: {error.strerror or error}") from None


def _swap(new: Path, folder: Path, old: Path) -> None:
    """Move `folder` to `old` and `new` to `folder`: a folder that is not empty cannot be replaced in one move."""
    if folder.exists():
        folder.replace(old)
    try:
        new.replace(folder)
    except BaseException:
        if old.exists():
            old.replace(folder)
        raise


def _check_replaceable(folder: Path) -> None:
    """Refuse to replace what is no bundle, for it may be somebody's only copy."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise BundleError(f"{folder}: exists and is no folder; give another place for the bundle")
    strangers = {path.name for path in folder.iterdir()} - FILES - {RUN} if folder.exists() else set()
    if strangers:
        raise BundleError(f"{folder}: holds {sorted(strangers)[0]}, which is no part of a bundle; give another place")
