"""How long the gate takes on a large test split with every rule: candidate, champion, groups, slices, challenges."""

import statistics
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from assay.config import Policy
from assay.evaluation.challenges import CHALLENGES
from assay.evaluation.evidence import Evidence, EvidenceMeta
from assay.evaluation.predictions import tabulate
from assay.evaluation.slices import ATTRIBUTES, KNOWN
from assay.gate import judge
from assay.models.abstention import Abstention

from harness import arguments

LABELS = ("crack", "intact")
POLICY = Policy.model_validate(
    {
        "floors": {"accuracy": 0.9, "balanced_accuracy": 0.9, "recall": {"crack": 0.9}},
        "champion": {"rule": "non_inferior", "margin": 0.01},
        "operating_point": {"label": "crack", "max_false_positive_rate": 0.05, "recall": 0.5},
        "slices": {"of": list(KNOWN), "accuracy": 0.8, "max_drop": 0.05},
        "calibration": {"max_error": 0.1},
        "behaviour": {"invariance": 0.9, "contrast": 0.1},
        "abstention": {"coverage": 0.9, "answered": 0.5, "unfamiliar_auroc": 0.1},
        "budgets": {"latency_ms": 100, "bundle_mb": 50, "parity": 0.001},
    }
)


def predictions(n: int, groups: int, generator: np.random.Generator) -> tuple[pa.Table, np.ndarray]:
    """A table of predictions of a model that is right 19 times in 20, and the class ids."""
    targets = np.arange(n) % 2
    given = np.where(generator.random(n) < 0.95, targets, 1 - targets)
    sure = generator.uniform(0.6, 1, n).astype(np.float32)
    p = np.where(np.eye(2, dtype=bool)[given], sure[:, None], 1 - sure[:, None]).astype(np.float32)
    names = [f"{i:08d}" for i in range(n)]
    rows = pa.table(
        {
            "uri": names,
            "sha256": names,
            "label": [LABELS[t] for t in targets],
            "group": [f"g{i % groups}" for i in range(n)],
        }
    )
    return tabulate(rows, LABELS, p, [1.0] * n), p


def evidence(n: int, groups: int) -> Evidence:
    """Evidence of `n` images in `groups` groups."""
    generator = np.random.default_rng(0)
    candidate, p = predictions(n, groups, generator)
    champion, _ = predictions(n, groups, generator)
    numbers = generator.random(n).astype(np.float32)
    attributes = pa.table(
        [
            candidate["uri"]
            if field.name == "uri"
            else pa.array(numbers).cast(field.type, safe=False)
            if not pa.types.is_string(field.type)
            else pa.nulls(n, field.type)
            for field in ATTRIBUTES
        ],
        schema=ATTRIBUTES,
    )
    names = ["horizontal_flip", "vertical_flip", "rotate_90", "lower_contrast", "noise"]
    challenges = pa.concat_tables([_challenge(name, candidate, p) for name in names])
    meta = EvidenceMeta(
        use_case="bench",
        candidate_digest="a" * 64,
        champion_digest="b" * 64,
        champion_version="1",
        split_digest="c" * 64,
        data_digest="d" * 64,
        labels=LABELS,
        bundle_bytes=10**7,
        latency_ms=tuple(generator.uniform(1, 2, 500).tolist()),
        parity=1e-6,
        abstention=Abstention(coverage=0.95, threshold=0.3),
    )
    return Evidence(Path(), candidate, champion, meta, attributes, challenges)


def _challenge(name: str, candidate: pa.Table, p: np.ndarray) -> pa.Table:
    n, strange = candidate.num_rows, name == "noise"
    columns = {
        "kind": ["unfamiliar" if strange else "behaviour"] * n,
        "name": [name] * n,
        "severity": pa.array(np.zeros(n, np.int8)),
        "uri": candidate["uri"],
        "label": pa.nulls(n, pa.string()) if strange else candidate["label"],
        "p": candidate["p"],
        "predicted": candidate["predicted"],
    }
    return pa.table(columns, schema=CHALLENGES)


def main() -> None:
    """Print seconds of `judge`, evidence digest included."""
    options = arguments(__doc__, images=40_000, rounds=5)
    for groups in (options.images, options.images // 4):
        seconds = []
        for _ in range(options.rounds):
            made = evidence(options.images, groups)
            start = time.perf_counter()
            verdict = judge(made, POLICY)
            seconds.append(time.perf_counter() - start)
        middle, low, high = statistics.median(seconds), min(seconds), max(seconds)
        rules = len(verdict.findings)
        print(
            f"{options.images:,} images in {groups:,} groups, {rules} findings: {middle:.2f} s [{low:.2f}, {high:.2f}]"
        )


if __name__ == "__main__":
    main()
