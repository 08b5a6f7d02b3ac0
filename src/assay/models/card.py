"""The model card of a bundle, in Markdown, for a person who was not there.

Mitchell et al., "Model Cards for Model Reporting", FAT* 2019, gives the sections. It names no machine and no moment,
so that the same inputs give the same bundle.
"""

import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from assay.config import Recipe
from assay.models.bundle import BundleMeta

if TYPE_CHECKING:
    from assay.data.dataset import Dataset

SPLITS = ("train", "validation", "test")
MAX_ROWS = 100
"""A table of more classes than this ends with how many there are besides."""

FITS = {
    "squash": "stretched to a square",
    "crop": "cut to the central square",
    "pad": "filled up with black to a square",
}


def render(meta: BundleMeta, recipe: Recipe, dataset: "Dataset") -> str:
    """The card's Markdown."""
    sections = {
        "Model details": _details(meta, recipe),
        "Intended use": _use(meta),
        "Factors": _FACTORS,
        "Metrics": _METRICS,
        "Evaluation data": _evaluation_data(meta),
        "Training data": _training_data(meta, dataset),
        "Quantitative analyses": _analyses(meta),
        "Ethical considerations": _ETHICS,
        "Caveats and recommendations": _caveats(meta),
        "Recipe": _table(("Setting", "Value"), _recipe_rows(recipe)),
        "Lineage": _table(("What", "Which"), _lineage_rows(meta)),
    }
    body = "\n\n".join(f"## {title}\n\n{text.strip()}" for title, text in sections.items())
    return f"# {_text(meta.name)}\n\n{body}\n"


def public_source(uri: str) -> str:
    """A source's URI without what only this machine or its owner should know.

    Of a local path the last name stays; of other URIs all but user names, passwords and, unless the data is synthetic,
    the query.
    """
    parts = urlsplit(uri)
    if parts.scheme == "synthetic":
        return uri
    if parts.scheme in ("", "file") or len(parts.scheme) == 1:  # one letter is a drive
        return PurePath(re.sub(r"[\\/]+", "/", parts.path)).name or "."
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


_FACTORS = """
The evaluation report breaks its figures down by class. Nothing else is known here that the images differ by (camera,
light, place, season): where such a factor matters, give it as `group` or measure it apart.
"""

_METRICS = """
They are measured after the export, on the test split, and stand in the evaluation report that the registry keeps beside
this model: accuracy, balanced accuracy, precision, recall and F1 of each class, AUROC and expected calibration error,
each with its confidence interval.
"""

_ETHICS = """
Images are stored as they were given: if people, homes or number plates are on them, they may also be on the golden
inputs in this bundle (`golden_inputs.npy`), which go wherever the model goes.
"""


def _details(meta: BundleMeta, recipe: Recipe) -> str:
    size, fit = meta.geometry.size, FITS[meta.geometry.fit]
    rows = [
        ("Task", f"image classification, {len(meta.labels)} classes"),
        ("Labels", _some(meta.labels)),
        ("Backbone", f"`{recipe.backbone}` (timm), started from {_weights(recipe)}"),
        ("Input", f"RGB image, {fit}, {size} x {size} pixels, uint8; normalisation is in the graph"),
        ("Output", f"a probability for each label: softmax of the logits over temperature {meta.temperature:g}"),
        ("Abstention", _abstention(meta)),
        ("Format", f"ONNX, opset {meta.opset}; bundle format {meta.format}"),
    ]
    return _table(("What", "Which"), rows)


def _use(meta: BundleMeta) -> str:
    habit = (
        "always answers with one of them, also for" if meta.abstention is None else "may answer with one of them for"
    )
    return f"""
To tell which of its {len(meta.labels)} labels an image like those of the training data belongs to. It {habit} an image
that shows none. It was not made to decide alone where a mistake does harm: there, a person looks at what it says.
"""


def _abstention(meta: BundleMeta) -> str:
    fitted = meta.abstention
    if fitted is None:
        return "none: it always answers"
    return (
        f"no answer unless exactly one label has a probability of {fitted.threshold:g} or more (split conformal "
        f"prediction, fitted on the validation split for a coverage of {fitted.coverage:g})"
    )


