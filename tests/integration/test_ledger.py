"""The ledger with real processes: in a folder, and in a bucket of a real S3 server."""

import itertools
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from assay.errors import LedgerError
from assay.gate.ledger import Ledger
from assay.gate.ledger import bucket as bucket_module

from ledgers import USE_CASE, crown, digest, judge, question

if TYPE_CHECKING:
    from team import S3Server

RIVAL = Path(__file__).with_name("ledger_rival.py")
PLACES = itertools.count()


@pytest.fixture
def bucket(s3: "S3Server") -> str:
    """A fresh prefix in a bucket."""
    return f"s3://images/ledgers/{next(PLACES)}"


class Rival:
    """A process of `ledger_rival.py`."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, str(RIVAL), *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(self, *words: object) -> None:
        assert self.process.stdin
        print(*words, file=self.process.stdin, flush=True)

    def answer(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def rivals(count: int, *arguments: str) -> Iterator[list[Rival]]:
    started = [Rival(*arguments) for _ in range(count)]
    try:
        yield started
    finally:
        for rival in started:
            rival.end()


def race(ledger: Ledger, rivals: list[Rival], round_number: int) -> int:
    """Each promotes a version of its own at the same time: one must win. Gives how often writers met."""
    versions = [f"{round_number}.{place}" for place in range(len(rivals))]
    for version in versions:
        judge(ledger, version)
    start = time.monotonic() + 0.005
    for rival, version in zip(rivals, versions, strict=True):
        rival.tell(ledger.use_case, version, start)
    answers = dict(zip(versions, (rival.answer().partition(" ")[::2] for rival in rivals), strict=True))
    (winner,) = [version for version, (_, answer) in answers.items() if answer == "won"]
    losers = [answer for version, (_, answer) in answers.items() if version != winner]
    assert all(f"and the champion is version {winner} ({digest(winner)[:12]})" in answer for answer in losers)
    champion = ledger.champion()
    assert champion
    assert champion.version == winner
    assert [entry.kind for entry in ledger.entries()[champion.number - 1 :]] == ["promotion"]
    return sum(int(met) for met, _ in answers.values())


def race_often(root: str, writers: int, rounds: int) -> None:
    with rivals(writers, "race", root) as processes:
        met = 0
        for number in range(rounds):
            ledger = Ledger.open(f"{USE_CASE}_{number // 3}", root)  # the first of three has no champion yet
            met += race(ledger, processes, number)
    assert met > rounds / 10  # else this was no race


@pytest.mark.parametrize("writers", [2, 4])
def test_one_of_several_promotions_wins_in_a_folder(tmp_path: Path, writers: int) -> None:
    race_often(str(tmp_path), writers, rounds=200)


@pytest.mark.parametrize(("writers", "rounds"), [(4, 20), pytest.param(2, 200, marks=pytest.mark.long)])
def test_one_of_several_promotions_wins_in_a_bucket(bucket: str, writers: int, rounds: int) -> None:
    race_often(bucket, writers, rounds)


def kill_often(root: str, rounds: int, longest_s: float) -> None:
    chance, ledger, written = random.Random(5), Ledger.open(USE_CASE, root), 0
    with rivals(1, "die", root) as (rival,):
        for number in range(rounds):
            rival.tell(USE_CASE, chance.uniform(0, longest_s))
            assert rival.answer() == "dead"
            assert ledger.verify() == []
            assert ledger.look(question(f"after {number}"), 1).number == number + 1
            written = len(ledger.entries())
    assert written > rounds  # else nobody was killed while it wrote


def test_killed_writers_leave_nothing_that_counts_in_a_folder(tmp_path: Path) -> None:
    kill_often(str(tmp_path), rounds=50, longest_s=0.03)


def test_killed_writers_leave_nothing_that_counts_in_a_bucket(bucket: str) -> None:
    kill_often(bucket, rounds=25, longest_s=0.3)


# One line for whatever is wrong with a bucket.


def message(root: str) -> str:
    ledger = Ledger.open(USE_CASE, root)
    with pytest.raises(LedgerError) as caught:
        ledger.look(question("a"), 5)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_ledger_in_a_bucket(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_module, "PAGE", 4)
    ledger = Ledger.open(USE_CASE, bucket)
    assert (ledger.champion(), ledger.entries()) == (None, [])
    for version in ("1", "2", "3"):
        crown(ledger, version)
    ledger.rollback()
    assert ledger.verify() == []
    assert [entry.number for entry in ledger.entries()] == list(range(1, 11))
    assert ledger.champion() == ledger.entries()[-1].champion


def test_a_missing_bucket(s3: "S3Server") -> None:
    assert message("s3://nowhere/x") == f"s3://nowhere/x/{USE_CASE}: there is no bucket 'nowhere' at {s3.endpoint}"


def test_refused_credentials(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert "the credentials are refused (SignatureDoesNotMatch)" in message(bucket)


def test_no_right_to_read(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "blind")
    assert message(bucket) == f"{bucket}/{USE_CASE}: access denied by the object store"


def test_an_unreachable_server(s3: "S3Server", monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    assert message("s3://images/x").startswith(f"s3://images/x/{USE_CASE}: no answer from {endpoint}")


def test_a_client_without_conditional_writes(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CONDITIONAL_PUT", "disabled")
    assert message(bucket) == f"{bucket}/{USE_CASE}: conditional writes are turned off; unset AWS_CONDITIONAL_PUT"
