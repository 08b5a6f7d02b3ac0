"""What a test set of a size can show by a policy, before anything is measured on it."""

from typing import Any

from assay.config import ChampionRule, Policy
from assay.gate.statistics.multiplicity import confidence_at
from assay.gate.statistics.power import (
    Question,
    images_needed,
    images_needed_for_floor,
    least_images,
    power_of_difference,
    power_of_floor,
    smallest_difference,
)
from assay.gate.words import bound, margin, percent

SIZES = (200, 500, 1_000, 2_000, 5_000, 10_000, 40_000)
BETTER = 0.5
"""Where a model stands whose power against a floor is told: so much of the way from the floor to 1."""


def plan(policy: Policy, images: int | None, discordance: float, look: int = 1) -> dict[str, Any]:
    """The power of a policy's comparison and floor of accuracy.

    Args:
        policy: what is asked.
        images: in the test split; None for a table of `SIZES`.
        discordance: share of the images that only one of candidate and champion gets right.
        look: number of the look at the test set.
    """
    confidence = confidence_at(policy.confidence, look)
    question = _question(policy.champion, discordance, confidence)
    sizes = (images,) if images else SIZES
    floor = policy.floors.accuracy
    return {
        "rule": policy.champion.rule,
        "margin": policy.champion.margin,
        "min_improvement": policy.champion.min_improvement,
        "discordance": discordance,
        "look": look,
        "confidence": confidence,
        "power": policy.power,
        "sizes": [_size(policy, question, n) for n in sizes],
        "images_needed": images_needed(question.least, discordance, confidence, policy.power, question.difference),
        "least_images": least_images(policy.champion.margin, confidence) if question.least < 0 else None,
        "floor": floor,
        "images_needed_for_floor": _for_floor(floor, confidence, policy.power),
    }


def plan_text(planned: dict[str, Any]) -> str:
    """For a person."""
    superior = planned["rule"] == "superior"
    wanted = "better" if superior else f"not worse by more than {margin(planned['margin'])}"
    supposed = "a candidate that wins two of three disagreements" if superior else "an equally good candidate"
    lines = [
        f"{wanted}, for {supposed}; {percent(planned['discordance'])} of the answers differ; look {planned['look']}, "
        f"intervals at {percent(planned['confidence'], 2)}",
        "",
        f"{'images':>8}  {'shown with chance':>18}  {'smallest margin at ' + percent(planned['power'], 0):>22}",
    ]
    for row in planned["sizes"]:
        lines.append(f"{row['images']:>8,}  {percent(row['power']):>18}  {margin(row['smallest_margin']):>22}")
    lines += ["", f"enough for {percent(planned['power'], 0)}: {_images(planned['images_needed'])}"]
    if planned["least_images"]:
        lines.append(f"with fewer than {planned['least_images']:,} images no candidate can show it")
    if planned["floor"] is not None:
        better = percent(_expected(planned["floor"]), 1)
        enough = _images(planned["images_needed_for_floor"])
        lines.append(f"accuracy of at least {bound(planned['floor'])}, for a candidate of {better}: {enough}")
    return "\n".join(lines)


def _question(asked: ChampionRule, discordance: float, confidence: float) -> Question:
    if asked.rule == "non_inferior":
        return Question(-asked.margin, 0.0, discordance, confidence)
    return Question(asked.min_improvement, max(discordance / 3, 2 * asked.min_improvement), discordance, confidence)


def _size(policy: Policy, question: Question, n: int) -> dict[str, Any]:
    floor = policy.floors.accuracy
    smallest = smallest_difference(n, question.discordance, question.confidence, policy.power)
    return {
        "images": n,
        "power": power_of_difference(n, question),
        "smallest_margin": float(f"{smallest:.2g}"),
        "power_of_floor": None if floor is None else power_of_floor(n, floor, _expected(floor), question.confidence),
    }


def _expected(floor: float) -> float:
    return floor + BETTER * (1 - floor)


def _for_floor(floor: float | None, confidence: float, power: float) -> int | None:
    return None if floor is None else images_needed_for_floor(floor, _expected(floor), confidence, power)


def _images(number: int | None) -> str:
    return "no number of images would do" if number is None else f"{number:,} images"
