from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.config import Policy
from assay.evaluation.evidence import Evidence, EvidenceMeta
from assay.evaluation.predictions import PREDICTIONS
from assay.gate import Decision, Verdict, judge
from assay.gate.statistics.paired import difference
from assay.gate.statistics.proportions import limits

from evidences import ALONE, LABELS, META, evidence, policy, ruled, table, with_column

FIRST_LOOK = 0.975
"""Confidence of the first look at a test set, by a policy of 0.95."""
NON_INFERIOR = {"champion": {"rule": "non_inferior", "margin": 0.01}}
FLOOR = policy(floors={"accuracy": 0.95})


def test_a_floor_that_the_lower_end_reaches_is_passed() -> None:
    verdict = judge(evidence(table(1000, range(10))), FLOOR, bootstrap=True)
    finding = ruled(verdict, "floor.accuracy")
    assert verdict.decision is Decision.PROMOTE
    assert (finding.measured, finding.bound, finding.passed) == (0.99, 0.95, True)
    assert finding.sentence == "accuracy 99.0% [98.0, 99.6] is at least 95%"


def test_a_floor_that_only_the_point_reaches_lacks_data_and_says_how_much() -> None:
    verdict = judge(evidence(table(100, range(3))), FLOOR, bootstrap=True)
    assert verdict.decision is Decision.INSUFFICIENT_DATA
    assert verdict.reasons == (
        "accuracy 97.0% [90.6, 99.5] is above 95%, but 100 test images do not show it "
        "(about 590 would, at the same measured value)",
    )


def test_the_number_that_would_be_enough_is_enough() -> None:
    enough = judge(evidence(table(600, range(18))), FLOOR, bootstrap=True)
    short = judge(evidence(table(533, range(16))), FLOOR, bootstrap=True)
    assert (enough.decision, short.decision) == (Decision.PROMOTE, Decision.INSUFFICIENT_DATA)


@pytest.mark.parametrize(("wrong", "words"), [(10, "is below 95%"), (5, "is not above 95%")])
def test_a_floor_that_not_even_the_point_passes_holds(wrong: int, words: str) -> None:
    verdict = judge(evidence(table(100, range(wrong))), FLOOR, bootstrap=True)
    assert verdict.decision is Decision.HOLD
    assert verdict.reasons[0].endswith(words)


def test_a_floor_of_everything_cannot_be_shown() -> None:
    assert judge(evidence(table(1000)), policy(floors={"accuracy": 1}), bootstrap=True).decision is Decision.HOLD


def test_recall_looks_at_one_class() -> None:
    candidate = evidence(table(1000, range(30)))  # all mistakes are cracks that were missed
    asked = policy(floors={"recall": {"crack": 0.95, "sound": 0.95}})
    verdict = judge(candidate, asked, bootstrap=True)
    found = [(f.subject, f.measured, f.outcome) for f in verdict.findings if f.rule == "floor.recall"]
    assert found == [
        ("recall of 'crack'", 0.94, Decision.HOLD),
        ("recall of 'sound'", 1.0, Decision.PROMOTE),
    ]


def test_balanced_accuracy_is_not_carried_by_the_large_class() -> None:
    candidate = evidence(table(1000, range(10), cracks=0.02))  # half of the 20 cracks are missed
    verdict = judge(candidate, policy(floors={"accuracy": 0.98, "balanced_accuracy": 0.9}), bootstrap=True)
    assert ruled(verdict, "floor.accuracy").passed
    assert ruled(verdict, "floor.balanced_accuracy").measured == 0.75
    assert verdict.decision is Decision.HOLD


def test_a_class_that_the_data_does_not_have_is_refused() -> None:
    verdict = judge(evidence(table(100)), policy(floors={"recall": {"Crack": 0.9}}), bootstrap=True)
    assert verdict.decision is Decision.REFUSE
    assert "'Crack', which is no class of the data; its classes: 'crack', 'sound'" in verdict.reasons[0]


@pytest.mark.parametrize("floors", [{"recall": {"crack": 0.1}}, {"balanced_accuracy": 0.1}])
def test_a_class_without_a_test_image_lacks_data(floors: dict[str, Any]) -> None:
    verdict = judge(evidence(table(100, cracks=0)), policy(floors=floors), bootstrap=True)
    assert verdict.decision is Decision.INSUFFICIENT_DATA


def test_no_champion_is_refused_and_says_how_to_ask() -> None:
    verdict = judge(evidence(table(1000)), FLOOR)
    assert verdict.decision is Decision.REFUSE
    assert "--bootstrap" in verdict.reasons[0]
    assert "bootstrap: true" in verdict.reasons[0]


