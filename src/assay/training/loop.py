"""The training loop: epochs of steps, a validation after each, and a checkpoint from which it can go on."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from assay import console, digests
from assay.config import Recipe
from assay.errors import AssayError, DataError
from assay.models import backbones
from assay.training import checkpoints, memory, precision
from assay.training.augment import Augmenter
from assay.training.feed import Feed, Maker, plain_jobs, training_jobs, workers_for
from assay.training.learner import Learner
from assay.training.precision import Mode, Normaliser
from assay.training.seeding import DROPPING, INITIALISING, isolated, seed_of
from assay.training.sizes import size_at
from assay.training.trained import Trained

if TYPE_CHECKING:
    from assay.data.dataset import Dataset, Subset

Triple = tuple[float, float, float]

MetricLog = Callable[[dict[str, float], int], None]
"""Takes metrics and the number of steps done."""

LOG_EVERY = 10
"""Steps between two logs of the loss, each of which waits for the device."""
PACKAGES = ("albumentations", "numpy", "safetensors", "timm", "torch")


def train(
    dataset: "Dataset", recipe: Recipe, folder: Path, log: MetricLog | None = None, stop_after: int | None = None
) -> Trained:
    """Train the recipe's model and keep the weights of the epoch with the lowest validation loss.

    The validation loss is the cross-entropy over all validation images, with the recipe's class weights and without
    label smoothing; of equal ones the first epoch's is kept. On a CPU the same data, recipe and seed give the same
    weights, bit by bit, for the same number of threads and the same mode (see `precision.choose`). An interrupted
    training goes on after its last whole epoch when it is called again with the same inputs and folder, and ends with
    the same weights.

    Args:
        dataset: split.
        recipe: how.
        folder: where the results go, and the checkpoint of a training under way.
        log: gets `loss` and `learning_rate` of steps, and of each epoch train_loss, val_loss,
            val_calibrated_loss, val_accuracy, images_per_s and wait_share.
        stop_after: stop after this epoch, with the best so far, and leave the checkpoint.

    Raises:
        ConfigError: an augmentation that does not exist or does not work.
        DataError: the data set is not split, or a split or class is too small to train on.
        AssayError: backbone or weights cannot be had, the loss is not finite, or the folder cannot be written.
    """
    _moments(dataset)
    training, validation = _subsets(dataset)
    augment = Augmenter(recipe.augment, dataset.geometry.size)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    _make_folder(folder)
    with isolated(device), memory.kept():
        learner, key = _learner(dataset, recipe, folder, training, device)
        with console.progress("train", _images_left(learner, training), "images") as advance:
            session = _Session(learner, key, folder, training, validation, log or _nowhere, advance)
            session.run(augment, min(stop_after or recipe.epochs, recipe.epochs))
        trained = _finish(learner, folder, dataset)
    console.say("train", _summary(trained))
    return trained


def _nowhere(metrics: dict[str, float], step: int) -> None:
    """The log of a training that nobody watches."""


def _subsets(dataset: "Dataset") -> tuple["Subset", "Subset"]:
    training, validation = dataset.subset("train"), dataset.subset("validation")
    for name, subset, least in (("training", training, 2), ("validation", validation, 1)):
        if len(subset) < least:
            raise DataError(f"the {name} split has {len(subset)} images, and training needs {least} at least")
    if len(dataset.labels) < 2:
        raise DataError(f"there is only one class, {', '.join(dataset.labels)!r}: nothing to tell apart")
    counts = np.bincount(training.targets, minlength=len(dataset.labels))
    if not counts.all():
        without = dataset.labels[int(counts.argmin())]
        raise DataError(f"the training split has no image of class {without!r}; add some, or leave the class out")
    return training, validation


def _moments(dataset: "Dataset") -> tuple[Triple, Triple]:
    if dataset.mean is None or dataset.std is None:
        raise DataError("the data set has no mean and std: it is not split yet")
    if min(dataset.std) <= 0:
        raise DataError("all pixels of the training images are the same; look at them with `assay data check`")
    return dataset.mean, dataset.std


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AssayError(f"{folder}: cannot be made: {error.strerror}") from None


def _learner(
    dataset: "Dataset", recipe: Recipe, folder: Path, training: "Subset", device: torch.device
) -> tuple[Learner, str]:
    """The model with its optimizer, new or as the checkpoint in `folder` has them; and the key of its checkpoints."""
    torch.manual_seed(seed_of(recipe.seed, INITIALISING))
    classes, size = len(dataset.labels), dataset.geometry.size
    model = backbones.build(recipe.backbone, classes, recipe.weights, recipe.dropout, size).to(device)
    key = _key(dataset, recipe, model, device)
    checkpoint = checkpoints.load(folder, key)
    if checkpoint is None:
        checkpoints.clear(folder)
        mode = _mode(model, recipe, dataset, training, device)
    else:
        mode = Mode(**checkpoint.facts["mode"])
    learner = Learner(model, recipe, mode, _normaliser(dataset, mode, device), training.targets, classes)
    if checkpoint is not None:
        learner.restore(checkpoint)
        console.say("train", f"going on after epoch {learner.epoch}/{recipe.epochs}")
    return learner, key


def _key(dataset: "Dataset", recipe: Recipe, model: torch.nn.Module, device: torch.device) -> str:
    """Digest of all that decides the weights, the initial ones included."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    initial = {name: digests.of_bytes(tensor.numpy().tobytes()) for name, tensor in tensors.items()}
    versions = {name: metadata.version(name) for name in PACKAGES}
    described = recipe.model_dump(mode="json")
    return digests.of_json([dataset.digest, dataset.split_digest, described, initial, versions, device.type])


