"""Manifest, validation and split of generated rows (no pixels): seconds and peak memory by the number of rows."""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa

from assay.config import Bounds, Expectations, SplitConfig
from assay.data import manifest
from assay.data.dataset import Dataset
from assay.data.expectations import check
from assay.data.splits import split
from assay.preprocess import Geometry

SIZE = 128
CLASSES = 20
EXPECTATIONS = Expectations(
    stop=Bounds(min_classes=2, max_classes=1000, min_per_class=10, max_quarantined=0.01, max_label_conflicts=100),
    warn=Bounds(max_imbalance=10, max_duplicates=0.05, max_aspect_ratio=3, min_contrast=0.01, modes=("RGB", "L")),
)

T = TypeVar("T")


def generate(rows: int, seed: int = 0) -> Dataset:
    """Rows as a scan of `rows` files would give them: 1% repeat a file, 2% are near copies, 10% have a given group of
    about 20, 0.5% are quarantined."""
    rng = np.random.default_rng(seed)
    content = np.arange(rows)
    repeats = rng.random(rows) < 0.01
    content[repeats] = rng.integers(0, rows, int(repeats.sum()))
    label = content % CLASSES
    hashes = rng.integers(0, 2**64, rows, dtype=np.uint64)
    near = np.flatnonzero(rng.random(rows) < 0.02)
    hashes[near] = hashes[rng.integers(0, rows, len(near))] ^ (
        np.uint64(1) << rng.integers(0, 64, len(near)).astype(np.uint64)
    )
    mean, deviation = rng.uniform(60, 200, rows), rng.uniform(10, 60, rows)
    grouped = rng.random(rows) < 0.1
    columns = {
        "uri": pa.array([f"class_{c:02d}/IMG_{i:08d}.jpg" for i, c in enumerate(label.tolist())]),
        "label": pa.DictionaryArray.from_arrays(label, [f"class_{c:02d}" for c in range(CLASSES)]).cast(pa.string()),
        "given_group": pa.array([f"g{i % max(rows // 200, 1)}" if g else None for i, g in enumerate(grouped.tolist())]),
        "stamp": pa.array([f"{i * 7919:016x}" for i in range(rows)]),
        "bytes": rng.integers(5_000, 90_000, rows),
        "sha256": pa.array([f"{c * 0x9E3779B97F4A7C15 % 2**64:016x}" * 4 for c in content.tolist()]),
        "phash": hashes[content],
        "width": rng.integers(200, 500, rows),
        "height": rng.integers(200, 500, rows),
        "mode": pa.repeat("RGB", rows),
        "format": pa.repeat("JPEG", rows),
        "brightness": mean[content] / 255,
        "contrast": deviation[content] / 255,
        **{f"sum_{c}": (mean[content] * SIZE**2).astype(np.uint64) for c in manifest.CHANNELS},
        **{
            f"sumsq_{c}": ((mean[content] ** 2 + deviation[content] ** 2) * SIZE**2).astype(np.uint64)
            for c in manifest.CHANNELS
        },
        "fault": pa.array(["truncated" if bad else "" for bad in (rng.random(rows) < 0.005).tolist()]),
    }
    table = manifest.build(columns)
    return Dataset(table, Path("nowhere"), Geometry(SIZE, "squash"), manifest.labels(table), "generated")


def timed(work: Callable[[], T], seconds: dict[str, float], name: str) -> T:
    """What `work` gives; its seconds go to `seconds[name]`."""
    start = time.perf_counter()
    result = work()
    seconds[name] = time.perf_counter() - start
    return result


def measure(folder: Path) -> dict[str, float]:
    """Seconds of each stage on the data set saved in `folder`, and this process's peak memory."""
    check(generate(CLASSES * 20), EXPECTATIONS)  # the imports, which do not depend on the rows
    seconds: dict[str, float] = {}
    dataset = timed(lambda: Dataset.load(folder), seconds, "load")
    timed(lambda: check(dataset, EXPECTATIONS), seconds, "check")
    first = timed(lambda: split(dataset, SplitConfig()), seconds, "split")
    timed(lambda: split(dataset, SplitConfig(), previous=first.manifest), seconds, "again")
    timed(lambda: first.save(folder / "after"), seconds, "save")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return {**seconds, "peak_mib": peak}


def in_process(*arguments: str) -> str:
    """What this file prints in a process of its own, which has a peak memory of its own."""
    return subprocess.run([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, check=True, text=True).stdout


def main() -> None:
    """Generate, then measure each number of rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--generate", type=Path, help="only write generated rows to this folder")
    parser.add_argument("--measure", type=Path, help="only measure what is in this folder, as JSON")
    options = parser.parse_args()
    if options.generate:
        generate(options.rows[0]).save(options.generate)
    elif options.measure:
        print(json.dumps(measure(options.measure)))
    else:
        table(options.rows)


def table(sizes: list[int]) -> None:
    """Print a line for each number of rows."""
    stages = ["load", "check", "split", "again", "save"]
    print("seconds:  " + "".join(f"{name:>8}" for name in [*stages, "sum"]) + f"{'rows/s':>10}{'peak MiB':>10}")
    for rows in sizes:
        with tempfile.TemporaryDirectory() as folder:
            in_process("--rows", str(rows), "--generate", folder)
            figures = json.loads(in_process("--measure", folder).splitlines()[-1])
        total = sum(figures[name] for name in stages)
        line = "".join(f"{figures[name]:8.1f}" for name in stages)
        print(f"{rows:10,}{line}{total:8.1f}{rows / total:10,.0f}{figures['peak_mib']:10,.0f}", flush=True)


if __name__ == "__main__":
    main()
