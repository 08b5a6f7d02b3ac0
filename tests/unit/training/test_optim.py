import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from assay.config import Recipe
from assay.training.optim import class_weights, learning_rate, optimizer


def rates(steps_per_epoch: int = 10, **settings: Any) -> list[float]:
    recipe = Recipe(backbone="any", **({"epochs": 4, "learning_rate": 0.1, "min_learning_rate": 0.001} | settings))
    return [learning_rate(recipe, step, steps_per_epoch) for step in range(recipe.epochs * steps_per_epoch)]


def test_cosine_falls_from_the_highest_to_the_lowest() -> None:
    values = rates(schedule="cosine")
    assert values[0] == pytest.approx(0.1)
    assert values[-1] == pytest.approx(0.001)
    assert values == sorted(values, reverse=True)
    assert values[13] == pytest.approx(0.001 + 0.099 * (1 + math.cos(math.pi / 3)) / 2)


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_warm_up_is_linear(schedule: str) -> None:
    values = rates(schedule=schedule, warmup_epochs=0.5)
    assert values[:5] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])
    assert values[5] == pytest.approx(0.1)


def test_constant_stays() -> None:
    assert set(rates(schedule="constant")) == {0.1}


def test_one_cycle_rises_then_falls() -> None:
    values = rates(schedule="one_cycle")
    assert values[0] == pytest.approx(0.1 / 25)
    assert values[12] == pytest.approx(0.1)
    assert values[-1] == pytest.approx(0.001)
    assert values[:13] == sorted(values[:13])
    assert values[12:] == sorted(values[12:], reverse=True)
    assert int(np.argmax(rates(schedule="one_cycle", warmup_epochs=1))) == 10


@given(
    schedule=st.sampled_from(["cosine", "one_cycle", "constant"]),
    epochs=st.integers(1, 5),
    steps=st.integers(1, 20),
    warmup=st.floats(0, 10),
    highest=st.floats(1e-8, 10),
    lowest=st.floats(0, 1),
)
def test_every_step_has_a_rate_within_bounds(
    schedule: str, epochs: int, steps: int, warmup: float, highest: float, lowest: float
) -> None:
    values = rates(
        steps,
        schedule=schedule,
        epochs=epochs,
        warmup_epochs=warmup,
        learning_rate=highest,
        min_learning_rate=lowest,
    )
    assert all(0 <= value <= highest * (1 + 1e-9) for value in values)


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_norms_and_biases_do_not_decay(name: str, kind: type) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    made = optimizer(model, Recipe(backbone="any", optimizer=name, weight_decay=0.3, momentum=0.7))
    decays = {id(p): group["weight_decay"] for group in made.param_groups for p in group["params"]}
    assert isinstance(made, kind)
    assert decays.pop(id(model[0].weight)) == 0.3
    assert list(decays.values()) == [0, 0, 0]


def test_what_the_model_exempts_does_not_decay() -> None:
    class Positioned(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.position = torch.nn.Parameter(torch.zeros(4, 4))

        def no_weight_decay(self) -> set[str]:
            return {"position"}

    made = optimizer(Positioned(), Recipe(backbone="any"))
    assert [group["weight_decay"] for group in made.param_groups] == [0]


def test_rare_classes_weigh_more() -> None:
    targets = np.array([0] * 6 + [1] * 2)
    weights = class_weights(targets, 2)
    assert weights.tolist() == pytest.approx([8 / 12, 8 / 4])
    assert float(weights[targets].mean()) == pytest.approx(1)