def test_a_first_promotion_needs_a_floor() -> None:
    verdict = judge(evidence(table(1000)), policy(), bootstrap=True)
    assert verdict.decision is Decision.REFUSE
    assert "asks for nothing else" in verdict.reasons[0]


@pytest.mark.parametrize("bootstrap", [False, True])
def test_a_champion_that_cannot_be_run_is_refused(bootstrap: bool) -> None:
    meta = META.model_copy(update={"champion_fault": "it takes 224 px"})
    verdict = judge(evidence(table(1000), None, meta), FLOOR, bootstrap)
    assert verdict.decision is Decision.REFUSE
    assert verdict.reasons == ("champion 3: could not be run: it takes 224 px",)


@pytest.mark.parametrize("left", [{"champion_digest": None}, {"champion_version": None}])
def test_a_champion_whose_predictions_are_missing_is_refused(left: dict[str, None]) -> None:
    verdict = judge(evidence(table(1000), None, META.model_copy(update=left)), FLOOR, bootstrap=True)
    assert verdict.decision is Decision.REFUSE


def test_predictions_of_a_nameless_champion_are_refused() -> None:
    verdict = judge(evidence(table(1000), table(1000), ALONE), FLOOR, bootstrap=True)
    assert verdict.decision is Decision.REFUSE


def test_the_champion_itself_is_not_promoted() -> None:
    meta = META.model_copy(update={"champion_digest": META.candidate_digest})
    verdict = judge(evidence(table(1000), table(1000), meta), FLOOR)
    assert verdict.decision is Decision.HOLD
    assert "nothing to promote" in verdict.reasons[0]


def test_an_equal_model_is_not_inferior_when_there_are_images_enough() -> None:
    candidate, champion = table(3000, range(30)), table(3000, range(15, 45))
    verdict = judge(evidence(candidate, champion), policy(**NON_INFERIOR))
    finding = ruled(verdict, "non_inferior")
    assert verdict.decision is Decision.PROMOTE
    assert (finding.measured, finding.bound) == (0, -0.01)
    assert finding.sentence == (
        "accuracy against champion 3: +0.0 points [−0.5, +0.5]; this is not worse by more than 1 point"
    )


def test_an_equal_model_lacks_data_when_there_are_few() -> None:
    verdict = judge(evidence(table(150, range(5)), table(150, range(5, 10))), policy(**NON_INFERIOR))
    assert verdict.decision is Decision.INSUFFICIENT_DATA
    assert "150 test images do not show it (about " in verdict.reasons[0]


def test_a_worse_model_is_held() -> None:
    verdict = judge(evidence(table(1000, range(50)), table(1000, range(10))), policy(**NON_INFERIOR))
    assert verdict.decision is Decision.HOLD
    assert verdict.reasons[0].endswith("it should be not worse by more than 1 point")


@pytest.mark.parametrize(
    ("wrong", "decision"),
    [(10, Decision.PROMOTE), (58, Decision.INSUFFICIENT_DATA), (60, Decision.HOLD), (80, Decision.HOLD)],
)
def test_superior_means_above_and_not_by_luck(wrong: int, decision: Decision) -> None:
    asked = policy(champion={"rule": "superior"})
    candidate = table(2000, range(1000, 1000 + wrong))
    assert judge(evidence(candidate, table(2000, range(60))), asked).decision is decision


def test_at_the_bound_itself_a_floor_holds_and_better_is_not_shown() -> None:
    candidate, champion = table(2000, range(10)), table(2000, range(80))
    floor = policy(floors={"accuracy": float(limits(1990, 2000, FIRST_LOOK).low)})
    improvement = float(difference(70, 0, 2000, FIRST_LOOK).low)
    better = policy(champion={"rule": "superior", "min_improvement": improvement})
    assert judge(evidence(candidate), floor, bootstrap=True).decision is Decision.PROMOTE
    assert judge(evidence(candidate, champion), better).decision is Decision.INSUFFICIENT_DATA


def test_swapping_candidate_and_champion_turns_the_direction() -> None:
    good, bad = table(2000, range(10)), table(2000, range(80))
    asked = policy(champion={"rule": "superior"})
    forth, back = judge(evidence(good, bad), asked), judge(evidence(bad, good), asked)
    assert (forth.decision, back.decision) == (Decision.PROMOTE, Decision.HOLD)
    one, other = ruled(forth, "superior"), ruled(back, "superior")
    assert (one.measured, one.low, one.high) == (-other.measured, -other.high, -other.low)  # type: ignore[operator]


