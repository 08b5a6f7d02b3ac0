"""A model in training: how it learns from a batch, how it is judged, and all that a checkpoint must hold of it."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from timm.utils import ModelEmaV3
from torch.nn.functional import cross_entropy

from assay.config import Recipe
from assay.models.calibration import fit_temperature
from assay.training import optim
from assay.training.checkpoints import Checkpoint, Tensors
from assay.training.feed import Batch, steps_per_epoch
from assay.training.precision import Mode, Normaliser


@dataclass
class Timing:
    """What the work took so far, over all runs if it was continued."""

    seconds: float = 0.0
    """Training and validation."""
    training_s: float = 0.0
    waiting_s: float = 0.0
    """Of `training_s`, spent waiting for batches."""
    images: int = 0
    """Trained on, each time counted."""

    def add(self, training_s: float, waiting_s: float, images: int) -> None:
        """Count one epoch of training."""
        self.training_s += training_s
        self.waiting_s += waiting_s
        self.images += images


class Learner:
    """A model, its optimizer and their average, and what was reached so far.

    Args:
        model: on its device.
        recipe: how it learns.
        mode: number format and layout.
        normalise: pixels to what the model takes.
        targets: class ids of the training images, int64 [n].
        classes: how many there are.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        recipe: Recipe,
        mode: Mode,
        normalise: Normaliser,
        targets: np.ndarray,
        classes: int,
    ) -> None:
        self.model = model.to(memory_format=mode.layout)
        self.recipe, self.mode, self.normalise = recipe, mode, normalise
        self.device = next(model.parameters()).device
        self.optimizer = optim.optimizer(self.model, recipe)
        self.average = ModelEmaV3(self.model, recipe.ema, use_warmup=True) if recipe.ema else None
        self.weights = optim.class_weights(targets, classes).to(self.device) if recipe.class_weights else None
        self.steps_per_epoch = steps_per_epoch(len(targets), recipe.batch_size)
        self.epoch = self.step = 0
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Any] = {}
        """Of the best epoch: epoch, val_calibrated_loss, and where its weights are."""
        self.timing = Timing()

    @property
    def kept(self) -> torch.nn.Module:
        """The model that is judged, and whose weights are kept."""
        return self.model if self.average is None else self.average.module

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return optim.learning_rate(self.recipe, self.step, self.steps_per_epoch)

    @property
    def exhausted(self) -> bool:
        """Whether the recipe's patience is at its end."""
        patience = self.recipe.patience
        return patience is not None and bool(self.best) and self.epoch - self.best["epoch"] >= patience

    def learn(self, pixels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """One step on uint8 [n, s, s, 3] and int64 [n]; the mean loss of the batch, on the device."""
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        images, classes = self.normalise(pixels), targets.to(self.device, non_blocking=True)
        with self.mode.autocast(self.device):
            logits = self.model(images)
        loss = cross_entropy(logits.float(), classes, self.weights, label_smoothing=self.recipe.label_smoothing)
        torch.autograd.backward(loss)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        if self.average is not None:
            self.average.update(self.model, self.step)
        return loss.detach()

    @torch.inference_mode()
    def judge(self, batches: Iterable[Batch]) -> dict[str, float]:
        """val_loss, val_calibrated_loss and val_accuracy over all samples of `batches`, of `kept`.

        The calibrated loss is the loss at the temperature that fits best. Every bundle gets one, so that how sure a
        model is of itself is no reason to choose or to leave it; by the plain loss, a model that knows nothing and says
        so is better than one that is often right and too sure.
        """
        model = self.kept.eval()
        parts: list[tuple[torch.Tensor, torch.Tensor]] = []
        for pixels, targets in batches:
            images, classes = self.normalise(pixels), targets.to(self.device, non_blocking=True)
            with self.mode.autocast(self.device):
                parts.append((model(images).float(), classes))
        logits, classes = (torch.cat(part) for part in zip(*parts, strict=True))
        judged = {"val_loss": self._loss(logits, classes)}
        fits = math.isfinite(judged["val_loss"])
        temperature = fit_temperature(logits.cpu().numpy(), classes.cpu().numpy()) if fits else 1.0
        judged["val_calibrated_loss"] = self._loss(logits / temperature, classes)
        return judged | {"val_accuracy": float((logits.argmax(1) == classes).double().mean())}

    def _loss(self, logits: torch.Tensor, classes: torch.Tensor) -> float:
        """The mean over samples; where classes have weights, the weighted one."""
        return float(cross_entropy(logits.double(), classes, None if self.weights is None else self.weights.double()))

    def record(self, train_loss: float, judged: Mapping[str, float]) -> bool:
        """Close the epoch; whether it is the best so far, and `kept` should be stored."""
        last = optim.learning_rate(self.recipe, self.step - 1, self.steps_per_epoch)
        self.epoch += 1
        self.history.append({"epoch": self.epoch, "learning_rate": last, "train_loss": train_loss, **judged})
        if self.best and judged["val_calibrated_loss"] >= self.best["val_calibrated_loss"]:
            return False
        self.best = {"epoch": self.epoch, "val_calibrated_loss": judged["val_calibrated_loss"]}
        return True

    def tensors(self) -> Tensors:
        """Everything that is a tensor, by name."""
        parts = {"model": self.model.state_dict()}
        if self.average is not None:
            parts["average"] = self.average.module.state_dict()
        for index, state in self.optimizer.state_dict()["state"].items():
            parts[f"optimizer.{index}"] = {name: value for name, value in state.items() if value is not None}
        return {f"{part}.{name}": tensor for part, state in parts.items() for name, tensor in state.items()}

    def facts(self) -> dict[str, Any]:
        """Everything else, as JSON."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "history": self.history,
            "best": self.best,
            "mode": asdict(self.mode),
            "timing": asdict(self.timing),
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Become what `tensors` and `facts` were taken from, a learner of the same model and recipe."""
        facts = checkpoint.facts
        self.epoch, self.step = facts["epoch"], facts["step"]
        self.history, self.best, self.timing = facts["history"], facts["best"], Timing(**facts["timing"])
        self.model.load_state_dict(_part(checkpoint.tensors, "model."))
        if self.average is not None:
            self.average.module.load_state_dict(_part(checkpoint.tensors, "average."))
        self._restore_optimizer(checkpoint.tensors)

    def _restore_optimizer(self, tensors: Tensors) -> None:
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        states = {}
        for index, parameter in enumerate(parameters):
            state = _part(tensors, f"optimizer.{index}.")
            # The fused optimizers walk through parameter and state side by side in memory: both need one layout.
            states[index] = {
                name: torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value
                for name, value in state.items()
            }
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": states, "param_groups": groups})


def _part(tensors: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
