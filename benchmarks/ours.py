"""The same job as `tutorial.py`, by Assay: scan into shards, split by group, train. The same model, size and epochs."""

import json
import time
from pathlib import Path

import numpy as np

from assay.config import DataConfig, Recipe, SplitConfig, UseCase
from assay.data.scan import scan
from assay.data.sources import open_source
from assay.data.splits import split
from assay.lineage import collect
from assay.models.export import export
from assay.models.predictor import Predictor
from assay.training import train

from harness import arguments


def main() -> None:
    """Prepare, train, test; print seconds and test accuracy as JSON."""
    options = arguments(
        __doc__, source="", work="", backbone="resnet10t", size=128, epochs=3, batch=64, learning_rate=0.05, seed=0,
        first_size=0,
    )  # fmt: skip
    work = Path(options.work)
    recipe = Recipe(
        backbone=options.backbone,
        epochs=options.epochs,
        first_size=options.first_size or None,
        batch_size=options.batch,
        optimizer="sgd",
        learning_rate=options.learning_rate,
        weight_decay=0.0,
        augment=({"HorizontalFlip": {"p": 0.5}},),
        seed=options.seed,
    )
    data = DataConfig(source=options.source, image_size=options.size)
    start = time.perf_counter()
    dataset = split(scan(open_source(options.source), data, work / "shards"), SplitConfig())
    prepared = time.perf_counter()
    trained = train(dataset, recipe, work / "training")
    done = time.perf_counter()
    lineage = collect(UseCase(name="bench", data=data, recipe=recipe), dataset)
    bundle = export(trained, dataset, work / "bundle", lineage, name="bench")
    test = dataset.subset("test")
    answers = Predictor(bundle).probabilities(test.read(np.arange(len(test)))).argmax(axis=1)
    figures = {"prepare_s": prepared - start, "train_s": done - prepared, "total_s": done - start}
    accuracy = float((answers == test.targets).mean())
    print(json.dumps({**figures, "test_accuracy": accuracy, "wait_share": trained.wait_share}))


if __name__ == "__main__":
    main()
