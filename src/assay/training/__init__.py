"""Training: images and a recipe in; the best weights, and what they were trained with, out."""

from assay.training.loop import MetricLog, train
from assay.training.trained import Trained

__all__ = ["MetricLog", "Trained", "train"]
