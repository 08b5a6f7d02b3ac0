"""What a pull request does to the model: gathered where its code runs, and believed nowhere.

`Report` is made by the code of a pull request, so the job that shows it (`report.yml`, with a token that may write)
treats it as hostile: a bounded file, a schema that bounds every number and text, and nothing shown but as code.
"""

import os
import stat
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from assay.errors import DataError
from assay.gate.verdict import Decision

MAX_BYTES = 256 * 1024
NAME = "report.json"
IMAGES = "images.json"

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, le=10**10)]
Text = Annotated[str, Field(max_length=200)]
R = TypeVar("R", bound=BaseModel)
Word = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_.-]{0,62}$")]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class Rule(_Record):
    """A finding of the gate without its numbers: those of the test split are not for who tunes a model."""

    rule: Word
    subject: Text
    passed: bool


class Measured(_Record):
    """A metric of the validation split."""

    name: Word
    value: Share | None
    low: Share | None
    high: Share | None


class Data(_Record):
    """The data set that was trained on."""

    digest: Digest
    quarantined: Count
    counts: dict[Text, dict[Literal["train", "validation", "test"], Count]] = Field(max_length=50)
    """Images by label and split; of the first labels where there are many."""


class Report(_Record):
    """Of one training run."""

    format: Annotated[int, Field(ge=1, le=1)] = 1
    use_case: Word
    commit: Annotated[str, Field(pattern=r"^([0-9a-f]{40}|unknown)$")]
    bundle_digest: Digest
    decision: Decision
    rules: tuple[Rule, ...] = Field(max_length=200)
    metrics: tuple[Measured, ...] = Field(max_length=20)
    labels: tuple[Text, ...] = Field(max_length=100)
    confusion: tuple[tuple[Count, ...], ...] | None = Field(max_length=100)
    """Validation images by true class (row) and predicted class (column)."""
    data: Data

    @model_validator(mode="after")
    def _confusion_is_of_the_labels(self) -> Self:
        sides = {len(self.labels)}
        if self.confusion is not None and {len(self.confusion), *map(len, self.confusion)} != sides:
            raise ValueError("confusion must have a row and a column for each label")
        return self


class Image(_Record):
    """A container image that was built."""

    name: Word
    size: Count
    """Bytes, unpacked."""


class Images(_Record):
    """All of them."""

    format: Annotated[int, Field(ge=1, le=1)] = 1
    images: tuple[Image, ...] = Field(max_length=20)


def read_report(folder: Path) -> Report | None:
    """The report in a folder; None if there is none.

    Raises:
        DataError: what is there is no report.
    """
    content = _bounded(folder / NAME)
    return None if content is None else _parsed(Report, folder / NAME, content)


def read_images(folder: Path) -> Images | None:
    """The sizes in a folder; None if there are none.

    Raises:
        DataError: what is there is something else.
    """
    content = _bounded(folder / IMAGES)
    return None if content is None else _parsed(Images, folder / IMAGES, content)


def write(record: BaseModel, folder: Path, name: str) -> Path:
    """Store a report or sizes where `read_…` finds them; the path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return path


def _bounded(path: Path) -> bytes | None:
    """The bytes of a plain file that is not too long."""
    try:
        # A link would show the runner's files to everybody; a pipe would never end.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{path.name}: no plain file: {error.strerror}") from None
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise DataError(f"{path.name}: no plain file")
        content = os.read(handle, MAX_BYTES + 1)
    finally:
        os.close(handle)
    if len(content) > MAX_BYTES:
        raise DataError(f"{path.name}: longer than {MAX_BYTES:,} bytes")
    return content


def _parsed(kind: type[R], path: Path, content: bytes) -> R:
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        # Neither its own words nor its own keys: this line goes to a log and to the page of the run.
        raise DataError(f"{path.name}: not as it must be ({first['type']})") from None
