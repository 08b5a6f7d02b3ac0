import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from assay.config import Recipe
from assay.data.dataset import Dataset
from assay.errors import AssayError, ConfigError, DataError
from assay.training import Trained, train
from assay.training.learner import Learner
from assay.training.loop import LOG_EVERY

MakeRecipe = Callable[..., Recipe]
MakeDataset = Callable[..., Dataset]
RESULT = ["trained.json", "weights.safetensors"]

RICH = {
    "epochs": 3,
    "ema": 0.9,
    "dropout": 0.2,
    "label_smoothing": 0.1,
    "class_weights": True,
    "precision": "bf16",
    "channels_last": True,
    "schedule": "one_cycle",
    "augment": ({"HorizontalFlip": {"p": 0.5}}, {"RandomBrightnessContrast": {"p": 0.5}}),
}


def weights(folder: Path) -> bytes:
    return (folder / "weights.safetensors").read_bytes()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def figures(loss: float) -> dict[str, float]:
    """What an epoch is judged to be."""
    return {"val_loss": loss, "val_calibrated_loss": loss, "val_accuracy": 0.5}


def interrupt(metrics: dict[str, float], step: int) -> None:
    raise KeyboardInterrupt


def test_learns_and_leaves_the_best_weights(dataset: Dataset, recipe: MakeRecipe, tmp_path: Path) -> None:
    trained = train(dataset, recipe(epochs=5), tmp_path)
    best = min(trained.history, key=lambda epoch: epoch["val_calibrated_loss"])
    assert best["val_accuracy"] >= 0.95
    assert trained.best_epoch == best["epoch"]
    assert [epoch["epoch"] for epoch in trained.history] == [1, 2, 3, 4, 5]
    assert names(tmp_path) == RESULT
    assert Trained.load(tmp_path) == trained


def test_says_what_it_was_trained_with(dataset: Dataset, recipe: MakeRecipe, tmp_path: Path) -> None:
    trained = train(dataset, recipe(epochs=1), tmp_path)
    assert (trained.labels, trained.geometry) == (dataset.labels, dataset.geometry)
    assert (trained.mean, trained.std) == (dataset.mean, dataset.std)
    assert (trained.data_digest, trained.split_digest) == (dataset.digest, dataset.split_digest)
    assert (trained.backbone, trained.recipe) == ("test_byobnet", recipe(epochs=1))
    assert (trained.precision, trained.channels_last) == ("fp32", False)
    assert 0 <= trained.wait_share < 1
    assert trained.images_per_s > 0


@pytest.mark.parametrize("rich", [{}, RICH], ids=["plain", "rich"])
def test_same_seed_same_bytes(dataset: Dataset, recipe: MakeRecipe, tmp_path: Path, rich: dict[str, Any]) -> None:
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        np.random.seed(len(folder))
        torch.manual_seed(hash(folder))
        train(dataset, recipe(**(rich | {"seed": seed})), tmp_path / folder)
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert weights(tmp_path / "a") != weights(tmp_path / "c")


def test_the_callers_randomness_is_left_alone(dataset: Dataset, recipe: MakeRecipe, tmp_path: Path) -> None:
    def state() -> tuple[object, ...]:
        generators = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        return *generators, torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()

    before = state()
    train(dataset, recipe(epochs=1, dropout=0.5), tmp_path)
    assert state() == before


