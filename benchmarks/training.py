"""Whole data preparation and training, Assay against the tutorial path, in turn, each round with another seed.

`assay` does the same as the tutorial at the same image size in every epoch; `assay_growing` starts with smaller images.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from harness import Figures, arguments, in_process, in_turn, print_figures, print_ratio, scratch, write_images


def run(script: str, source: Path, extra: list[str], seed: int) -> Figures:
    """One contestant's whole job in a fresh process and a fresh folder."""
    with tempfile.TemporaryDirectory(dir=source.parent) as work:
        return in_process(script, ["--source", str(source), "--work", work, "--seed", str(seed), *extra])


def main() -> None:
    """Print both sides' figures and their ratios."""
    options = arguments(
        __doc__, images=2000, side=227, size=128, first_size=64, epochs=3, rounds=3, backbone="resnet10t"
    )
    extra = ["--backbone", options.backbone, "--size", str(options.size), "--epochs", str(options.epochs)]
    with scratch() as folder:
        source = write_images(folder / "images", options.images, options.side)
        contestants: dict[str, Callable[[int], Figures]] = {
            "tutorial": partial(run, "tutorial.py", source, extra),
            "assay": partial(run, "ours.py", source, extra),
            "assay_growing": partial(run, "ours.py", source, [*extra, "--first-size", str(options.first_size)]),
        }
        results = in_turn(contestants, options.rounds)
    print_figures(results)
    for ours in ("assay", "assay_growing"):
        for figure in ("prepare_s", "train_s", "total_s"):
            print_ratio(results, ours, "tutorial", figure)


if __name__ == "__main__":
    main()
