"""What ZenML and MLflow cost around the work: `assay train` against the same library calls in one process, in turn."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import Figures, arguments, in_process, in_turn, print_figures, print_ratio, scratch

EXPECTED_CODES = {0, 10, 11, 12}
"""Whatever the verdict, the run was whole."""


def pipeline(config: str, folder: Path, _: int) -> Figures:
    """A whole `assay train` from an empty state folder, start of the process and imports included."""
    with tempfile.TemporaryDirectory(dir=folder) as home:
        start = time.perf_counter()
        command = [sys.executable, "-m", "assay", "train", config, "--json"]
        done = subprocess.run(command, env={**os.environ, "ASSAY_HOME": home}, capture_output=True, check=False)
        if done.returncode not in EXPECTED_CODES:
            raise SystemExit(done.stderr.decode())
        return {"work_s": time.perf_counter() - start}


def direct(config: str, folder: Path, _: int) -> Figures:
    """The same by plain calls."""
    with tempfile.TemporaryDirectory(dir=folder) as work:
        return in_process("direct.py", ["--config", config, "--work", work])


def main() -> None:
    """Print both, and the share of the run that is not work."""
    options = arguments(__doc__, config="configs/demo.yaml", rounds=2)
    with scratch() as folder:
        contestants = {
            "direct": lambda number: direct(options.config, folder, number),
            "pipeline": lambda number: pipeline(options.config, folder, number),
        }
        results = in_turn(contestants, options.rounds)
    print_figures(results)
    print_ratio(results, "direct", "pipeline", "work_s")
    for ours, whole in zip(results["direct"], results["pipeline"], strict=True):
        print(f"share of the run around the work: {1 - ours['work_s'] / whole['work_s']:.1%}")


if __name__ == "__main__":
    main()
