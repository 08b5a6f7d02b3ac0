"""Releases in the ledger: what may be served where, what is served, and what there is to go back to."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from assay.errors import LedgerError
from assay.gate.ledger import CROWNED, Ledger, Release, Released, Withdrawn, use_cases
from assay.gate.ledger.entries import MAX_BYTES, encode
from assay.gate.ledger.releases import MAX_MANIFESTS

from ledgers import USE_CASE, crown, digest, judge

IMAGE = f"registry.example/assay-demo@sha256:{'a' * 64}"


def release(version: str, environment: str = CROWNED, **changes: Any) -> Release:
    """Of the bundle that is named after its version."""
    values = {
        "bundle_digest": digest(version), "environment": environment, "golden_digest": digest("golden"), "image": "",
        "manifests": "", "model": USE_CASE, "target": "process", "version": version,
    }  # fmt: skip
    return Release.model_validate(values | changes)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger.open(USE_CASE, str(tmp_path))


def test_production_serves_the_champion_and_nothing_else(ledger: Ledger) -> None:
    crown(ledger, "1")
    ledger.release(release("1"))
    judge(ledger, "2")
    with pytest.raises(LedgerError, match=r"puts version 2 .* into production, and the champion is version 1"):
        ledger.release(release("2"))
    with pytest.raises(LedgerError, match=r"puts version 1"):
        ledger.release(release("1", bundle_digest=digest("2")))
    assert ledger.chain().release(CROWNED) == release("1")
    assert ledger.verify() == []


def test_staging_takes_what_has_a_promote(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="on which there is no PROMOTE"):
        ledger.release(release("1", "staging"))
    judge(ledger, "1")
    ledger.release(release("1", "staging"))
    chain = ledger.chain()
    assert (chain.release("staging"), chain.release(CROWNED), chain.champion) == (release("1", "staging"), None, None)


def test_the_same_release_again_is_not_written(ledger: Ledger) -> None:
    crown(ledger, "1")
    first = ledger.release(release("1"))
    assert ledger.release(release("1")) == first
    other = ledger.release(release("1", target="kubernetes", image=IMAGE, manifests="kind: Deployment"))
    assert other.number == first.number + 1


def test_what_was_before_a_release_stays_so_when_one_goes_back_to_it(ledger: Ledger) -> None:
    for version in ("1", "2", "3"):
        crown(ledger, version)
        ledger.release(release(version))
    ledger.rollback("2")
    ledger.release(release("2"), rolled_back=True)
    chain = ledger.chain()
    assert chain.release(CROWNED) == release("2")
    assert chain.replaced[release("2").digest] == release("1")
    assert chain.replaced[release("1").digest] is None
    assert [one.version for one in chain.releases(CROWNED)] == ["1", "3", "2"]
    assert ledger.verify() == []


def test_one_goes_back_only_to_what_was_served(ledger: Ledger) -> None:
    crown(ledger, "1")
    with pytest.raises(LedgerError, match="goes back to a release of version 1 that production never served"):
        ledger.release(release("1"), rolled_back=True)


def test_a_withdrawal_changes_nothing_that_is_served(ledger: Ledger) -> None:
    judge(ledger, "1")
    assert ledger.withdraw(release("1"), "not\nready").sentence.endswith("nothing is served: not ready")
    ledger.promote("1", digest("1"))
    ledger.release(release("1"))
    judge(ledger, "2")
    body = ledger.withdraw(release("2"), "x" * 5000).body
    assert isinstance(body, Withdrawn)
    assert (body.instead, len(body.reason)) == ("1", 1000)
    assert ledger.chain().release(CROWNED) == release("1")


def test_a_release_of_another_use_case_is_refused(ledger: Ledger) -> None:
    crown(ledger, "1")
    with pytest.raises(LedgerError, match="is a release of 'other'"):
        ledger.release(release("1", model="other"))


def test_the_largest_manifests_fit_into_an_entry(ledger: Ledger) -> None:
    crown(ledger, "1")
    largest = release("1", target="kubernetes", image=IMAGE, manifests="x" * (MAX_MANIFESTS - 1) + "\n")
    entry = ledger.release(largest)
    assert len(encode(entry)) < MAX_BYTES
    body = ledger.entries()[-1].body
    assert isinstance(body, Released)
    assert body.release == largest


@pytest.mark.parametrize(
    "wrong",
    [
        {"image": "registry.example/assay:latest", "manifests": "x", "target": "kubernetes"},
        {"image": IMAGE, "target": "kubernetes"},
        {"image": IMAGE},
        {"manifests": "x"},
        {"environment": "test"},
        {"version": "1\n2"},
        {"model": "De-mo"},
    ],
    ids=" ".join,
)
def test_what_is_no_release(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Release.model_validate(release("1").model_dump() | wrong)


def test_use_cases_are_those_that_have_a_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_LEDGER", str(tmp_path / "ledgers"))
    assert use_cases() == []
    for name in ("walls", "bridges"):
        judge(Ledger.open(name), "1")
    (tmp_path / "ledgers" / ".hidden").mkdir()
    assert use_cases() == ["bridges", "walls"]