@pytest.mark.parametrize("settings", [RICH, {"optimizer": "sgd", "learning_rate": 0.05}], ids=["adamw", "sgd"])
def test_goes_on_to_the_same_weights(
    dataset: Dataset, recipe: MakeRecipe, tmp_path: Path, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    whole = train(dataset, recipe(**settings), tmp_path / "whole")
    first = train(dataset, recipe(**settings), tmp_path / "parts", stop_after=1)
    assert len(first.history) == 1
    assert names(tmp_path / "parts") == ["best-0001.safetensors", "checkpoint.safetensors", *RESULT]
    second = train(dataset, recipe(**settings), tmp_path / "parts")
    assert "going on after epoch 1/3" in capsys.readouterr().err
    assert second.history == whole.history
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    assert names(tmp_path / "parts") == RESULT


def test_a_real_interrupt_loses_no_whole_epoch(
    dataset: Dataset, recipe: MakeRecipe, tmp_path: Path, assay_home: Path
) -> None:
    dataset.save(tmp_path / "dataset")
    (tmp_path / "recipe.json").write_text(recipe(**RICH).model_dump_json())
    script = """
import os, signal, sys
from pathlib import Path
import torch
from assay.config import Recipe
from assay.data.dataset import Dataset
from assay.training import train

def log(metrics, step):
    if "loss" in metrics and step > 10:
        os.kill(os.getpid(), signal.SIGINT)

torch.set_num_threads(1)
root = Path(sys.argv[1])
recipe = Recipe.model_validate_json((root / "recipe.json").read_text())
try:
    train(Dataset.load(root / "dataset"), recipe, root / "parts", log=log)
except KeyboardInterrupt:  # left to Python, its exit code hangs on what other packages do at the end
    sys.exit(130)
"""
    environment = os.environ | {"ASSAY_HOME": str(assay_home)}
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 130, done.stderr
    assert "interrupted after epoch 2/3" in done.stderr
    assert "checkpoint.safetensors" in names(tmp_path / "parts")
    assert "trained.json" not in names(tmp_path / "parts")
    train(dataset, recipe(**RICH), tmp_path / "whole")
    resumed = train(dataset, recipe(**RICH), tmp_path / "parts", log=lambda metrics, step: steps.append(step))
    assert len(resumed.history) == 3
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


steps: list[int] = []


def test_an_interrupt_leaves_no_thread_behind(dataset: Dataset, recipe: MakeRecipe, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(dataset, recipe(), tmp_path, log=interrupt)
    assert not any(thread.name == "feed" for thread in threading.enumerate())


def test_another_recipe_starts_anew(dataset: Dataset, recipe: MakeRecipe, tmp_path: Path) -> None:
    train(dataset, recipe(), tmp_path / "used", stop_after=2)
    train(dataset, recipe(seed=5), tmp_path / "used")
    train(dataset, recipe(seed=5), tmp_path / "fresh")
    assert weights(tmp_path / "used") == weights(tmp_path / "fresh")
    assert names(tmp_path / "used") == RESULT


def test_other_data_starts_anew(
    dataset: Dataset, make_dataset: MakeDataset, recipe: MakeRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(dataset, recipe(), tmp_path / "used", stop_after=1)
    train(make_dataset(seed=7), recipe(), tmp_path / "used")
    assert "going on" not in capsys.readouterr().err


def test_other_weights_under_the_same_name_start_anew(
    dataset: Dataset, recipe: MakeRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = tmp_path / "start.safetensors"
    for seed in (1, 2):
        train(dataset, recipe(epochs=1, seed=seed), tmp_path / "start")
        (tmp_path / "start" / "weights.safetensors").replace(start)
        train(dataset, recipe(weights=str(start)), tmp_path / "used", stop_after=1)
    assert "going on" not in capsys.readouterr().err


def test_a_damaged_checkpoint_starts_anew(dataset: Dataset, recipe: MakeRecipe, tmp_path: Path) -> None:
    train(dataset, recipe(), tmp_path / "used", stop_after=1)
    path = tmp_path / "used" / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    train(dataset, recipe(), tmp_path / "used")
    train(dataset, recipe(), tmp_path / "fresh")
    assert weights(tmp_path / "used") == weights(tmp_path / "fresh")


def test_an_earlier_result_stays_until_there_is_another(dataset: Dataset, recipe: MakeRecipe, tmp_path: Path) -> None:
    earlier = train(dataset, recipe(epochs=1), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(dataset, recipe(epochs=2, seed=9), tmp_path, log=interrupt)
    assert Trained.load(tmp_path) == earlier


def test_a_loss_that_is_no_number_names_the_step(dataset: Dataset, recipe: MakeRecipe, tmp_path: Path) -> None:
    wild = recipe(learning_rate=1e30, optimizer="sgd", schedule="constant", epochs=2)
    with pytest.raises(
        AssayError, match=r"the loss is (nan|inf) .*step \d+; lower recipe.learning_rate \(it is 1e\+30\)"
    ):
        train(dataset, wild, tmp_path)
    assert "trained.json" not in names(tmp_path)


@pytest.mark.parametrize(
    ("losses", "epochs", "best"),
    [([3.0, 2.0, 2.5, 2.5, 1.0], 4, 2), ([3.0, 2.0, 2.5, 1.0, 1.5], 5, 4), ([2.0, 2.0, 2.0], 3, 1)],
)
def test_patience_ends_the_training(
    dataset: Dataset,
    recipe: MakeRecipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    losses: list[float],
    epochs: int,
    best: int,
) -> None:
    judged: Iterator[float] = iter(losses)
    monkeypatch.setattr(Learner, "judge", lambda self, batches: figures(next(judged)))
    trained = train(dataset, recipe(epochs=5, patience=2), tmp_path)
    assert (len(trained.history), trained.best_epoch) == (epochs, best)
    assert names(tmp_path) == RESULT


def test_the_kept_weights_are_those_of_the_best_epoch(
    dataset: Dataset, recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(dataset, recipe(), tmp_path / "short", stop_after=1)
    judged = iter([1.0, 2.0, 3.0])
    monkeypatch.setattr(Learner, "judge", lambda self, batches: figures(next(judged)))
    train(dataset, recipe(), tmp_path / "long")
    assert weights(tmp_path / "long") == weights(tmp_path / "short")


def test_metrics_of_steps_and_epochs_are_logged(dataset: Dataset, recipe: MakeRecipe, tmp_path: Path) -> None:
    logged: list[tuple[int, dict[str, float]]] = []
    train(dataset, recipe(epochs=2, batch_size=4), tmp_path, log=lambda metrics, step: logged.append((step, metrics)))
    steps = len(dataset.subset("train")) // 4
    by_step = [step for step, metrics in logged if set(metrics) == {"loss", "learning_rate"}]
    by_epoch = [step for step, metrics in logged if "val_loss" in metrics]
    assert by_step == [10, 20, steps, steps + 10, steps + 20, 2 * steps]
    assert by_epoch == [steps, 2 * steps]
    assert LOG_EVERY == 10
    assert set(logged[-1][1]) == {
        "train_loss", "val_loss", "val_calibrated_loss", "val_accuracy", "images_per_s", "wait_share",
    }  # fmt: skip
    assert logged[0][1]["learning_rate"] == pytest.approx(4e-3, rel=0.2)


def test_the_last_line_says_how_it_went(
    dataset: Dataset, recipe: MakeRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = train(dataset, recipe(epochs=1), tmp_path)
    line = capsys.readouterr().err.splitlines()[-1]
    accuracy = trained.history[0]["val_accuracy"]
    assert line.startswith(f"train     1/1 epochs  val {accuracy:.1%}  ")
    assert line.endswith(f"s  fp32, waiting for data {trained.wait_share:.0%}")


def test_fewer_images_than_a_batch_are_one_batch(make_dataset: MakeDataset, recipe: MakeRecipe, tmp_path: Path) -> None:
    dataset = make_dataset(images=20)
    logged: list[int] = []
    train(dataset, recipe(epochs=2, batch_size=64), tmp_path, log=lambda metrics, step: logged.append(step))
    assert max(logged) == 2


def test_times_do_not_stand_in_the_history(dataset: Dataset, recipe: MakeRecipe, tmp_path: Path) -> None:
    train(dataset, recipe(epochs=1), tmp_path)
    document = json.loads((tmp_path / "trained.json").read_text())
    assert set(document["history"][0]) == {
        "epoch", "learning_rate", "train_loss", "val_loss", "val_calibrated_loss", "val_accuracy",
    }  # fmt: skip


def without(dataset: Dataset, split: str) -> Dataset:
    column = dataset.manifest.schema.get_field_index("split")
    kept = ["test" if name == split else name for name in dataset.manifest["split"].to_pylist()]
    return replace(dataset, manifest=dataset.manifest.set_column(column, "split", [kept]))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data, make: replace(data, mean=None), "not split yet"),
        (lambda data, make: replace(data, std=(0.0, 0.1, 0.1)), "are the same"),
        (lambda data, make: without(data, "train"), "the training split has 0 images"),
        (lambda data, make: without(data, "validation"), "the validation split has 0 images"),
        (lambda data, make: make(labels=["crack"]), "only one class"),
        (
            lambda data, make: make(images=20, labels=[*["crack", "intact"] * 7, *["other"] * 6]),
            "no image of class 'other'",
        ),
    ],
)
def test_data_that_cannot_be_trained_on_is_refused(
    dataset: Dataset,
    make_dataset: MakeDataset,
    recipe: MakeRecipe,
    tmp_path: Path,
    spoil: Callable[[Dataset, MakeDataset], Dataset],
    message: str,
) -> None:
    with pytest.raises(DataError, match=message):
        train(spoil(dataset, make_dataset), recipe(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_wrong_recipe_is_refused_before_anything_is_done(
    dataset: Dataset, recipe: MakeRecipe, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="HorizontalFilp"):
        train(dataset, recipe(augment=({"HorizontalFilp": {}},)), tmp_path / "out")
    with pytest.raises(AssayError, match="test_byobnet"):
        train(dataset, recipe(backbone="test_byobnets"), tmp_path / "out")


def test_a_folder_that_cannot_be_is_one_line(dataset: Dataset, recipe: MakeRecipe, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(AssayError, match=r"file/out: cannot be made: Not a directory"):
        train(dataset, recipe(), tmp_path / "file" / "out")
