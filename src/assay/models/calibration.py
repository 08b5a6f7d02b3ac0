"""Temperature scaling: one number that makes the probabilities as large as they are right."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

TEMPERATURES = (0.2, 10.0)
"""Bounds of the fit. On a split without a mistake the likelihood grows for ever as the temperature falls to 0, where
every answer is "100%": the lower bound is what such a split gets. Label smoothing of 0.1 needs about 0.4."""
DECIMALS = 4
"""The fit is rounded to this: finer digits carry no information, and differ between processors."""


def fit_temperature(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> float:
    """The temperature T that minimises the mean negative log likelihood of softmax(logits / T).

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2. The ranking of the classes does not
    change. 1.0 where the targets do not determine it: fewer than two classes among them, or no T is better.

    Args:
        logits: [n, classes], of a split that was not trained on.
        targets: [n], class indices.

    Returns:
        T within `TEMPERATURES`, to `DECIMALS` decimals.

    Raises:
        ValueError: a logit is not finite, or the shapes do not match.
    """
    if logits.ndim != 2 or targets.shape != logits.shape[:1]:
        raise ValueError(f"logits {list(logits.shape)} and targets {list(targets.shape)} do not match")
    if not np.isfinite(logits).all():
        raise ValueError("a logit is not a finite number")
    if len(np.unique(targets)) < 2:
        return 1.0
    found = minimize_scalar(
        lambda log_t: negative_log_likelihood(logits, targets, float(np.exp(log_t))),
        bounds=np.log(TEMPERATURES),
        method="bounded",
        options={"xatol": 1e-6},
    )
    # min() keeps the first of equals: no change where none is better.
    candidates = (1.0, round(float(np.exp(found.x)), DECIMALS))
    return min(candidates, key=lambda t: round(negative_log_likelihood(logits, targets, t), 12))


def negative_log_likelihood(logits: NDArray[np.float32], targets: NDArray[np.int64], temperature: float) -> float:
    """Mean of -log softmax(logits / temperature)[target], in nats."""
    scaled = logits.astype(np.float64) / temperature
    return float((logsumexp(scaled, axis=1) - scaled[np.arange(len(targets)), targets]).mean())
