"""Promotion and rollback on this machine: a real registry, a real ledger, and the real service as a process."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from assay import registry
from assay.assessment import assess, use_case_as_trained
from assay.cli import cli
from assay.config import UseCase, load_use_case
from assay.data.scan import scan_source
from assay.data.splits import split
from assay.errors import ConfigError, LedgerError, RegistryError
from assay.gate.ledger import Ledger, Released, RolledBack, Withdrawn
from assay.models.bundle import Bundle, Lineage
from assay.registry import Version
from assay.release import promotion
from assay.release.golden import Example, Golden
from assay.release.process import Process
from assay.release.promotion import Stranded, Unrecorded, Wish, wish_of
from assay.release.rollback import rollback
from assay.release.status import collect, history
from assay.release.targets import Busy, ReleaseError
from assay.service import free_port
from serving.targets import open_target

from toybundle import colour_folder, toy_bundle

pytestmark = pytest.mark.long

MODEL = "colours"
POLICY = {"floors": {"accuracy": 0.8}, "champion": {"rule": "non_inferior", "margin": 0.2}}
DEAD = "http://127.0.0.1:9"


class World:
    """A use case with two versions, the second judged only when the first is champion."""

    def __init__(self, folder: Path) -> None:
        self.images = colour_folder(folder / "images")
        use_case = {
            "name": MODEL, "data": {"source": str(self.images), "image_size": 16}, "recipe": {"backbone": "none"},
            "policy": POLICY,
        }  # fmt: skip
        self.config = folder / "use_case.yaml"
        self.config.write_text(yaml.safe_dump({"parameters": {"use_case": use_case}}))
        self.use_case: UseCase = load_use_case(self.config)
        dataset = split(scan_source(self.use_case.data), self.use_case.split)
        self.lineage = Lineage(
            git_commit="unknown", git_dirty=False, data_digest="d", split_digest=dataset.split_digest,
            config_digest="c", versions={},
        )  # fmt: skip
        self.folder = folder

    def register(self, card: bytes) -> Version:
        """A version whose bundle differs from others in its card."""
        bundle = toy_bundle(self.folder / card.decode(), size=16, name=MODEL, card=card, lineage=self.lineage)
        return registry.register(bundle, MODEL, registry.open_run(MODEL, "run"), {"verdict": "PROMOTE"})

    def judge(self, version: Version) -> None:
        """By the real gate, against the present champion."""
        bootstrap = self.ledger.champion() is None
        verdict = assess(str(version), self.use_case, source=str(self.images), bootstrap=bootstrap).verdict
        assert verdict.decision == "PROMOTE", verdict.reasons

    def judged(self, card: bytes) -> Version:
        """A version that the gate passed."""
        version = self.register(card)
        self.judge(version)
        return version

    @property
    def ledger(self) -> Ledger:
        return Ledger.open(MODEL)

    def put(self, version: Version, environment: str = "production", soak_s: float = 0.5, **changes: Any) -> Any:
        """Promote without rehearsal and without ZenML."""
        wish = Wish.model_validate({"model": str(version), "environment": environment, "soak_s": soak_s} | changes)
        target = Process(MODEL, wish.environment)
        bundle = registry.fetch(version)
        golden = Golden.of(bundle)
        release = target.draft(version.version, bundle, golden, "")
        return promotion.put(target, release, golden, wish, version, self.ledger)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    for name in ("MLFLOW_TRACKING_URI", "ASSAY_LEDGER", "ASSAY_PROMETHEUS_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ASSAY_ACTOR", "test")
    for environment in ("STAGING", "PRODUCTION"):
        monkeypatch.setenv(f"ASSAY_PORT_{environment}", str(free_port()))
    yield World(tmp_path)
    for environment in ("staging", "production"):
        Process(MODEL, environment).remove()


def served() -> str | None:
    """Version that production answers with; None if nothing answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{os.environ['ASSAY_PORT_PRODUCTION']}/v1/model") as answer:
            return str(json.load(answer)["version"])
    except OSError:
        return None


def told() -> tuple[str | None, str | None, str | None, tuple[str, ...]]:
    """What production serves, whom the ledger crowned, where the alias points, and what `assay status` objects to."""
    status = collect(MODEL, open_target)
    return served(), status.champion.version if status.champion else None, status.alias, status.problems


