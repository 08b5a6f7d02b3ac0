"""The report of an evaluation: one HTML page for somebody who was not there, which loads nothing from anywhere."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from assay.config import Recipe
from assay.data.dataset import Dataset, Subset
from assay.data.manifest import SPLITS
from assay.evaluation import plots
from assay.evaluation.evidence import Evidence
from assay.evaluation.label_errors import Suspect
from assay.evaluation.metrics import ClassMetrics, Estimate, Metrics
from assay.evaluation.predictions import probabilities
from assay.gate.telling import DECIDED
from assay.gate.verdict import Finding, Verdict
from assay.gate.words import bound, decimals, percent, points
from assay.models.bundle import BundleMeta
from assay.models.card import public_source

MAX_PICTURES = 24
MAX_CLASSES = 20
"""Classes that a table lists, the worst first; a confusion matrix of more is a list of its largest cells instead."""
THUMBNAIL = 160
"""Longest side of a picture, in pixels."""

COMPARISONS = ("superior", "non_inferior")
"""Rules whose numbers are differences."""

NAMES = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "auroc": "AUROC",
    "calibration_error": "Calibration error",
}
HINTS = {
    "accuracy": "share of the test images that get their own label",
    "balanced_accuracy": "mean recall of the classes, each counting the same",
    "auroc": "how well the probabilities rank; 0.5 is chance, 1 is perfect",
    "calibration_error": "mean distance of confidence from how often it is right",
}


@dataclass(frozen=True)
class Inputs:
    """What a report is made from."""

    evidence: Evidence
    verdict: Verdict
    metrics: Metrics
    """Of the candidate, `metrics.measure(evidence.candidate, …)`."""
    dataset: Dataset
    """The one whose test split the evidence is about: pictures are taken from its shards."""
    bundle: BundleMeta
    """Of the candidate."""
    recipe: Recipe
    history: Sequence[Mapping[str, float]] = ()
    """Of the training, one mapping of names to values an epoch."""
    best_epoch: int | None = None
    """The epoch whose weights were kept, counted from 1."""
    champion_metrics: Metrics | None = None
    suspects: Sequence[Suspect] = ()
    """As `label_errors.suspects` gives them."""


@dataclass(frozen=True)
class Picture:
    """A thumbnail and what is said about it."""

    source: str
    """A data URI."""
    uri: str
    label: str
    label_probability: float
    predicted: str
    predicted_probability: float


def render(inputs: Inputs) -> str:
    """The page. The same inputs give the same page.

    Raises:
        DataError: a picture cannot be read from the shards.
    """
    template = _environment().get_template("report.html.j2")
    return template.render(
        inputs=inputs,
        meta=inputs.evidence.meta,
        verdict=inputs.verdict,
        metrics=inputs.metrics,
        meaning=DECIDED[inputs.verdict.decision],
        cards=_cards(inputs.metrics, inputs.champion_metrics),
        findings=[(finding, _strip(finding)) for finding in _measured_first(inputs.verdict.findings)],
        agreement=_agreement(inputs.evidence),
        worst=_worst(inputs.metrics.classes),
        matrix=_matrix(inputs.metrics),
        reliability=plots.reliability(inputs.metrics.reliability, _confidences(inputs.evidence)),
        curves=[plots.curves(inputs.history, name, inputs.best_epoch) for name in ("loss", "accuracy")],
        mistakes=_mistakes(inputs),
        suspects=_suspects(inputs),
        data=_data(inputs.dataset),
        recipe=inputs.recipe.model_dump(mode="json"),
    )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        estimate=estimate_text,
        interval=interval_text,
        percent=percent,
        bound=bound,
        finding=finding_text,
        setting=setting_text,
    )
    return environment


def estimate_text(estimate: Estimate, share: bool = True) -> str:
    """`97.8%`, or `0.9987` where it is no share; a dash where nothing was measured."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return "–"
    return percent(estimate.value, decimals(estimate.low, estimate.high)) if share else f"{estimate.value:.4f}"


