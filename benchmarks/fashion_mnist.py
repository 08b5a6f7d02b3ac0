"""Real pictures that nobody here made, without a network: Debian's `dataset-fashion-mnist` as a folder of PNGs.

    apt-get install dataset-fashion-mnist
    python benchmarks/fashion_mnist.py FOLDER
    assay train configs/fashion_mnist.yaml --set data.source=FOLDER

Xiao, Rasul and Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms", 2017.
"""

import argparse
import gzip
from pathlib import Path

import numpy as np
from PIL import Image

INSTALLED = Path("/usr/share/datasets/fashion-mnist")
LABELS = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot")


def read(name: str, header: int) -> np.ndarray:
    """The bytes of an idx file behind its header."""
    return np.frombuffer(gzip.decompress((INSTALLED / name).read_bytes()), np.uint8, offset=header)


def main() -> None:
    """Write `FOLDER/<label>/<number>.png`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=60_000)
    options = parser.parse_args()
    pictures = read("train-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)[: options.count]
    labels = read("train-labels-idx1-ubyte.gz", 8)[: options.count]
    for label in LABELS:
        (options.folder / label).mkdir(parents=True, exist_ok=True)
    for number, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        Image.fromarray(picture).save(options.folder / LABELS[label] / f"{number:05d}.png")


if __name__ == "__main__":
    main()