def _evaluation_data(meta: BundleMeta) -> str:
    return f"""
The test split of the same source (split digest `{meta.lineage.split_digest[:12]}`), which neither training, calibration
nor the choice of the checkpoint has seen; images of one group are never in two splits. It says how the model does on
more of the same images, not on those of another site or camera.
"""


def _training_data(meta: BundleMeta, dataset: "Dataset") -> str:
    text = f"Source `{_code(public_source(dataset.source))}`, data digest `{meta.lineage.data_digest[:12]}`."
    left_out = dataset.manifest.num_rows - dataset.usable.num_rows
    if left_out:
        text += f" {left_out:,} images were quarantined and not used."
    return f"{text} Images by class and split:\n\n{_table(('Label', *SPLITS), _count_rows(dataset))}"


def _count_rows(dataset: "Dataset") -> list[tuple[str, ...]]:
    grouped = dataset.usable.group_by(["label", "split"]).aggregate([([], "count_all")]).to_pylist()
    counts = {(row["label"], row["split"]): row["count_all"] for row in grouped}
    rows = [(label, *(f"{counts.get((label, split), 0):,}" for split in SPLITS)) for label in dataset.labels[:MAX_ROWS]]
    if len(dataset.labels) > MAX_ROWS:
        rows.append((f"and {len(dataset.labels) - MAX_ROWS:,} more", "", "", ""))
    totals = (sum(n for (_, of), n in counts.items() if of == split) for split in SPLITS)
    return [*rows, ("all", *(f"{total:,}" for total in totals))]


def _analyses(meta: BundleMeta) -> str:
    parity = meta.parity
    return f"""
Before this bundle was written, its ONNX model was compared with the torch model on the {parity.images:,} images of the
validation split: the same label on {parity.top1_agreement:.2%} ({parity.near_ties:,} near ties left out),
probabilities at most {parity.max_abs_difference:.0e} apart.
"""


def _caveats(meta: BundleMeta) -> str:
    calibrated = """
The probabilities are calibrated by one temperature, fitted on the validation split: they hold for images like those,
and not for others. Watch what the model is shown in service, and train again when it changes.
"""
    dirty = "\nThe checkout had changes that are in no commit: the commit below does not make this model again.\n"
    return calibrated + (dirty if meta.lineage.git_dirty else "")


def _weights(recipe: Recipe) -> str:
    known = {"none": "random weights", "hub": "timm's pretrained weights", "offline": "EfficientNet-Lite0's weights"}
    return known.get(recipe.weights, f"`{_code(public_source(recipe.weights))}`")


def _recipe_rows(recipe: Recipe) -> list[tuple[str, ...]]:
    values = {**recipe.model_dump(mode="json"), "weights": public_source(recipe.weights)}
    return [(name, _plain(value)) for name, value in values.items()]


def _lineage_rows(meta: BundleMeta) -> list[tuple[str, ...]]:
    lineage = meta.lineage
    return [
        ("git commit", lineage.git_commit + (" (with changes)" if lineage.git_dirty else "")),
        ("data digest", lineage.data_digest),
        ("split digest", lineage.split_digest),
        ("config digest", lineage.config_digest),
        *sorted(lineage.versions.items()),
    ]


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_plain(item) for item in value) or "none"
    if isinstance(value, dict):
        return "; ".join(f"{key} {_plain(item)}".strip() for key, item in value.items())
    return "not set" if value is None else str(value)


def _some(labels: tuple[str, ...]) -> str:
    shown = ", ".join(labels[:MAX_ROWS])
    return shown if len(labels) <= MAX_ROWS else f"{shown} and {len(labels) - MAX_ROWS:,} more"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *(tuple(_cell(cell) for cell in row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return _text(text).replace("|", "\\|")


def _text(text: str) -> str:
    """`text` on one line, and no HTML: labels are whatever somebody called a folder."""
    return " ".join(text.split()).replace("<", "&lt;")


def _code(text: str) -> str:
    return _text(text).replace("`", "'")
