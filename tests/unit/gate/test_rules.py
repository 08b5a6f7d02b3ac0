"""Each rule beyond floors and comparison, on evidence whose mistakes are chosen."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from assay.evaluation.challenges import CHALLENGES
from assay.evaluation.evidence import Evidence
from assay.evaluation.slices import ATTRIBUTES
from assay.gate import Decision, judge
from assay.models.abstention import Abstention

from evidences import ALONE, LABELS, META, evidence, policy, ruled, table, with_column


def told(case: Evidence, rule: str, look: int = 1, **parts: Any) -> Any:
    """The one finding of a rule."""
    return ruled(judge(case, policy(**parts), bootstrap=case.champion is None, look=look), rule)


def with_attributes(case: Evidence, **columns: Any) -> Evidence:
    n = case.candidate.num_rows
    arrays = [
        case.candidate["uri"] if field.name == "uri" else pa.array(columns.get(field.name, [None] * n), field.type)
        for field in ATTRIBUTES
    ]
    return replace(case, attributes=pa.table(arrays, schema=ATTRIBUTES))


def with_challenge(case: Evidence, kind: str, name: str, right: Any, severity: int = 0) -> Evidence:
    """Answers to one challenge for the first images of the test split, right or wrong as told."""
    rows = case.candidate.slice(0, len(right))
    labels = rows["label"].to_pylist()
    answers = [label if good else LABELS[1 - LABELS.index(label)] for label, good in zip(labels, right, strict=True)]
    columns = {
        "kind": [kind] * len(right),
        "name": [name] * len(right),
        "severity": pa.array([severity] * len(right), pa.int8()),
        "uri": rows["uri"],
        "label": labels,
        "p": pa.array([[0.9, 0.1] if a == LABELS[0] else [0.1, 0.9] for a in answers], pa.list_(pa.float32())),
        "predicted": answers,
    }
    part = pa.table(columns, schema=CHALLENGES)
    return replace(case, challenges=part if case.challenges is None else pa.concat_tables([case.challenges, part]))


def grouped(predictions: pa.Table, size: int) -> pa.Table:
    return with_column(predictions, "group", [f"g{i // size}" for i in range(predictions.num_rows)])


# groups


def test_images_of_one_group_count_for_less_than_independent_ones() -> None:
    wrong = [i for i in range(1000) if i // 10 in (3, 57)]  # whole groups are wrong: they hang together
    alone = told(evidence(table(1000, wrong)), "floor.accuracy", floors={"accuracy": 0.9})
    together = told(evidence(grouped(table(1000, wrong), 10)), "floor.accuracy", floors={"accuracy": 0.9})
    assert together.low < alone.low
    assert "100 groups" in together.method


def test_a_handful_of_groups_shows_nothing() -> None:
    finding = told(evidence(grouped(table(1000), 100)), "floor.accuracy", floors={"accuracy": 0.5})
    assert finding.outcome is Decision.INSUFFICIENT_DATA
    assert "10 groups" in finding.sentence


def test_a_comparison_knows_groups_too() -> None:
    ours, theirs = table(2000, range(20)), table(2000, range(20, 60))
    asked = {"champion": {"rule": "superior"}}
    alone = told(evidence(ours, theirs), "superior", **asked)
    together = told(evidence(grouped(ours, 20), grouped(theirs, 20)), "superior", **asked)
    assert alone.outcome is Decision.PROMOTE
    assert together.low < alone.low


# looks


def test_a_later_look_must_be_surer() -> None:
    first, tenth = (
        told(evidence(table(1000, range(9))), "floor.accuracy", look, floors={"accuracy": 0.9}) for look in (1, 10)
    )
    assert tenth.low < first.low
    assert (first.confidence, tenth.confidence) == (0.975, pytest.approx(1 - 0.05 / 110))


def test_a_test_set_that_is_spent_asks_for_another() -> None:
    verdict = judge(evidence(table(5000)), policy(floors={"accuracy": 0.5}, looks=3), bootstrap=True, look=4)
    assert verdict.decision is Decision.INSUFFICIENT_DATA
    assert "look 4" in verdict.reasons[0]
    assert judge(evidence(table(5000)), policy(floors={"accuracy": 0.5}, looks=3), True, look=3).decision == "PROMOTE"


# operating point

POINT = {"operating_point": {"label": "crack", "max_false_positive_rate": 0.05, "recall": 0.9}}


def test_recall_at_a_rate_of_false_alarms() -> None:
    good = told(evidence(table(1000)), "operating_point", **POINT)
    assert (good.outcome, good.measured) == (Decision.PROMOTE, 1.0)
    assert good.low == pytest.approx((0.0125 / 2) ** (1 / 500), abs=1e-8)
    blind = with_column(table(1000), "p", [[0.5, 0.5]] * 1000)  # ties: no threshold tells them apart
    blind = with_column(blind, "predicted", ["crack"] * 1000)
    assert told(evidence(blind), "operating_point", **POINT).outcome is Decision.HOLD


def test_too_few_images_of_the_other_classes_say_how_many_it_takes() -> None:
    finding = told(evidence(table(100)), "operating_point", **POINT)
    assert finding.outcome is Decision.INSUFFICIENT_DATA
    assert "50 images of the other classes cannot show that rate; 99 would" in finding.sentence


@pytest.mark.parametrize(("cracks", "outcome"), [(0, "INSUFFICIENT_DATA"), (1, "INSUFFICIENT_DATA")])
def test_an_operating_point_takes_both_kinds_of_images(cracks: float, outcome: str) -> None:
    assert told(evidence(table(500, cracks=cracks)), "operating_point", **POINT).outcome == outcome


def test_an_operating_point_of_an_unknown_class_is_refused() -> None:
    asked = {"operating_point": {"label": "dent", "max_false_positive_rate": 0.05, "recall": 0.9}}
    assert told(evidence(table(500)), "operating_point", **asked).outcome is Decision.REFUSE


# calibration


def test_honest_probabilities_pass_and_boasting_ones_do_not() -> None:
    asked = {"calibration": {"max_error": 0.05}}
    honest = told(evidence(table(4000, range(400))), "calibration", **asked)  # says 90%, is right in 90%
    boasting = told(evidence(table(4000, range(1200))), "calibration", **asked)
    assert (honest.outcome, boasting.outcome) == (Decision.PROMOTE, Decision.HOLD)
    assert honest.high <= 0.05 < boasting.measured


# slices

DARK = {"slices": {"of": ["dark"], "accuracy": 0.8, "max_drop": 0.05, "min_images": 30}}


def shaded(dark: int, wrong: int, champion_wrong: int | None = None) -> Evidence:
    """1,000 images of which the first are dark, and of those the first are wrong."""
    champion = None if champion_wrong is None else table(1000, range(champion_wrong))
    brightness = [0.1] * dark + [0.5] * (1000 - dark)
    return with_attributes(evidence(table(1000, range(wrong)), champion), brightness=brightness)


def test_a_slice_that_is_significantly_bad_stands_in_the_way() -> None:
    finding = told(shaded(100, 40), "slice", **DARK)
    assert finding.outcome is Decision.HOLD
    assert "slice dark: accuracy 60.0% of 100 images is below 80%" in finding.sentence


def test_a_slice_that_may_be_bad_by_chance_does_not() -> None:
    finding = told(shaded(100, 22), "slice", **DARK)
    assert finding.outcome is Decision.PROMOTE
    assert "is not shown to be below 80%" in finding.sentence


def test_a_slice_that_is_too_small_is_only_told() -> None:
    finding = told(shaded(29, 29), "slice", **DARK)
    assert (finding.outcome, finding.measured) == (Decision.PROMOTE, None)
    assert "29 images, accuracy 0.0%; fewer than 30" in finding.sentence


def test_a_slice_that_got_worse_than_the_champion_s_stands_in_the_way() -> None:
    verdict = judge(shaded(200, 36, champion_wrong=2), policy(**DARK))
    floor, drop = (finding for finding in verdict.findings if finding.rule == "slice")
    assert (floor.outcome, drop.outcome) == (Decision.PROMOTE, Decision.HOLD)
    assert "worse than champion 3 (99.0%) by more than 5 points" in drop.sentence


def test_slices_are_corrected_for_their_number() -> None:
    case = shaded(100, 30)
    alone = told(case, "slice", **DARK)
    many = [{"name": f"s{i}", "column": "brightness", "below": 0.3 + i / 1000} for i in range(40)]
    verdict = judge(case, policy(slices={**DARK["slices"], "of": many}), bootstrap=True)
    together = [finding for finding in verdict.findings if finding.rule == "slice"]
    assert alone.outcome is Decision.HOLD
    assert {finding.outcome for finding in together} == {Decision.PROMOTE}
    assert together[0].p_value == pytest.approx(min(40 * alone.p_value, 1))


def test_a_later_look_does_not_weaken_a_veto() -> None:
    assert told(shaded(100, 30), "slice", look=10, **DARK).outcome is Decision.HOLD


def test_a_slice_of_a_few_groups_is_less_sure_to_be_worse_than_the_champion_s() -> None:
    case = shaded(200, 36, champion_wrong=2)
    together = replace(case, candidate=grouped(case.candidate, 20), champion=grouped(case.champion, 20))
    drops = [
        next(f for f in judge(each, policy(**DARK)).findings if f.rule == "slice" and f.bound == -0.05)
        for each in (case, together)
    ]
    assert drops[0].p_value < 0.01 < drops[1].p_value  # type: ignore[operator]


@pytest.mark.parametrize("of", [["no such slice"], [{"name": "x", "column": "no_column", "below": 1}]])
def test_an_unknown_slice_is_refused(of: Any) -> None:
    assert told(shaded(100, 0), "slice", slices={"of": of, "accuracy": 0.5}).outcome is Decision.REFUSE


def test_slices_without_attributes_are_refused() -> None:
    assert told(evidence(table(100)), "slice", **DARK).outcome is Decision.REFUSE


def test_attributes_of_other_images_are_refused() -> None:
    case = shaded(100, 0)
    other = replace(case, candidate=case.candidate.take(list(reversed(range(1000)))))
    assert judge(other, policy(**DARK), bootstrap=True).decision is Decision.REFUSE


# corruptions and behaviour

WORSE = {"corruptions": {"min_relative_accuracy": 0.7}}


def test_corruptions_count_what_survives_of_right_answers() -> None:
    case = evidence(table(1000, range(100)))
    case = with_challenge(case, "corruption", "fog", [False] * 100 + [True] * 800, severity=1)
    case = with_challenge(case, "corruption", "fog", [False] * 100 + [True] * 600 + [False] * 200, severity=3)
    finding = told(case, "corruptions", **WORSE)
    assert finding.measured == pytest.approx((600 + 200 / 2) / 800)
    assert finding.outcome is Decision.PROMOTE


def test_a_model_that_corruption_ruins_is_held() -> None:
    case = with_challenge(evidence(table(1000)), "corruption", "fog", [True] * 100 + [False] * 100, severity=5)
    assert told(case, "corruptions", **WORSE).outcome is Decision.HOLD


@pytest.mark.parametrize("stays", [True, False])
def test_answers_must_survive_a_flip(stays: bool) -> None:
    case = with_challenge(evidence(table(1000)), "behaviour", "horizontal_flip", [stays] * 200)
    finding = told(case, "behaviour.invariance", behaviour={"invariance": 0.9})
    assert finding.outcome is (Decision.PROMOTE if stays else Decision.HOLD)


def test_confidence_must_not_rise_with_less_contrast() -> None:
    calm = with_challenge(evidence(table(1000)), "behaviour", "lower_contrast", [True] * 200)
    surer = calm.challenges.set_column(  # type: ignore[union-attr]
        5, "p", pa.array([[0.99, 0.01]] * 200, pa.list_(pa.float32()))
    )
    asked = {"behaviour": {"contrast": 0.9}}
    assert told(calm, "behaviour.contrast", **asked).outcome is Decision.PROMOTE
    assert told(replace(calm, challenges=surer), "behaviour.contrast", **asked).outcome is Decision.HOLD


@pytest.mark.parametrize(
    ("asked", "rule"),
    [
        (WORSE, "corruptions"),
        ({"behaviour": {"invariance": 0.9}}, "behaviour"),
        ({"abstention": {"coverage": 0.9}}, "abstention.coverage"),
        ({"abstention": {"unfamiliar_auroc": 0.9}}, "abstention.unfamiliar"),
        ({"budgets": {"latency_ms": 5}}, "budget.latency"),
        ({"budgets": {"bundle_mb": 5}}, "budget.size"),
        ({"budgets": {"parity": 5}}, "budget.parity"),
    ],
)
def test_what_was_not_measured_is_refused(asked: dict[str, Any], rule: str) -> None:
    assert told(evidence(table(1000)), rule, **asked).outcome is Decision.REFUSE


@pytest.mark.parametrize("column", ["uri", "predicted", "p"])
def test_broken_challenges_are_refused(column: str) -> None:
    case = with_challenge(evidence(table(1000)), "corruption", "fog", [True] * 200, severity=1)
    place = CHALLENGES.get_field_index(column)
    broken: Any = [[float("nan"), 1.0]] * 200 if column == "p" else [None] * 200
    challenges = case.challenges.set_column(  # type: ignore[union-attr]
        place, column, pa.array(broken, CHALLENGES.field(column).type)
    )
    verdict = judge(replace(case, challenges=challenges), policy(**WORSE), bootstrap=True)
    assert verdict.decision is Decision.REFUSE


# abstention


def test_coverage_and_answers_by_the_threshold_of_the_bundle() -> None:
    meta = ALONE.model_copy(update={"abstention": Abstention(coverage=0.95, threshold=0.5)})
    case = evidence(table(1000, range(30)), meta=meta)
    asked = {"abstention": {"coverage": 0.95, "answered": 0.95}}
    assert told(case, "abstention.coverage", **asked).measured == 0.97
    assert told(case, "abstention.answered", **asked).measured == 1.0
    strict = replace(case, meta=meta.model_copy(update={"abstention": Abstention(coverage=0.95, threshold=0.95)}))
    assert told(strict, "abstention.answered", **asked).outcome is Decision.HOLD


@pytest.mark.parametrize(("confidence", "outcome"), [(0.55, Decision.PROMOTE), (0.95, Decision.HOLD)])
def test_confidence_tells_unfamiliar_images(confidence: float, outcome: Decision) -> None:
    case = with_challenge(evidence(table(1000)), "unfamiliar", "noise", [True] * 200)
    strange = case.challenges.set_column(  # type: ignore[union-attr]
        5, "p", pa.array([[confidence, 1 - confidence]] * 200, pa.list_(pa.float32()))
    )
    strange = strange.set_column(3, "uri", pa.array([f"unfamiliar/{i}" for i in range(200)]))
    strange = strange.set_column(4, "label", pa.nulls(200, pa.string()))
    finding = told(replace(case, challenges=strange), "abstention.unfamiliar", abstention={"unfamiliar_auroc": 0.9})
    assert finding.outcome is outcome


# budgets


@pytest.mark.parametrize(
    ("times", "outcome"),
    [
        ([4.0] * 200, Decision.PROMOTE),
        ([4.0] * 191 + [9.0] * 9, Decision.INSUFFICIENT_DATA),  # the 95th percentile is 4, and may well be 9
        ([4.0] * 150 + [9.0] * 50, Decision.HOLD),
        ([4.0] * 20, Decision.INSUFFICIENT_DATA),
    ],
)
def test_latency_is_judged_by_its_upper_limit(times: list[float], outcome: Decision) -> None:
    case = evidence(table(100), meta=ALONE.model_copy(update={"latency_ms": tuple(times)}))
    assert told(case, "budget.latency", budgets={"latency_ms": 5}).outcome is outcome


@pytest.mark.parametrize(("size", "outcome"), [(5_000_000, Decision.PROMOTE), (5_000_001, Decision.HOLD)])
def test_the_bundle_has_a_budget(size: int, outcome: Decision) -> None:
    case = evidence(table(100), meta=ALONE.model_copy(update={"bundle_bytes": size, "parity": 1e-4}))
    assert told(case, "budget.size", budgets={"bundle_mb": 5}).outcome is outcome
    parity = told(case, "budget.parity", budgets={"parity": 1e-5})
    assert (parity.outcome, parity.measured) == (Decision.HOLD, 1e-4)


def test_every_policy_part_is_asked_of_the_candidate_beside_a_champion_too() -> None:
    case = evidence(table(1000), table(1000, range(50)), META)
    verdict = judge(case, policy(calibration={"max_error": 0.5}, budgets={"parity": 1}))
    assert {finding.rule for finding in verdict.findings} >= {"calibration", "budget.parity", "non_inferior"}
    assert np.isfinite([finding.measured for finding in verdict.findings if finding.measured is not None]).all()
