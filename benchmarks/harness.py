"""What the benchmarks share: images on disk, runs in turn in processes of their own, ratios with their spread."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from assay.data.synthetic import render

Figures = Mapping[str, float]


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is gone afterwards; `ASSAY_HOME` points into it."""
    with tempfile.TemporaryDirectory(prefix="assay-bench-") as name:
        os.environ["ASSAY_HOME"] = str(Path(name) / "state")
        yield Path(name)


def write_images(folder: Path, count: int, side: int = 227, seed: int = 7) -> Path:
    """Synthetic concrete as a folder of class folders, JPEGs of `side` pixels."""
    for index in range(count):
        data, label = render(index, seed, size=side)
        path = folder / label / f"{index:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def in_turn(contestants: Mapping[str, Callable[[int], Figures]], rounds: int) -> dict[str, list[Figures]]:
    """Run each contestant once a round, A B A B …, so that a machine that slows down slows both."""
    results: dict[str, list[Figures]] = {name: [] for name in contestants}
    for number in range(rounds):
        for name, run in contestants.items():
            figures = run(number)
            results[name].append(figures)
            print(f"round {number + 1}/{rounds}  {name:<10}", _line(figures), file=sys.stderr, flush=True)
    return results


def in_process(script: str, arguments: list[str]) -> Figures:
    """Run one of the benchmark files in a process of its own; its last line of output is JSON figures."""
    command = [sys.executable, str(Path(__file__).parent / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{script} failed:\n{done.stderr[-3000:]}")
    figures: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def print_ratio(results: Mapping[str, list[Figures]], ours: str, theirs: str, figure: str) -> None:
    """Print theirs / ours of a figure round by round: median [lowest, highest]."""
    pairs = zip(results[theirs], results[ours], strict=True)
    ratios = sorted(their[figure] / our[figure] for their, our in pairs)
    print(f"{figure:<22} {statistics.median(ratios):6.2f}x  [{ratios[0]:.2f}, {ratios[-1]:.2f}]  {theirs} / {ours}")


def print_figures(results: Mapping[str, list[Figures]]) -> None:
    """Print each contestant's figures: median [lowest, highest] over the rounds."""
    for name, rounds in results.items():
        for figure in rounds[0]:
            values = sorted(r[figure] for r in rounds)
            print(f"{name:<10} {figure:<20} {statistics.median(values):10.3f}  [{values[0]:.3f}, {values[-1]:.3f}]")


def arguments(description: str | None, **defaults: Any) -> argparse.Namespace:
    """Command-line options, one for each default, of the default's type."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    for name, default in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    return parser.parse_args()


def _line(figures: Figures) -> str:
    return "  ".join(f"{name} {value:.3f}" for name, value in figures.items())