def test_floors_hold_beside_a_champion_that_is_worse() -> None:
    verdict = judge(evidence(table(1000, range(100)), table(1000, range(200))), FLOOR)
    assert verdict.decision is Decision.HOLD
    assert ruled(verdict, "non_inferior").passed


def test_the_worst_finding_decides_and_comes_first() -> None:
    asked = policy(floors={"accuracy": 0.96, "recall": {"crack": 0.99, "dent": 0.5}})
    verdict = judge(evidence(table(100, range(3))), asked, bootstrap=True)
    outcomes = [Decision.INSUFFICIENT_DATA, Decision.HOLD, Decision.REFUSE]
    assert [f.outcome for f in verdict.findings if f.rule.startswith("floor")] == outcomes
    assert verdict.decision is Decision.REFUSE
    assert [reason.split()[0] for reason in verdict.reasons] == ["the", "recall", "accuracy"]


def test_the_same_inputs_give_the_same_bytes() -> None:
    first, second = (judge(evidence(table(500, range(4)), table(500, range(9))), FLOOR) for _ in range(2))
    assert first.canonical == second.canonical
    assert first.digest == second.digest


def test_latency_changes_nothing() -> None:
    slow = with_column(table(500), "latency_ms", [9.0] * 500)
    assert judge(evidence(slow), FLOOR, True) == judge(evidence(table(500)), FLOOR, True)


@pytest.mark.parametrize(
    "other",
    [
        evidence(table(500, [7])),
        evidence(table(500), meta=ALONE.model_copy(update={"split_digest": "e" * 64})),
    ],
)
def test_other_evidence_gives_another_digest(other: Evidence) -> None:
    assert judge(other, FLOOR, True).digest != judge(evidence(table(500)), FLOOR, True).digest


def test_another_policy_gives_another_digest() -> None:
    sound = evidence(table(500))
    assert judge(sound, FLOOR, True).digest != judge(sound, policy(floors={"accuracy": 0.94}), True).digest


UNSOUND = {
    "no image": table(0),
    "a number that is none": with_column(table(4), "p", [[0.9, 0.1]] * 3 + [[float("nan"), 0.1]]),
    "an infinite number": with_column(table(4), "p", [[0.9, 0.1]] * 3 + [[float("inf"), 0.1]]),
    "a missing number": with_column(table(4), "p", [[0.9, 0.1]] * 3 + [[None, 0.1]]),
    "a missing row of numbers": with_column(table(4), "p", [[0.9, 0.1]] * 3 + [None]),
    "too few numbers": with_column(table(4), "p", [[0.9, 0.1]] * 3 + [[1.0]]),
    "too many numbers": with_column(table(4), "p", [[0.9, 0.1]] * 3 + [[0.8, 0.1, 0.1]]),
    "a sum that is not 1": with_column(table(4), "p", [[0.9, 0.1]] * 3 + [[0.9, 0.2]]),
    "a negative number": with_column(table(4), "p", [[0.9, 0.1]] * 3 + [[1.1, -0.1]]),
    "wrong class order": with_column(table(4), "p", [[0.1, 0.9]] * 4),
    "an unknown label": with_column(table(4), "label", ["crack", "crack", "sound", "dent"]),
    "an unknown answer": with_column(table(4), "predicted", ["crack", "crack", "sound", "dent"]),
    "a missing label": with_column(table(4), "label", ["crack", "crack", "sound", None]),
    "an image twice": with_column(table(4), "uri", ["1", "2", "3", "3"]),
    "a column less": table(4).drop_columns(["group"]),
    "a column of another type": table(4).set_column(4, "p", pa.array([1, 2, 3, 4])),
    "a column twice": table(4).append_column("label", table(4)["label"]),
}


@pytest.mark.parametrize("broken", UNSOUND.values(), ids=UNSOUND.keys())
def test_unsound_predictions_are_refused(broken: pa.Table) -> None:
    anything_goes = policy(floors={"accuracy": 0})
    alone = judge(evidence(broken), anything_goes, bootstrap=True)
    assert alone.decision is Decision.REFUSE
    assert alone.reasons[0].startswith("candidate: ")
    against = judge(evidence(table(4), broken), policy(champion={"margin": 1}))
    assert against.decision is Decision.REFUSE
    assert against.reasons[0].startswith("champion 3: ")


