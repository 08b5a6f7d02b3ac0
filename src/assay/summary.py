"""What the command line says at the end: plain text for a person, a mapping for a program."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay.home import home
from assay.models.predictor import Predictor
from assay.preprocess import Unreadable

if TYPE_CHECKING:
    from assay.assessment import Assessment
    from assay.data.checkup import Checkup
    from assay.evaluation.metrics import Estimate, Metrics
    from assay.gate import Verdict
    from assay.registry import Version

MAX_LISTED = 20


@dataclass(frozen=True)
class TrainingRun:
    """A finished run of the training pipeline."""

    name: str
    verdict: "Verdict"
    metrics: "Metrics"
    version: "Version"
    report: Path
    ran: tuple[str, ...]
    """Names of the steps that ran; the others' results were still good."""


@dataclass(frozen=True)
class Submitted:
    """A run that goes on elsewhere: the stack does not wait for it."""

    name: str


def training_text(run: TrainingRun | Submitted) -> str:
    """Verdict and reasons, headline metrics, where everything is and how to open it."""
    if isinstance(run, Submitted):
        return f"run      {run.name}: goes on\npages    assay ui"
    work = f"ran {', '.join(run.ran)}" if run.ran else "nothing changed, so nothing ran"
    aliases = f" ({', '.join(run.version.aliases)})" if run.version.aliases else ""
    return "\n".join(
        [
            f"{run.verdict.decision}",
            *(f"  {reason}" for reason in run.verdict.reasons),
            "",
            metrics_text(run.metrics),
            "",
            f"model    {run.version}{aliases}   bundle {run.version.digest[:12]}",
            f"report   {_near(run.report)}",
            f"run      {run.name}: {work}",
            f"pages    assay ui   MLflow: experiment {run.version.name}; ZenML: pipeline training",
        ]
    )


def training_json(run: TrainingRun | Submitted) -> dict[str, Any]:
    """The same for a program."""
    if isinstance(run, Submitted):
        return {"run": run.name}
    return {
        "run": run.name,
        "ran": list(run.ran),
        "verdict": run.verdict.model_dump(mode="json"),
        "metrics": run.metrics.model_dump(mode="json"),
        "model": vars(run.version),
        "report": str(run.report),
    }


def assessment_text(assessment: "Assessment") -> str:
    """Verdict and reasons, headline metrics, and where the evidence is."""
    verdict, folder = assessment.verdict, assessment.evidence.folder
    lines = [
        str(verdict.decision),
        *(f"  {reason}" for reason in verdict.reasons),
        "",
        metrics_text(assessment.metrics),
    ]
    told = f"{_near(folder)}   assay gate explain {_near(folder / 'verdict.json')}"
    return "\n".join([*lines, "", f"evidence {told}"])


def assessment_json(assessment: "Assessment") -> dict[str, Any]:
    """The same for a program."""
    return {
        "verdict": assessment.verdict.model_dump(mode="json"),
        "verdict_digest": assessment.verdict.digest,
        "metrics": assessment.metrics.model_dump(mode="json"),
        "evidence": str(assessment.evidence.folder),
    }


def metrics_text(metrics: "Metrics") -> str:
    """Headline metrics and each class's recall, with intervals."""
    rows = [(name.replace("_", " "), estimate) for name, estimate in metrics.headline().items()]
    worst = sorted(metrics.classes, key=lambda c: (c.recall.value is None, c.recall.value))[:MAX_LISTED]
    rows += [(f"recall of {c.label}", c.recall) for c in worst]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {_estimate(estimate)}" for name, estimate in rows]
    return "\n".join([*lines, f"{'images':<{width}}  {metrics.n:,}"])


def classify(predictor: Predictor, path: Path, top: int) -> dict[str, Any]:
    """One image's answer; an image that cannot be read gets an `error` instead."""
    try:
        prediction = predictor.classify(path.read_bytes())
    except OSError as error:
        return {"image": str(path), "error": f"{error.strerror or error}"}
    except Unreadable as error:
        return {"image": str(path), "error": str(error)}
    ranked = sorted(prediction.probabilities.items(), key=lambda item: -item[1])
    return {
        "image": str(path),
        "label": prediction.label,
        "abstained": prediction.abstained,
        "probabilities": dict(ranked[:top]),
    }


def prediction_text(row: dict[str, Any]) -> str:
    """`wall.jpg  crack 98.1%  intact 1.9%`; where the model gives no answer, `abstained` stands before its guesses."""
    if "error" in row:
        return f"{row['image']}  not classified: {row['error']}"
    shares = (f"{label} {share:.1%}" for label, share in row["probabilities"].items())
    return "  ".join([row["image"], *(["abstained"] if row["abstained"] else []), *shares])


def checkup_text(checkup: "Checkup") -> str:
    """Counts, what is quarantined and why, and how each expectation came out."""
    rows, quarantined = checkup.dataset.manifest.num_rows, checkup.quarantined
    lines = [f"{rows:,} images, {len(quarantined):,} quarantined"]
    lines += [f"  {uri}: {reason}" for uri, reason in quarantined[:MAX_LISTED]]
    lines += _more(quarantined)
    counts = list(checkup.counts.items())
    lines += [f"  {label or '(no label)'}: {_counts(splits)}" for label, splits in counts[:MAX_LISTED]]
    lines += _more(counts)
    lines += [_outcome(outcome.passed, outcome.stops, outcome.sentence) for outcome in checkup.checked.outcomes]
    lines += [_outcome(False, True, checkup.split_fault)] if checkup.split_fault else []
    verdict = "training would accept this" if checkup.passed else "training would stop here"
    return "\n".join([*lines, verdict, f"report   {_near(checkup.page)}"])


def versions_text(versions: Iterable["Version"]) -> str:
    """A line a version."""
    lines = [f"{v!s:<24} {v.verdict:<18} {v.digest[:12]}  {', '.join(v.aliases)}".rstrip() for v in versions]
    return "\n".join(lines) or "no model is registered yet: assay train configs/demo.yaml"


def _outcome(passed: bool, stops: bool, sentence: str) -> str:
    mark = "holds" if passed else "STOPS" if stops else "warns"
    return f"  {mark}  {sentence}"


def _counts(splits: dict[str, int]) -> str:
    parts = [f"{name} {splits[name]:,}" for name in ("train", "validation", "test") if name in splits]
    return f"{sum(splits.values()):,}" + (f" ({', '.join(parts)})" if parts else "")


def _more(items: list[Any]) -> list[str]:
    return [f"  and {len(items) - MAX_LISTED:,} more"] if len(items) > MAX_LISTED else []


def _estimate(estimate: "Estimate") -> str:
    if estimate.value is None:
        return f"not measured: {estimate.note}"
    interval = "" if estimate.low is None or estimate.high is None else f" [{estimate.low:.1%}, {estimate.high:.1%}]"
    return f"{estimate.value:.1%}{interval}"


def _near(path: Path) -> Path:
    """The path from the checkout, where it is below it."""
    root = home().parent
    return path.relative_to(root) if path.is_relative_to(root) else path
