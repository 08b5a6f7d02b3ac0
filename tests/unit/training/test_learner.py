from typing import Any

import numpy as np
import pytest
import torch

from assay.config import Recipe
from assay.training.feed import Batch
from assay.training.learner import Learner
from assay.training.precision import Mode, Normaliser

Samples = tuple[np.ndarray, np.ndarray]
FP32 = Mode("fp32", False)


def learner(targets: np.ndarray, model: torch.nn.Module | None = None, **settings: Any) -> Learner:
    torch.manual_seed(0)
    net = model or torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 4 * 4, 3))
    normalise = Normaliser((0.5,) * 3, (0.25,) * 3, FP32, torch.device("cpu"))
    return Learner(net, Recipe(backbone="any", batch_size=4, **settings), FP32, normalise, targets, 3)


@pytest.fixture
def samples() -> Samples:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (23, 4, 4, 3), np.uint8), rng.permutation(np.arange(23) % 3)


def batches(samples: Samples, size: int) -> list[Batch]:
    pixels, targets = samples
    cuts = range(size, len(targets), size)
    return [
        (torch.from_numpy(p), torch.from_numpy(t))
        for p, t in zip(np.split(pixels, cuts), np.split(targets, cuts), strict=True)
    ]


@pytest.mark.parametrize("class_weights", [False, True])
@pytest.mark.parametrize("size", [1, 4, 10, 22, 23])
def test_validation_is_over_samples_however_they_are_batched(samples: Samples, size: int, class_weights: bool) -> None:
    pixels, targets = samples
    judge = learner(np.array([0, 0, 0, 1, 2]), class_weights=class_weights, label_smoothing=0.3)
    judged = judge.judge(batches(samples, size))
    logits = judge.model(((torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255) - 0.5) / 0.25).detach().double()
    each = -torch.log_softmax(logits, 1)[torch.arange(23), targets].numpy()
    weights = np.array([5 / 9, 5 / 3, 5 / 3])[targets] if class_weights else np.ones(23)
    assert judged["val_accuracy"] == (logits.argmax(1).numpy() == targets).mean()
    assert judged["val_loss"] == pytest.approx((each * weights).sum() / weights.sum(), rel=1e-5)


def test_how_sure_a_model_is_of_itself_does_not_count(samples: Samples) -> None:
    """Nor does a model that knows nothing, and says so, seem better than one that is mostly right and too sure."""
    torch.manual_seed(0)
    targets = torch.arange(23) % 2
    right = torch.where(torch.arange(23) < 20, targets, 1 - targets)
    plain = torch.nn.functional.one_hot(right, 3).float()
    sure, ignorant = 9 * plain, 0.01 * torch.randn(23, 3)
    figures = [judged_by(samples[1], logits, targets) for logits in (plain, sure, ignorant)]
    assert figures[1]["val_loss"] > figures[2]["val_loss"]
    assert figures[1]["val_calibrated_loss"] == pytest.approx(figures[0]["val_calibrated_loss"], rel=0.05)
    assert figures[1]["val_calibrated_loss"] < 0.6 * figures[2]["val_calibrated_loss"]


def judged_by(of: np.ndarray, logits: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
    """What a learner says of a model that gives these logits."""
    judge = learner(of)
    judge.model = torch.nn.Sequential(Given(logits))
    return judge.judge([(torch.zeros(len(targets), 4, 4, 3, dtype=torch.uint8), targets)])


class Given(torch.nn.Module):
    """Gives the same answer to whatever it is asked."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits


def test_judging_changes_nothing(samples: Samples) -> None:
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Dropout(), torch.nn.Flatten(), torch.nn.Linear(48, 3))
    judge = learner(samples[1], model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert judge.judge(batches(samples, 5)) == judge.judge(batches(samples, 5))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_step_learns_at_the_rate_of_the_schedule(samples: Samples) -> None:
    student = learner(
        samples[1], optimizer="sgd", momentum=0.0, weight_decay=0.0, learning_rate=0.5, schedule="constant"
    )
    weight = student.model[1].weight
    before = weight.detach().clone()
    ((pixels, targets), *_) = batches(samples, 4)
    loss = torch.nn.functional.cross_entropy(student.model(student.normalise(pixels)), targets)
    (gradient,) = torch.autograd.grad(loss, weight)
    assert student.learn(pixels, targets) == pytest.approx(loss.item())
    assert torch.allclose(weight, before - 0.5 * gradient, atol=1e-6)
    assert student.step == 1


def test_the_average_is_what_is_judged(samples: Samples) -> None:
    student = learner(samples[1], ema=0.9, learning_rate=0.1)
    for pixels, targets in batches(samples, 4):
        student.learn(pixels, targets)
    assert student.kept is not student.model
    assert not torch.equal(student.kept[1].weight, student.model[1].weight)
    assert learner(samples[1]).kept is not student.kept


def test_smoothing_is_for_training_alone(samples: Samples) -> None:
    ((pixels, targets), *_) = batches(samples, 4)
    plain, smooth = learner(samples[1]), learner(samples[1], label_smoothing=0.5)
    assert plain.judge([(pixels, targets)]) == smooth.judge([(pixels, targets)])
    assert plain.learn(pixels, targets) != smooth.learn(pixels, targets)


def test_the_first_of_equal_epochs_is_the_best(samples: Samples) -> None:
    student = learner(samples[1], patience=2)
    improved = []
    for loss in (2.0, 1.0, 1.0, 1.5):
        assert not student.exhausted
        student.step += student.steps_per_epoch
        improved.append(student.record(0.0, {"val_loss": 9 - loss, "val_calibrated_loss": loss, "val_accuracy": 0.5}))
    assert improved == [True, True, False, False]
    assert student.best == {"epoch": 2, "val_calibrated_loss": 1.0}
    assert student.exhausted