@pytest.mark.parametrize("labels", [(), ("crack", "crack")])
def test_evidence_without_proper_classes_is_refused(labels: tuple[str, ...]) -> None:
    meta = ALONE.model_copy(update={"labels": labels})
    assert judge(evidence(table(4), meta=meta), FLOOR, True).decision is Decision.REFUSE


@pytest.mark.parametrize(
    "champion",
    [
        table(499),
        table(500).take(list(reversed(range(500)))),
        with_column(table(500), "sha256", ["x"] * 500),
        with_column(table(500), "group", ["x"] * 500),
        with_column(table(500), "label", ["crack"] * 500),
    ],
    ids=["fewer", "other order", "other content", "other groups", "other labels"],
)
def test_a_champion_on_other_images_is_refused(champion: pa.Table) -> None:
    verdict = judge(evidence(table(500), champion), policy(champion={"margin": 1}))
    assert verdict.decision is Decision.REFUSE


WORDS = st.one_of(st.none(), st.sampled_from(LABELS), st.text(max_size=3))
NUMBERS = st.one_of(st.none(), st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]), st.floats(width=32))
ROWS = st.fixed_dictionaries(
    {
        "uri": WORDS,
        "sha256": WORDS,
        "label": WORDS,
        "group": WORDS,
        "p": st.one_of(st.none(), st.lists(NUMBERS, max_size=3)),
        "predicted": WORDS,
        "latency_ms": NUMBERS,
    }
)
TABLES = st.lists(ROWS, max_size=4).map(lambda rows: pa.Table.from_pylist(rows, schema=PREDICTIONS))
POLICIES = st.builds(
    lambda accuracy, recall, rule, margin: policy(
        floors={"accuracy": accuracy, "recall": recall},
        champion={"rule": rule, "margin": margin or 0.01, "min_improvement": margin},
    ),
    st.one_of(st.none(), st.floats(0, 1)),
    st.dictionaries(st.sampled_from([*LABELS, "dent"]), st.floats(0, 1), max_size=2),
    st.sampled_from(["non_inferior", "superior"]),
    st.floats(0, 1),
)


def is_sound(row: dict[str, Any]) -> bool:
    """What the contract of a row says, written once more and plainly."""
    p = row["p"]
    return (
        None not in row.values()
        and row["label"] in LABELS
        and row["predicted"] in LABELS
        and len(p) == 2
        and all(x is not None and 0 <= x <= 1 for x in p)
        and abs(sum(p) - 1) <= 2e-4
        and p[LABELS.index(row["predicted"])] == max(p)
    )


@given(TABLES, st.one_of(st.none(), TABLES), POLICIES, st.booleans(), st.sampled_from([META, ALONE]))
@settings(max_examples=200, deadline=None)
def test_any_table_gets_a_verdict_and_an_unsound_one_is_never_promoted(
    candidate: pa.Table, champion: pa.Table | None, asked: Policy, bootstrap: bool, meta: EvidenceMeta
) -> None:
    verdict = judge(Evidence(Path("nowhere"), candidate, champion, meta), asked, bootstrap)
    tables = [candidate] if champion is None else [candidate, champion]
    sound = all(t.num_rows and all(map(is_sound, t.to_pylist())) for t in tables)
    assert sound or verdict.decision is not Decision.PROMOTE
    assert Verdict.model_validate_json(verdict.canonical) == verdict


@given(st.integers(1, 60), st.data(), POLICIES)
@settings(max_examples=100, deadline=None)
def test_one_broken_row_is_enough(n: int, data: st.DataObject, asked: Policy) -> None:
    row = data.draw(st.integers(0, n - 1))
    p = table(n)["p"].to_pylist()
    p[row] = data.draw(st.sampled_from([None, [], [1.0], [float("nan"), 1.0], [0.5, 0.4], [None, 1.0], [2.0, -1.0]]))
    broken = with_column(table(n), "p", p)
    lenient = replace(evidence(broken), meta=ALONE)
    assert judge(lenient, asked, bootstrap=True).decision is Decision.REFUSE
    assert judge(evidence(table(n), broken), asked).decision is Decision.REFUSE


@given(st.integers(1, 400), st.data())
@settings(max_examples=60, deadline=None)
def test_a_mistake_less_never_makes_it_worse(n: int, data: st.DataObject) -> None:
    wrong = data.draw(st.lists(st.integers(0, n - 1), unique=True, min_size=1, max_size=n))
    order = list(Decision)
    before = judge(evidence(table(n, wrong)), FLOOR, bootstrap=True)
    after = judge(evidence(table(n, wrong[1:])), FLOOR, bootstrap=True)
    assert order.index(after.decision) <= order.index(before.decision)
