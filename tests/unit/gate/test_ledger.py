"""What the ledger counts, allows and refuses, in a folder."""

import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from assay.errors import LedgerError
from assay.gate.ledger import Asked, Champion, Entry, Ledger, alias_problem, listing
from assay.gate.ledger.chain import Chain
from assay.gate.looks import Question
from assay.gate.verdict import Decision

from ledgers import USE_CASE, crown, digest, images, judge, question, verdict

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def ticking() -> Callable[[], datetime]:
    minutes = itertools.count()
    return lambda: NOON + timedelta(minutes=next(minutes))


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger.open(USE_CASE, str(tmp_path / "ledger"), clock=ticking())


def kinds(ledger: Ledger) -> list[str]:
    return [entry.kind for entry in ledger.entries()]


def refusal(act: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(LedgerError) as caught:
        act(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Where it is.


def test_by_default_it_is_in_the_local_state(assay_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASSAY_LEDGER", raising=False)
    crown(Ledger.open(USE_CASE), "1")
    assert (assay_home / "ledger" / USE_CASE / "00000003.json").is_file()


def test_the_environment_says_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_LEDGER", str(tmp_path / "shared"))
    assert Ledger.open(USE_CASE).store.place == str(tmp_path / "shared" / USE_CASE)
    monkeypatch.setenv("ASSAY_LEDGER", "s3://bucket/some/prefix/")
    assert Ledger.open(USE_CASE).store.place == f"s3://bucket/some/prefix/{USE_CASE}"


@pytest.mark.parametrize("name", ["", "../x", "A", "a/b", "a b", "x" * 64])
def test_a_use_case_cannot_lead_elsewhere(name: str) -> None:
    assert "is no name of a use case" in refusal(Ledger.open, name, "/nowhere")


@pytest.mark.parametrize("root", ["gs://bucket/x", "http://host/x", "s3://b/x", "s3://bucket/ü", "s3://bucket/a//b"])
def test_a_root_that_is_no_place_for_it(root: str) -> None:
    assert root in refusal(Ledger.open, USE_CASE, root)


def test_an_empty_ledger_has_nothing(ledger: Ledger) -> None:
    assert (ledger.entries(), ledger.head(), ledger.champion(), ledger.verify()) == ([], None, None, [])


def test_use_cases_do_not_meet(tmp_path: Path) -> None:
    crown(Ledger.open(USE_CASE, str(tmp_path)), "1")
    assert Ledger.open("other", str(tmp_path)).entries() == []


# Looks.


def test_each_question_is_a_look(ledger: Ledger) -> None:
    looks = [ledger.look(question(name), 2) for name in ("a", "b", "c")]
    assert [(look.number, look.left, look.spent) for look in looks] == [(1, 1, False), (2, 0, False), (3, 0, True)]


def test_the_same_question_costs_nothing(ledger: Ledger) -> None:
    first = ledger.look(question("a"), 5)
    ledger.look(question("b"), 5)
    assert ledger.look(question("a"), 5) == first
    assert kinds(ledger) == ["look", "look"]


@pytest.mark.parametrize(
    "other",
    [question("b"), question("a", digest("champion")), question("a", policy="p2"), question("a", split="s2")],
)
def test_another_question_costs_a_look(ledger: Ledger, other: Question) -> None:
    ledger.look(question("a"), 5)
    assert ledger.look(other, 5).number == 2


def test_a_test_set_that_grew_is_the_same_one(ledger: Ledger) -> None:
    ledger.look(question("a", test=images(900)), 5)
    assert ledger.look(question("b", split="grown", test=images(1000)), 5).number == 2


def test_another_test_set_has_looks_of_its_own(ledger: Ledger) -> None:
    ledger.look(question("a"), 5)
    assert ledger.look(question("b", split="new", test=images(20, first=500)), 5).number == 1


def test_a_look_is_there_before_there_is_a_verdict(ledger: Ledger) -> None:
    ledger.look(question("a"), 5)
    assert [entry.sentence for entry in Ledger.open(USE_CASE, str(Path(ledger.store.place).parent)).entries()] == [
        f"look 1 at 20 test images (split {digest('split')[:12]}): candidate {digest('a')[:12]} against no champion"
    ]


# Verdicts.


def test_a_verdict_is_recorded_once(ledger: Ledger) -> None:
    assert judge(ledger, "a") == judge(ledger, "a")
    assert kinds(ledger) == ["look", "verdict"]


def test_a_promote_without_its_look_is_refused(ledger: Ledger) -> None:
    ledger.look(question("a"), 5)
    assert "no entry before it counts that look" in refusal(ledger.record, verdict(question("a"), look=2))
    assert "no entry before it counts that look" in refusal(ledger.record, verdict(question("b"), look=1))
    assert kinds(ledger) == ["look"]


def test_another_decision_needs_no_look(ledger: Ledger) -> None:
    assert ledger.record(verdict(question("a"), decision=Decision.REFUSE)).number == 1


def test_a_verdict_of_another_use_case_is_refused(ledger: Ledger) -> None:
    assert "'other' belongs into another ledger" in refusal(ledger.record, verdict(question("a"), use_case="other"))


# Promotions.


def test_the_first_champion(ledger: Ledger) -> None:
    entry = crown(ledger, "1")
    expected = Champion(version="1", bundle_digest=digest("1"), number=3)
    assert ledger.champion() == entry.champion == expected
    assert entry.sentence == f"version 1 ({digest('1')[:12]}) became champion, by the verdict 2"


def test_the_champion_is_carried_on(ledger: Ledger) -> None:
    crown(ledger, "1")
    crown(ledger, "2")
    ledger.look(question("x"), 20)
    assert ledger.champion() == Champion(version="2", bundle_digest=digest("2"), number=6)
    assert len(ledger.entries()) == 7


def test_promoting_the_champion_again_changes_nothing(ledger: Ledger) -> None:
    entry = crown(ledger, "1")
    ledger.look(question("x"), 20)
    assert ledger.promote("1", digest("1")) == entry
    assert kinds(ledger) == ["look", "verdict", "promotion", "look"]


def test_nothing_is_promoted_without_a_verdict(ledger: Ledger) -> None:
    assert "there is no verdict on its bundle" in refusal(ledger.promote, "1", digest("1"))


@pytest.mark.parametrize("decision", [Decision.HOLD, Decision.REFUSE, Decision.INSUFFICIENT_DATA])
def test_nothing_is_promoted_by_another_verdict(ledger: Ledger, decision: Decision) -> None:
    judge(ledger, "1", decision)
    assert f"the {decision} for its bundle {digest('1')[:12]} (entry 2) is no PROMOTE" in refusal(
        ledger.promote, "1", digest("1")
    )


def test_a_first_promotion_must_be_a_bootstrap(ledger: Ledger) -> None:
    ledger.look(question("1"), 5)
    ledger.record(verdict(question("1"), bootstrap=False))
    assert "use --bootstrap" in refusal(ledger.promote, "1", digest("1"))


def test_a_bootstrap_does_not_replace_a_champion(ledger: Ledger) -> None:
    judge(ledger, "2")
    crown(ledger, "1")
    assert "is against no champion, and the champion is version 1" in refusal(ledger.promote, "2", digest("2"))


def test_a_verdict_against_a_former_champion_does_not_count(ledger: Ledger) -> None:
    crown(ledger, "1")
    judge(ledger, "3")
    crown(ledger, "2")
    text = refusal(ledger.promote, "3", digest("3"))
    assert f"is against champion 1 ({digest('1')[:12]}), and the champion is version 2" in text
    assert text.endswith("since entry 8; judge it anew")


def test_the_champion_under_another_version_is_no_promotion(ledger: Ledger) -> None:
    crown(ledger, "1")
    assert "is the champion already, as version 1" in refusal(ledger.promote, "7", digest("1"))


def test_a_version_keeps_its_bundle(ledger: Ledger) -> None:
    crown(ledger, "1")
    judge(ledger, "other")
    assert "gives version 1 the bundle" in refusal(ledger.promote, "1", digest("other"))


@pytest.mark.parametrize("version", ["", "a\nb", "x" * 101, "1 2"])
def test_what_is_no_version_is_refused(ledger: Ledger, version: str) -> None:
    judge(ledger, "1")
    assert "that cannot be written: version:" in refusal(ledger.promote, version, digest("1"))


# Rollbacks.


@pytest.fixture
def three(ledger: Ledger) -> Ledger:
    """With versions 1, 2 and 3 promoted, one after the other."""
    for version in ("1", "2", "3"):
        crown(ledger, version)
    return ledger


def versions(*entries: Entry) -> list[str]:
    return [entry.champion.version for entry in entries if entry.champion]


def test_rolling_back_goes_step_by_step(three: Ledger) -> None:
    assert versions(three.rollback(), three.rollback()) == ["2", "1"]
    assert "is the first champion: nothing was before it" in refusal(three.rollback)


def test_rolling_back_to_a_version(three: Ledger) -> None:
    assert versions(three.rollback("1"), three.rollback("3"), three.rollback()) == ["1", "3", "2"]
    assert three.entries()[-1].sentence == f"back from version 3 to version 2 ({digest('2')[:12]})"
    assert three.verify() == []


def test_rolling_back_to_the_champion_changes_nothing(three: Ledger) -> None:
    assert three.rollback("1") == three.rollback("1")
    assert kinds(three).count("rollback") == 1


def test_there_is_no_way_back_to_what_was_never_champion(three: Ledger) -> None:
    judge(three, "4")
    assert "version 4 was never champion, so there is no way back to it; were: 1, 2, 3" in refusal(three.rollback, "4")


def test_nothing_to_roll_back(ledger: Ledger) -> None:
    assert "there is no champion, so there is nothing to roll back" in refusal(ledger.rollback)
    assert "it is none" in refusal(ledger.rollback, "1")


def test_a_verdict_promotes_once(three: Ledger) -> None:
    three.rollback()
    text = refusal(three.promote, "3", digest("3"))
    assert text.endswith("was used by entry 9; a rollback to that version needs no verdict")


def test_who_rolls_back_what_is_no_champion_any_more_is_told(three: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    judge(three, "4")
    former = Ledger._former

    def promoted_meanwhile(ledger: Ledger, chain: Chain) -> str:
        ledger.promote("4", digest("4"))
        return former(ledger, chain)

    monkeypatch.setattr(Ledger, "_former", promoted_meanwhile)
    assert "the champion changed meanwhile: it is version 4" in refusal(three.rollback)


# Writers.


def test_who_comes_second_decides_anew(ledger: Ledger) -> None:
    rival, seen = Ledger.open(USE_CASE, str(Path(ledger.store.place).parent)), []
    between = [lambda: judge(rival, "1"), lambda: rival.promote("1", digest("1")), lambda: None]

    def decide(chain: Chain) -> Asked:
        between[len(seen)]()
        seen.append(len(chain.entries))
        return Asked(look=chain.tally.count(question("ours").sketch) + 1, question=question("ours"))

    entry = ledger.append(decide)
    assert seen == [0, 2, 3]
    assert (entry.number, entry.champion) == (4, rival.champion())
    assert ledger.verify() == []


def test_who_always_comes_second_gives_up(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assay.gate.ledger.ledger.time.sleep", lambda seconds: None)
    monkeypatch.setattr(type(ledger.store), "create", lambda store, number, data: False)
    assert "other writers came first 50 times; try again" in refusal(ledger.look, question("a"), 5)


def test_who_wrote_and_was_not_told_so_finds_the_entry(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    create = type(ledger.store).create
    monkeypatch.setattr(type(ledger.store), "create", lambda *given: create(*given) and False)
    assert ledger.look(question("a"), 5).number == 1
    assert kinds(ledger) == ["look"]


def test_time_and_actor_stand_in_the_entry(tmp_path: Path) -> None:
    ledger = Ledger.open(USE_CASE, str(tmp_path), actor="workflow 7", clock=ticking())
    ledger.look(question("a"), 5)
    assert listing(ledger.entries())[0].startswith("     1  2026-03-01 12:00:00  look        look 1 at 20 test images")
    assert listing(ledger.entries())[0].endswith("against no champion  [workflow 7]")


@pytest.mark.parametrize("actor", ["a\nb", "\x1b[31m", "x" * 201, "\ud800"])
def test_an_actor_that_would_spoil_a_listing_is_refused(tmp_path: Path, actor: str) -> None:
    ledger = Ledger.open(USE_CASE, str(tmp_path), actor=actor)
    assert "that cannot be written: actor:" in refusal(ledger.look, question("a"), 5)


def test_a_time_without_a_zone_is_refused(tmp_path: Path) -> None:
    ledger = Ledger.open(USE_CASE, str(tmp_path), clock=lambda: datetime(2026, 3, 1))
    assert "that cannot be written: at:" in refusal(ledger.look, question("a"), 5)


# The alias.

FOUR = Champion(version="4", bundle_digest=digest("b"), number=9)


@pytest.mark.parametrize(("champion", "alias"), [(None, None), (FOUR, "4")])
def test_an_alias_that_agrees_is_no_problem(champion: Champion | None, alias: str | None) -> None:
    assert alias_problem(champion, alias) is None


@pytest.mark.parametrize(
    ("champion", "alias", "expected"),
    [
        (None, "2", "points at version 2, and by the ledger there is no champion"),
        (FOUR, None, "is not set, and by the ledger the champion is version 4"),
        (FOUR, "2", "points at version 2, and by the ledger the champion is version 4"),
    ],
)
def test_an_alias_that_disagrees_is_told(champion: Champion | None, alias: str | None, expected: str) -> None:
    assert expected in str(alias_problem(champion, alias))
