"""Gather what the code of a pull request made of the data: the report that `assay.github.page` shows."""

import json
import subprocess

from assay import registry
from assay.assessment import config_of, test_split, verdict_of
from assay.config import load_use_case
from assay.data.dataset import Dataset
from assay.errors import AssayError, RegistryError
from assay.evaluation.metrics import Metrics, measure
from assay.evaluation.predictions import predict
from assay.gate.verdict import Verdict
from assay.github.report import Data, Image, Images, Measured, Report, Rule
from assay.models.bundle import Bundle

MAX_LABELS = 20
"""A larger confusion matrix is no help in a comment."""


def collect(name: str) -> Report:
    """What there is to say of the newest version of a use case, with the metrics of its validation split.

    Raises:
        AssayError: nothing was trained, or the data is another one now.
    """
    versions = registry.versions(name)
    if not versions:
        raise RegistryError(f"{name}: nothing was trained yet: assay train configs/{name}.yaml")
    version = versions[0]
    bundle = registry.fetch(version)
    dataset = test_split(load_use_case(config_of(str(version))), bundle)
    labels = bundle.meta.labels
    metrics = measure(predict(bundle, dataset.subset("validation")), labels)
    return _report(name, verdict_of(str(version)), bundle, metrics, dataset)


def image_sizes(references: dict[str, str], engine: str) -> Images:
    """Bytes of images that are on this machine.

    Args:
        references: short name to the image's name.
        engine: docker or podman.

    Raises:
        AssayError: there is no such image, or no engine.
    """
    return Images(images=tuple(Image(name=name, size=_size(engine, of)) for name, of in references.items()))


def _size(engine: str, reference: str) -> int:
    command = [engine, "image", "inspect", "--", reference]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        return int(json.loads(done.stdout)[0]["Size"])
    except (OSError, subprocess.SubprocessError, ValueError, LookupError):
        raise AssayError(f"{reference}: no such image, by {engine}") from None


def _report(name: str, verdict: Verdict, bundle: Bundle, metrics: Metrics, dataset: Dataset) -> Report:
    shown = len(bundle.meta.labels) <= MAX_LABELS and metrics.confusion is not None
    return Report(
        use_case=name,
        commit=bundle.meta.lineage.git_commit,
        bundle_digest=bundle.digest,
        decision=verdict.decision,
        rules=tuple(Rule(rule=f.rule, subject=f.subject[:200], passed=f.passed) for f in verdict.findings[:200]),
        metrics=_measured(metrics),
        labels=tuple(label[:200] for label in bundle.meta.labels) if shown else (),
        confusion=metrics.confusion if shown else None,
        data=_data(dataset),
    )


def _measured(metrics: Metrics) -> tuple[Measured, ...]:
    return tuple(
        Measured(name=name, value=estimate.value, low=estimate.low, high=estimate.high)
        for name, estimate in metrics.headline().items()
    )


def _data(dataset: Dataset) -> Data:
    grouped = dataset.usable.group_by(["label", "split"]).aggregate([([], "count_all")])
    counts: dict[str, dict[str, int]] = {}
    for row in sorted(grouped.to_pylist(), key=lambda row: row["label"]):
        counts.setdefault(row["label"][:200], {})[row["split"]] = row["count_all"]
    first = dict(list(counts.items())[:50])
    quarantined = dataset.manifest.num_rows - dataset.usable.num_rows
    return Data.model_validate({"digest": dataset.digest, "quarantined": quarantined, "counts": first})