def _normaliser(dataset: "Dataset", mode: Mode, device: torch.device) -> Normaliser:
    return Normaliser(*_moments(dataset), mode, device)


def _mode(model: torch.nn.Module, recipe: Recipe, dataset: "Dataset", training: "Subset", device: torch.device) -> Mode:
    """What the recipe says, or what is fastest on the first batch."""
    modes = precision.candidates(recipe, model)

    def measure() -> dict[Mode, float]:
        job = next(training_jobs(len(training), recipe.batch_size, recipe.seed, (0,)))
        batch = torch.from_numpy(training.read(job.indices)), torch.from_numpy(training.targets[job.indices])
        return precision.measure(model, batch, modes, lambda mode: _normaliser(dataset, mode, device))

    return precision.choose(modes, recipe.backbone, dataset.geometry.size, device, measure)


@dataclass(frozen=True)
class _Session:
    """One call of `train`, which takes a learner through its remaining epochs."""

    learner: Learner
    key: str
    folder: Path
    training: "Subset"
    validation: "Subset"
    log: MetricLog
    advance: console.Advance

    def run(self, augment: Augmenter, until: int) -> None:
        """Train up to epoch `until`, or until validation says that it no longer helps."""
        learner, recipe = self.learner, self.learner.recipe
        jobs = training_jobs(len(self.training), recipe.batch_size, recipe.seed, range(learner.epoch, until))
        maker = Maker(self.training, augment, recipe.seed, self._sizes())
        device = learner.device
        with Feed(maker, jobs, workers_for(device), pin=device.type == "cuda") as feed:
            try:
                while learner.epoch < until and not learner.exhausted:
                    self._epoch(feed)
            except KeyboardInterrupt:
                again = "the same training goes on from there" if learner.epoch else "it starts anew"
                console.warn("train", f"interrupted after epoch {learner.epoch}/{recipe.epochs}; {again}")
                raise

    def _sizes(self) -> tuple[int, ...]:
        recipe, whole = self.learner.recipe, self.training.geometry.size
        return tuple(size_at(epoch, recipe.epochs, recipe.first_size, whole) for epoch in range(recipe.epochs))

    def _epoch(self, feed: Feed) -> None:
        """Train and judge, record it, and keep what is needed to go on from here."""
        learner = self.learner
        started = time.perf_counter()
        torch.manual_seed(seed_of(learner.recipe.seed, DROPPING, learner.epoch))
        trained = self._train(feed)
        judged = self._judge()
        learner.timing.seconds += time.perf_counter() - started
        if learner.record(trained["train_loss"], judged):
            learner.best |= checkpoints.save_best(self.folder, learner.epoch, learner.kept.state_dict())
        checkpoints.save(self.folder, self.key, learner.tensors(), learner.facts())
        checkpoints.clear(self.folder, keep=learner.best["file"])
        self.log(trained | judged, learner.step)

    def _train(self, feed: Feed) -> dict[str, float]:
        """One epoch of steps: the mean loss over its images, images a second, and the share of time it waited."""
        learner, first = self.learner, self.learner.step
        steps = learner.steps_per_epoch
        losses, images = torch.zeros(steps, device=learner.device), 0
        started, waited = time.perf_counter(), feed.waited
        for number in range(steps):  # all of one size: what does not fill a batch is left out
            pixels, targets = next(feed)
            losses[number] = learner.learn(pixels, targets)
            images += len(targets)
            self.advance(len(targets), self._note())
            if (number + 1) % LOG_EVERY == 0 or number + 1 == steps:
                self._log_step(losses[: number + 1].cpu(), first)
        seconds, waited = time.perf_counter() - started, feed.waited - waited
        learner.timing.add(seconds, waited, images)
        mean = float(losses.double().mean())
        return {"train_loss": mean, "images_per_s": images / seconds, "wait_share": waited / seconds}

    def _log_step(self, losses: torch.Tensor, first: int) -> None:
        """Log the last of an epoch's losses so far; `first` is the number of steps before them."""
        learner = self.learner
        wrong = (~torch.isfinite(losses)).nonzero()
        if len(wrong):
            raise _diverged(f"{losses[wrong[0, 0]].item()} at step {first + int(wrong[0, 0]) + 1}", learner.recipe)
        rate = learner.optimizer.param_groups[0]["lr"]
        self.log({"loss": losses[-1].item(), "learning_rate": rate}, learner.step)

    def _judge(self) -> dict[str, float]:
        learner = self.learner
        with Feed(Maker(self.validation), plain_jobs(len(self.validation), learner.recipe.batch_size)) as feed:
            judged = learner.judge(feed)
        if not math.isfinite(judged["val_loss"]):
            raise _diverged(f"{judged['val_loss']} on validation after step {learner.step}", learner.recipe)
        return judged

    def _note(self) -> str:
        learner = self.learner
        epoch = f"epoch {learner.epoch + 1}/{learner.recipe.epochs}"
        return f"{epoch}  val {learner.history[-1]['val_accuracy']:.1%}" if learner.history else epoch


