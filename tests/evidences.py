"""Evidence of made-up models, whose mistakes a test chooses."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from assay.config import Policy
from assay.evaluation.evidence import Evidence, EvidenceMeta
from assay.evaluation.predictions import PREDICTIONS, tabulate
from assay.gate import Finding, Verdict

LABELS = ("crack", "sound")
META = EvidenceMeta(
    use_case="demo",
    candidate_digest="a" * 64,
    champion_digest="b" * 64,
    champion_version="3",
    split_digest="c" * 64,
    data_digest="d" * 64,
    labels=LABELS,
)
ALONE = META.model_copy(update={"champion_digest": None, "champion_version": None})


def table(
    n: int, wrong: range | list[int] = range(0), labels: tuple[str, ...] = LABELS, cracks: float = 0.5
) -> pa.Table:
    """`n` predictions, half of them cracks; those at `wrong` name another class than the label."""
    targets = (np.arange(n) >= cracks * n).astype(int)
    given = targets.copy()
    given[list(wrong)] = 1 - given[list(wrong)]
    names = [f"{i:05d}" for i in range(n)]
    rows = pa.table({"uri": names, "sha256": names, "label": [labels[t] for t in targets], "group": names})
    p = np.where(np.eye(len(labels), dtype=np.float32)[given] > 0, 0.9, 0.1 / (len(labels) - 1)).astype(np.float32)
    return tabulate(rows, labels, p, [1.0] * n)


def evidence(candidate: pa.Table, champion: pa.Table | None = None, meta: EvidenceMeta | None = None) -> Evidence:
    return Evidence(Path("nowhere"), candidate, champion, meta or (ALONE if champion is None else META))


def policy(**parts: Any) -> Policy:
    return Policy.model_validate(parts)


def ruled(verdict: Verdict, rule: str) -> Finding:
    (finding,) = [finding for finding in verdict.findings if finding.rule == rule]
    return finding


def with_column(candidate: pa.Table, name: str, values: Any) -> pa.Table:
    place = candidate.schema.get_field_index(name)
    return candidate.set_column(place, name, pa.array(values, PREDICTIONS.field(name).type))