def interval_text(estimate: Estimate, share: bool = True) -> str:
    """`96.0 – 98.9%`; nothing where nothing was measured."""
    if estimate.low is None or estimate.high is None:
        return ""
    if not share:
        return f"{estimate.low:.4f} – {estimate.high:.4f}"
    digits = decimals(estimate.low, estimate.high)
    return f"{100 * estimate.low:.{digits}f} – {percent(estimate.high, digits)}"


def finding_text(finding: Finding) -> dict[str, str]:
    """The numbers of a finding as text: measured, interval and bound; a comparison's are points with their sign."""
    if finding.measured is None or finding.low is None or finding.high is None or finding.bound is None:
        return {"measured": "", "interval": "", "bound": ""}
    digits = decimals(finding.low, finding.high, finding.bound)
    if finding.rule in COMPARISONS:
        return {
            "measured": points(finding.measured, digits),
            "interval": f"{points(finding.low, digits)} to {points(finding.high, digits)}",
            "bound": f"{'>' if finding.rule == 'superior' else '≥'} {points(finding.bound)}",
        }
    ends = f"{100 * finding.low:.{digits}f} – {percent(finding.high, digits)}"
    return {"measured": percent(finding.measured, digits), "interval": ends, "bound": _bound(finding, finding.bound)}


def _bound(finding: Finding, asked: float) -> str:
    if finding.rule == "slice":
        return f"not {points(asked)}" if asked < 0 else f"not < {bound(asked)}"
    return f"{'≤' if finding.rule == 'calibration' else '≥'} {bound(asked)}"


def setting_text(value: Any) -> str:
    """A value of a configuration as its YAML would have it, None as `none`."""
    if isinstance(value, bool | None):
        return {True: "yes", False: "no", None: "none"}[value]
    return str(value)


def _cards(metrics: Metrics, champion: Metrics | None) -> list[dict[str, Any]]:
    rivals = champion.headline() if champion else {}
    return [
        {"key": key, "name": NAMES[key], "hint": HINTS[key], "estimate": estimate, "rival": rivals.get(key)}
        for key, estimate in metrics.headline().items()
    ]


