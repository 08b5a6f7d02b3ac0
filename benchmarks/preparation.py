"""The scan's rate a core, and mean and std against the tutorial's two passes. CPU time of one process, in turn."""

import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from assay.config import DataConfig, SplitConfig
from assay.data.scan import scan
from assay.data.sources import open_source
from assay.data.splits import split

from harness import Figures, arguments, in_turn, print_figures, print_ratio, scratch, write_images
from tutorial import mean_and_std


def two_passes(folder: Path, size: int, images: int, _: int) -> Figures:
    """The tutorial's mean and std."""
    start = time.process_time()
    mean_and_std(folder, size)
    return _figures(time.process_time() - start, images)


def scan_whole(folder: Path, size: int, images: int, number: int) -> Figures:
    """Decode check, hashes, statistics and shards of every file, then mean and std by way of the split."""
    store = folder.parent / f"store-{number}"
    source = open_source(str(folder))
    start = time.process_time()
    dataset = scan(source, DataConfig(source=str(folder), image_size=size), store, workers=1)
    scanned = time.process_time()
    split(dataset, SplitConfig(near_duplicates=False))
    done = time.process_time()
    shutil.rmtree(store)
    return {**_figures(scanned - start, images), "mean_and_std_cpu_s": done - scanned}


def _figures(seconds: float, images: int) -> dict[str, float]:
    return {"cpu_s": seconds, "images_per_cpu_s": images / seconds, "mean_and_std_cpu_s": seconds}


def main() -> None:
    """Print both sides' figures and the ratio of what mean and std cost."""
    options = arguments(__doc__, images=4000, side=227, size=128, rounds=5)
    with scratch() as folder:
        images = write_images(folder / "images", options.images, options.side)
        contestants: dict[str, Callable[[int], Figures]] = {
            "two_passes": partial(two_passes, images, options.size, options.images),
            "assay": partial(scan_whole, images, options.size, options.images),
        }
        results = in_turn(contestants, options.rounds)
    print_figures(results)
    print_ratio(results, "assay", "two_passes", "cpu_s")
    print_ratio(results, "assay", "two_passes", "mean_and_std_cpu_s")


if __name__ == "__main__":
    main()
