"""Slices: the parts of a test split on which a model could fail unseen, each by one attribute of an image."""

from collections.abc import Collection
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from assay.config import Slice, Slices
from assay.errors import ConfigError

ATTRIBUTES = pa.schema(
    [
        ("uri", pa.string()),
        ("given_group", pa.string()),  # null where the source gives none
        ("brightness", pa.float32()),  # mean luminance of the stored pixels, 0 black to 1 white
        ("contrast", pa.float32()),  # its standard deviation
        ("width", pa.int32()),  # of the original, in pixels
        ("height", pa.int32()),
        ("shorter_side", pa.int32()),
        ("aspect_ratio", pa.float32()),  # longer side over shorter, 1 or more
        ("scale", pa.float32()),  # stored pixels to one of the original; more than 1 where it was enlarged
        ("bytes", pa.int64()),  # of the file
        ("mode", pa.string()),
        ("format", pa.string()),
        ("sharpness", pa.float32()),  # see `attributes.sharpness`; NaN where the image has one luminance
        ("stroke_width", pa.float32()),  # see `attributes.stroke_width`; NaN where there is no dark line
    ]
)
"""What is known of each test image; every column can be a slice's."""

KNOWN: dict[str, Slice] = {
    part.name: part
    for part in (
        Slice(name="dark", column="brightness", below=0.25),
        Slice(name="bright", column="brightness", above=0.75),
        Slice(name="low_contrast", column="contrast", below=0.05),
        Slice(name="small", column="scale", above=1.0),
        Slice(name="blurred", column="sharpness", below=0.05),
        Slice(name="elongated", column="aspect_ratio", above=2.0),
        Slice(name="thin_crack", column="stroke_width", below=2.0),
    )
}
"""Slices that a policy can name, by bounds that do not depend on the data.

`low_contrast` is a standard deviation under 13 of 256 levels. `blurred` is what a blur of two stored pixels (standard
deviation) leaves of a textured surface. `thin_crack` takes any thin dark line, whatever the label."""


def resolve(slices: Slices, columns: Collection[str]) -> tuple[Slice, ...]:
    """The slices of a policy, names looked up in `KNOWN`.

    Args:
        slices: of the policy.
        columns: what the table of attributes has.

    Raises:
        ConfigError: an unknown name or column, one name for two slices, or a condition that does not fit its column.
    """
    found = tuple(_named(item) if isinstance(item, str) else item for item in slices.of)
    for position, part in enumerate(found):
        _check(part, columns)
        if part.name in {other.name for other in found[:position]}:
            raise ConfigError(f"policy.slices: {part.name!r} stands twice; give each slice a name of its own")
    return found


def members(part: Slice, attributes: pa.Table, labels: Any) -> NDArray[np.bool_]:
    """Which images are in a slice: bool [n]. One whose attribute is missing or NaN never is.

    Args:
        part: the slice.
        attributes: `ATTRIBUTES`, n rows.
        labels: class name of each row, n strings.

    Raises:
        ConfigError: there is no such column, or the condition does not fit what it holds.
    """
    _check(part, attributes.column_names)
    column: Any = attributes[part.column]
    inside = _text(part, column) if pa.types.is_string(column.type) else _numeric(part, column)
    if part.label is None:
        return inside
    of_label: Any = pc.equal(pa.chunked_array([pa.array(labels, pa.string())]), part.label)
    both: NDArray[np.bool_] = inside & of_label.fill_null(False).to_numpy()
    return both


def _named(name: str) -> Slice:
    if name not in KNOWN:
        raise ConfigError(f"policy.slices: no slice is called {name!r}; known: {', '.join(KNOWN)}")
    return KNOWN[name]


def _check(part: Slice, columns: Collection[str]) -> None:
    where = f"policy.slices: {part.name!r}"
    if part.column not in columns:
        raise ConfigError(f"{where}: no column {part.column!r}; known: {', '.join(columns)}")
    if part.column not in ATTRIBUTES.names:
        return
    text = pa.types.is_string(ATTRIBUTES.field(part.column).type)
    if text and not isinstance(part.equals, str):
        raise ConfigError(f"{where}: {part.column} holds text; give `equals` and a text")
    if not text and isinstance(part.equals, str):
        raise ConfigError(f"{where}: {part.column} holds numbers; give a number")


def _text(part: Slice, column: Any) -> NDArray[np.bool_]:
    same: Any = pc.equal(column, pa.scalar(part.equals, pa.string()))
    found: NDArray[np.bool_] = same.fill_null(False).to_numpy()
    return found


def _numeric(part: Slice, column: Any) -> NDArray[np.bool_]:
    values = column.to_numpy()
    # A bound is rounded as the values are: what was stored as 0.1 is neither below nor above 0.1.
    rounded = values.dtype.type if np.issubdtype(values.dtype, np.floating) else float
    inside: NDArray[np.bool_] = ~np.isnan(values.astype(np.float64))
    if part.equals is not None:
        inside &= values == rounded(part.equals)
    if part.below is not None:
        inside &= values < rounded(part.below)
    if part.above is not None:
        inside &= values > rounded(part.above)
    return inside