def _diverged(what: str, recipe: Recipe) -> AssayError:
    return AssayError(
        f"the loss is {what}; lower recipe.learning_rate (it is {recipe.learning_rate:g}) or warm up longer"
    )


def _images_left(learner: Learner, training: "Subset") -> int:
    batch = min(learner.recipe.batch_size, len(training))
    return (learner.recipe.epochs - learner.epoch) * learner.steps_per_epoch * batch


def _finish(learner: Learner, folder: Path, dataset: "Dataset") -> Trained:
    """Put the best weights where they belong; the checkpoint goes if nothing is left to do."""
    mean, std = _moments(dataset)
    timing = learner.timing
    trained = Trained(
        folder=folder,
        weights_digest=checkpoints.publish(folder, learner.best["file"]),
        backbone=learner.recipe.backbone,
        labels=dataset.labels,
        geometry=dataset.geometry,
        mean=mean,
        std=std,
        recipe=learner.recipe,
        data_digest=dataset.digest,
        split_digest=dataset.split_digest,
        best_epoch=learner.best["epoch"],
        history=learner.history,
        precision=learner.mode.precision,
        channels_last=learner.mode.channels_last,
        wait_share=timing.waiting_s / timing.training_s,
        images_per_s=timing.images / timing.training_s,
        seconds=timing.seconds,
    )
    trained.save()
    if learner.epoch == learner.recipe.epochs or learner.exhausted:
        checkpoints.clear(folder)
    return trained


def _summary(trained: Trained) -> str:
    best = trained.history[trained.best_epoch - 1]
    minutes, seconds = divmod(round(trained.seconds), 60)
    took = f"{minutes}m{seconds:02d}s" if minutes else f"{seconds}s"
    return (
        f"{len(trained.history)}/{trained.recipe.epochs} epochs  val {best['val_accuracy']:.1%}  {took}  "
        f"{trained.precision}, waiting for data {trained.wait_share:.0%}"
    )