def _measured_first(findings: Sequence[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda finding: (finding.passed and finding.measured is None, finding.passed))


def _strip(finding: Finding) -> str:
    if finding.measured is None or finding.low is None or finding.high is None:
        return ""
    # A slice's drop is on another scale than its accuracy.
    line = None if finding.bound is None or (finding.bound < 0 and finding.rule not in COMPARISONS) else finding.bound
    return plots.interval(finding.low, finding.measured, finding.high, line, finding.passed)


def _agreement(evidence: Evidence) -> dict[str, int] | None:
    """On how many images both models, one, or none is right; None where they cannot be laid side by side."""
    champion = evidence.champion
    if champion is None or champion.num_rows != evidence.candidate.num_rows:
        return None
    ours, theirs = (_right(table) for table in (evidence.candidate, champion))
    cells = {"both": ours & theirs, "candidate": ours & ~theirs, "champion": ~ours & theirs, "none": ~ours & ~theirs}
    return {name: int(np.count_nonzero(cell)) for name, cell in cells.items()}


def _right(table: Any) -> NDArray[np.bool_]:
    right: NDArray[np.bool_] = pc.equal(table["label"], table["predicted"]).to_numpy()
    return right


def _worst(classes: Sequence[ClassMetrics]) -> list[ClassMetrics]:
    """Lowest recall first, classes without a test image last."""
    return sorted(classes, key=lambda c: (c.recall.value is None, c.recall.value, c.label))[:MAX_CLASSES]


def _matrix(metrics: Metrics) -> list[dict[str, Any]]:
    """Rows of the confusion matrix with each cell's share of its row, or nothing if there are too many classes."""
    if metrics.confusion is None or len(metrics.classes) > MAX_CLASSES:
        return []
    return [
        {"label": c.label, "total": sum(row), "cells": [{"count": n, "share": n / max(sum(row), 1)} for n in row]}
        for c, row in zip(metrics.classes, metrics.confusion, strict=True)
    ]


def _confidences(evidence: Evidence) -> list[float]:
    p = _probabilities(evidence)
    best: NDArray[np.float32] = p.max(axis=1)
    return [float(value) for value in best[np.isfinite(best)]]


def _probabilities(evidence: Evidence) -> NDArray[np.float32]:
    return probabilities(evidence.candidate, len(evidence.meta.labels))


def _mistakes(inputs: Inputs) -> list[Picture]:
    """The wrong answers that the model was surest of."""
    p = _probabilities(inputs.evidence)
    wrong = np.flatnonzero(~_right(inputs.evidence.candidate))
    surest = wrong[np.argsort(-p[wrong].max(axis=1), kind="stable")][:MAX_PICTURES] if len(wrong) else wrong
    rows = inputs.evidence.candidate.take(surest).to_pylist()
    place = {label: i for i, label in enumerate(inputs.evidence.meta.labels)}
    return [
        Picture(source, row["uri"], row["label"], row["p"][place[row["label"]]], row["predicted"], max(row["p"]))
        for source, row in zip(_thumbnails(inputs, surest), rows, strict=True)
    ]


def _suspects(inputs: Inputs) -> list[Picture]:
    shown = inputs.suspects[:MAX_PICTURES]
    rows = np.array([suspect.row for suspect in shown], np.int64)
    return [
        Picture(source, s.uri, s.label, s.label_probability, s.suggested, s.suggested_probability)
        for source, s in zip(_thumbnails(inputs, rows), shown, strict=True)
    ]


def _thumbnails(inputs: Inputs, rows: NDArray[np.int64]) -> list[str]:
    test: Subset = inputs.dataset.subset("test")
    return [_data_uri(pixels) for pixels in test.read(rows)] if len(rows) else []


def _data_uri(pixels: NDArray[np.uint8]) -> str:
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _data(dataset: Dataset) -> dict[str, Any]:
    manifest, usable = dataset.manifest, dataset.usable
    faulty = manifest.filter(pc.field("fault") != "")
    counts = _counts(usable, ("label", "split"))
    lost = _counts(faulty, ("label",))
    rows: list[dict[str, Any]] = [
        {
            "label": label,
            "splits": [counts.get((label, split), 0) for split in SPLITS],
            "quarantined": lost.get((label,), 0),
        }
        for label in dataset.labels
    ]
    groups = [n for (name,), n in _counts(usable, ("group",)).items() if n > 1 and name]
    smallest = sorted(rows, key=lambda row: sum(row["splits"]))[:MAX_CLASSES]
    return {
        "source": public_source(dataset.source),
        "rows": rows if len(rows) <= MAX_CLASSES else smallest,
        "classes": len(rows),
        "totals": [sum(column) for column in zip(*(row["splits"] for row in rows), strict=True)],
        "usable": usable.num_rows,
        "quarantined": faulty.num_rows,
        "reasons": _most(_counts(faulty, ("fault",)).items()),
        "groups": len(groups),
        "grouped": sum(groups),
    }


def _counts(table: Any, columns: tuple[str, ...]) -> dict[tuple[str, ...], int]:
    grouped = table.group_by(list(columns)).aggregate([([], "count_all")])
    keys = zip(*(grouped[name].to_pylist() for name in columns), strict=True)
    return dict(zip(keys, grouped["count_all"].to_pylist(), strict=True))


def _most(reasons: Iterable[tuple[tuple[str, ...], int]]) -> list[tuple[str, int]]:
    ranked = sorted(reasons, key=lambda item: (-item[1], item[0]))[:10]
    return [(reason, count) for (reason,), count in ranked]
