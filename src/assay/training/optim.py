"""Optimizers, the learning rate of each step, and the weights of the classes."""

import math
from collections.abc import Collection

import numpy as np
import timm.optim
import torch

from assay.config import Recipe

ONE_CYCLE_WARMUP = 0.3
"""Share of the steps that one-cycle warms up in, unless the recipe says how many epochs."""
ONE_CYCLE_START = 1 / 25
"""The learning rate that one-cycle starts from, as a share of its highest."""


def optimizer(model: torch.nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer; weights decay, but norms, biases and what the model itself exempts do not."""
    exempt: Collection[str] = getattr(model, "no_weight_decay", tuple)()
    groups = timm.optim.param_groups_weight_decay(model, recipe.weight_decay, no_weight_decay_list=exempt)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum, fused=True)
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step, counted from 0 over the whole training.

    - `cosine`: linear warm-up over `warmup_epochs`, then half a cosine to `min_learning_rate` (Loshchilov and Hutter,
      SGDR, 2017, without restarts).
    - `one_cycle`: half a cosine up from 1/25 over `warmup_epochs` (30% of the training if 0), and one down to
      `min_learning_rate` (Smith and Topin, Super-Convergence, 2018; as torch's OneCycleLR, momentum fixed).
    - `constant`: linear warm-up, then `learning_rate`.
    """
    total = recipe.epochs * steps_per_epoch
    warmup = min(total, round(recipe.warmup_epochs * steps_per_epoch))
    high, low = recipe.learning_rate, min(recipe.min_learning_rate, recipe.learning_rate)
    if recipe.schedule == "one_cycle":
        warmup = warmup or round(ONE_CYCLE_WARMUP * total)
        if step < warmup:
            return _cosine(high * ONE_CYCLE_START, high, step / warmup)
    elif step < warmup:
        return high * (step + 1) / warmup
    if recipe.schedule == "constant":
        return high
    return _cosine(high, low, (step - warmup) / max(1, total - warmup - 1))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(share, 1.0))) / 2


def class_weights(targets: np.ndarray, classes: int) -> torch.Tensor:
    """Inverse class frequencies, float32 [classes], scaled so that their mean over the samples is 1.

    Each class has a sample in `targets`, int64 [n].
    """
    counts = np.bincount(targets, minlength=classes)
    return torch.from_numpy(len(targets) / (classes * counts)).float()