def kinds() -> list[str]:
    return [entry.kind for entry in history(MODEL)]


def test_two_releases_and_back(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    first = world.judged(b"first")
    world.put(first, "staging")
    assert told() == (None, None, None, ())
    world.put(first)
    assert told() == ("1", "1", "1", ())

    second = world.judged(b"second")
    outcome = world.put(second)
    assert (str(outcome.replaced), told()) == (f"{MODEL}@1", ("2", "2", "2", ()))
    assert world.put(second).entry == outcome.entry  # again: nothing is written

    production = Process(MODEL, "production")
    rollback(production, world.ledger, "production", to=None)
    assert told() == ("1", "1", "1", ())
    with pytest.raises(LedgerError, match="first release"):
        rollback(production, world.ledger, "production", to=None)
    rollback(production, world.ledger, "production", to="2")
    assert told() == ("2", "2", "2", ())
    assert kinds() == [
        "release", "promotion", "release", "promotion", "release", "rollback", "release", "rollback", "release",
    ]  # fmt: skip
    assert cli.main(["status", MODEL], standalone_mode=False) == 0
    assert "production  version 2, 1 of 1 ready, on process" in capsys.readouterr().out
    assert [entry.body.release.version for entry in history(MODEL, "staging") if isinstance(entry.body, Released)] == [
        "1"
    ]


def test_what_answers_wrongly_is_taken_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    first = world.judged(b"first")
    world.put(first)
    second = world.judged(b"second")
    right = Golden.of

    def other(bundle: Bundle) -> Golden:
        golden = right(bundle)
        if bundle.digest != second.digest:
            return golden
        wrong = Example(golden.examples[0].image, {"red": 0.5, "green": 0.5})
        return replace(golden, examples=(wrong, *golden.examples[1:]))

    monkeypatch.setattr(Golden, "of", other)
    with pytest.raises(ReleaseError, match=r"away from the expected one; colours@1 is served again"):
        world.put(second)
    assert told() == ("1", "1", "1", ())
    body = history(MODEL)[-1].body
    assert isinstance(body, Withdrawn)
    assert (body.version, body.instead) == ("2", "1")
    monkeypatch.setattr(Golden, "of", right)
    world.put(second)  # the verdict was not used up
    assert told() == ("2", "2", "2", ())


def test_what_never_becomes_ready_is_taken_back_and_a_first_one_leaves_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = world.judged(b"first")
    monkeypatch.setenv("ASSAY_SERVE_TIMEOUT_S", "never")
    with pytest.raises(ReleaseError, match=r"ASSAY_SERVE_TIMEOUT_S.*nothing was served before"):
        world.put(first)
    assert Process(MODEL, "production").state() is None
    assert told() == (None, None, None, ())
    assert kinds() == ["withdrawal"]


def test_when_the_way_back_fails_too_that_is_said_with_a_code_of_its_own(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = world.judged(b"first")
    world.put(first)
    second = world.judged(b"second")
    monkeypatch.setenv("ASSAY_SERVE_TIMEOUT_S", "never")
    with pytest.raises(Stranded, match=r"colours@1 could not be put back.*assay status colours"):
        world.put(second)
    assert told()[1:3] == ("1", "1")
    assert any("serves nothing" in problem for problem in told()[3])
    monkeypatch.delenv("ASSAY_SERVE_TIMEOUT_S")
    rollback(Process(MODEL, "production"), world.ledger, "production", to=None)
    assert told() == ("1", "1", "1", ())


def test_nothing_else_can_be_promoted(world: World) -> None:
    version = world.register(b"first")
    with pytest.raises(LedgerError, match="there is no verdict on its bundle"):
        world.put(version)
    world.judge(version)
    later = datetime.now(UTC) + timedelta(days=31)
    with pytest.raises(LedgerError, match=r"31 days old, 30 are allowed; judge it anew"):
        promotion.verify(world.ledger, version, 30, later)
    with pytest.raises(LedgerError, match="there is no verdict on its bundle"):
        promotion.verify(world.ledger, replace(version, digest="0" * 64), 30)
    registry.set_alias(version, "challenger")
    with pytest.raises(RegistryError, match=r"promote a version, such as colours@1"):
        promotion.fetch(f"{MODEL}@challenger")
    assert Process(MODEL, "production").state() is None


def test_a_registered_verdict_that_the_ledger_does_not_hold_is_refused(world: World) -> None:
    version = world.register(b"first")
    verdict = assess(str(version), world.use_case, source=str(world.images), bootstrap=True).verdict
    run = registry.open_run(MODEL, "run")
    run.log_text(verdict.model_copy(update={"look": 7}).model_dump_json(), "verdict.json")
    with pytest.raises(LedgerError, match=r"registered verdict .* is not in the ledger"):
        promotion.verify(world.ledger, version, 30)
    run.log_text(verdict.model_dump_json(), "verdict.json")
    assert "PROMOTE" in promotion.verify(world.ledger, version, 30).sentence


def test_a_rollback_needs_no_registry(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for card in (b"first", b"second"):
        version = world.judged(card)
        world.put(version, soak_s=0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", DEAD)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    outcome = rollback(Process(MODEL, "production"), world.ledger, "production", to=None)
    assert "verify colours --repair" in outcome.notes[0]
    assert any("registry cannot be asked" in problem for problem in told()[3])
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert told()[:3] == ("1", "1", "2")
    assert any("alias 'champion' points at version 2" in problem for problem in told()[3])
    assert cli.main(["ledger", "verify", MODEL, "--repair"], standalone_mode=False) == 0
    assert told() == ("1", "1", "1", ())


def test_a_rollback_to_what_is_gone_touches_nothing(world: World, assay_home: Path) -> None:
    for card in (b"first", b"second"):
        version = world.judged(card)
        world.put(version, soak_s=0)
    first = registry.find(f"{MODEL}@1")
    (assay_home / "bundles" / first.digest / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(ReleaseError, match=r"bundle cannot be had any more.*model\.onnx"):
        rollback(Process(MODEL, "production"), world.ledger, "production", to=None)
    assert told() == ("2", "2", "2", ())
    assert not any(isinstance(entry.body, RolledBack) for entry in world.ledger.entries())


def test_the_second_of_two_promoters_loses(world: World) -> None:
    version = world.judged(b"first")
    held, free = threading.Event(), threading.Event()

    def hold() -> None:
        with Process(MODEL, "production").exclusive():
            held.set()
            free.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(60)
    try:
        with pytest.raises(Busy, match=rf"process {os.getpid()}, since .* is at work"):
            world.put(version)
    finally:
        free.set()
        holder.join()
    assert told() == (None, None, None, ())
    world.put(version)
    assert told() == ("1", "1", "1", ())


def killed_when(says: str, *words: str) -> str:
    """Run `assay promote` and kill it, and nothing that it has started, when it says something."""
    command = [sys.executable, "-m", "assay", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith(says):
                process.send_signal(signal.SIGKILL)
                break
        process.wait(60)
    assert process.returncode == -signal.SIGKILL, lines
    return "".join(lines)


@pytest.mark.slow
def test_a_promoter_that_was_killed_is_run_again(world: World) -> None:
    first = world.judged(b"first")
    world.put(first, soak_s=0)
    second = world.judged(b"second")
    words = ["promote", str(second), "--to", "production", "--policy", str(world.config)]
    killed_when("deploy", *words, "--soak", "30")
    answering, champion, alias, problems = told()
    assert (answering, champion, alias) == ("2", "1", "1")
    assert any("a promotion was not finished" in problem for problem in problems)
    again = [sys.executable, "-m", "assay", *words, "--soak", "1"]
    done = subprocess.run(again, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"production serves {MODEL}@2, instead of {MODEL}@1" in done.stdout
    assert "Traceback" not in done.stderr
    assert told() == ("2", "2", "2", ())


def test_a_first_promotion_that_was_cut_off_is_seen(world: World) -> None:
    version = world.judged(b"first")
    production, bundle = Process(MODEL, "production"), registry.fetch(version)
    production.deploy(production.draft(version.version, bundle, Golden.of(bundle), ""), Golden.of(bundle))
    assert told()[3] == (
        "production runs version 1 (process), and the ledger has no release there: a promotion was not finished; "
        f"repeat it: assay promote {MODEL}@1 --to production",
    )
    world.put(version)
    assert told() == ("1", "1", "1", ())


def test_what_nobody_foresaw_is_taken_back(world: World) -> None:
    first = world.judged(b"first")
    world.put(first, soak_s=0)
    second = world.judged(b"second")
    production, bundle = Process(MODEL, "production"), registry.fetch(second)
    in_the_way = production.folder / f"state-{production.draft('2', bundle, Golden.of(bundle), '').label}"
    in_the_way.write_text("")
    with pytest.raises(ReleaseError, match=r"^FileExistsError: .*; colours@1 is served again$"):
        world.put(second)
    assert told() == ("1", "1", "1", ())


def test_a_ledger_that_cannot_be_told_has_a_code_of_its_own(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for card in (b"first", b"second"):
        version = world.judged(card)
        world.put(version, soak_s=0)

    def refuse(*_: Any, **__: Any) -> None:
        raise LedgerError("the bucket does not answer")

    monkeypatch.setattr(Ledger, "release", refuse)
    with pytest.raises(Unrecorded, match="is served in production and verified"):
        rollback(Process(MODEL, "production"), world.ledger, "production", to=None)
    assert (Unrecorded.exit_code, told()[:2]) == (7, ("1", "1"))
    assert any("production runs version 1" in problem for problem in told()[3])


def test_an_environment_stays_on_its_kind_of_target(world: World) -> None:
    version = world.judged(b"first")
    given = {"model": str(version), "environment": "production"}
    assert wish_of(**given).target == "process"
    with pytest.raises(ReleaseError, match="give --image"):
        wish_of(**given, target="kubernetes")
    world.put(version, soak_s=0)
    present = world.ledger.chain().release("production")
    promotion.stays(present, "process", open_target)
    with pytest.raises(ReleaseError, match=r"serves colours@1 on the target process; give --target process"):
        promotion.stays(present, "kubernetes", open_target)
    Process(MODEL, "production").remove()
    promotion.stays(present, "kubernetes", open_target)


def test_a_wish_that_is_none_is_one_line(world: World) -> None:
    with pytest.raises(ReleaseError, match=r"^soak_s: .*finite number.*\(given: nan\)$"):
        wish_of(model=f"{MODEL}@1", environment="staging", soak_s=float("nan"))


def test_data_that_has_grown_since_is_rehearsed_with(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    version = world.register(b"first")
    bundle, staging = registry.fetch(version), Process(MODEL, "staging")
    one = next(world.images.rglob("*.png"))
    Image.open(one).transpose(Image.Transpose.ROTATE_90).point(lambda value: value ^ 1).save(one.with_stem("new"))
    release = staging.draft(version.version, bundle, Golden.of(bundle), "")
    assert promotion.rehearse(staging, release, bundle, world.use_case, limit=5).passed
    assert "the data has changed since the training" in capsys.readouterr().err


def test_a_version_is_rehearsed_with_the_data_it_was_trained_on(world: World) -> None:
    version = world.register(b"first")
    with pytest.raises(ConfigError, match="no use case 'colours' in configs/"):
        use_case_as_trained(str(version))
    run = registry.open_run(MODEL, "run")
    run.log_text(world.use_case.model_dump_json(), "use_case.json")
    assert use_case_as_trained(str(version)) == world.use_case
    run.log_text('{"name": 3}', "use_case.json")
    with pytest.raises(ConfigError, match=r"cannot read the use_case\.json .*give the use case's YAML with --policy"):
        use_case_as_trained(str(version))


def test_a_registry_that_is_silent_holds_nothing_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    def silent(server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                asked.append(connection.recv(100))

    version = world.register(b"first")
    monkeypatch.setattr(registry, "PATIENCE_S", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=silent, args=(server,), daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.getsockname()[1]}")
        notes = promotion.follow(MODEL, version.version)
    assert "the alias could not follow" in notes[0]
    assert len(asked) == 1  # by itself MLflow would ask for minutes
    assert "MLFLOW_HTTP_REQUEST_TIMEOUT" not in os.environ


def test_a_dry_run_tells_and_touches_nothing(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    version = world.judged(b"first")
    before = len(world.ledger.entries())
    cli.main(["promote", str(version), "--to", "production", "--dry-run"], standalone_mode=False)
    plan = capsys.readouterr().out
    assert f"nothing → version 1 ({version.digest[:12]})" in plan
    assert f"{MODEL}@1 becomes champion" in plan
    assert len(world.ledger.entries()) == before
    assert Process(MODEL, "production").state() is None
