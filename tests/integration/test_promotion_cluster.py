"""Promotion and rollback on a real cluster: after each, what is served, whom the ledger crowned and the alias agree.

The tests of this file follow each other in one production environment, as releases do.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from assay import registry
from assay.gate.ledger import Ledger, Withdrawn
from assay.gate.looks import Question, sketch
from assay.registry import Version
from assay.release import promotion
from assay.release.promotion import Outcome, Wish
from assay.release.rollback import rollback
from assay.release.status import Status, collect, history
from assay.release.targets import ReleaseError
from assay.service import free_port
from serving.targets import open_target

from cluster import MODEL, Images, Kube, Load, Place, new_place, use
from ledgers import digest, verdict
from ledgers import images as numbered

pytestmark = pytest.mark.cluster

PROMOTER = Path(__file__).with_name("promoter.py")
SOAK_S = 2.0


@dataclass
class Production:
    """A production environment of the tests' own."""

    place: Place
    images: Images
    versions: dict[str, Version]
    home: Path

    @property
    def ledger(self) -> Ledger:
        return Ledger.open(MODEL)

    def judge(self, name: str) -> None:
        """A PROMOTE against the present champion, by a look at the test images."""
        champion = self.ledger.champion()
        asked = Question(
            candidate_digest=self.versions[name].digest,
            champion_digest=champion.bundle_digest if champion else None,
            policy_digest=digest(f"policy {len(self.ledger.entries())}"),
            split_digest=digest("split"),
            sketch=sketch(numbered(20)),
        )
        look = self.ledger.look(asked, 100).number
        version = champion.version if champion else None
        self.ledger.record(verdict(asked, look, champion_version=version, use_case=MODEL))

    def put(self, name: str, soak_s: float = SOAK_S) -> Outcome:
        version, candidate = self.versions[name], self.images[name]
        wish = Wish(
            model=str(version), environment="production", target="kubernetes", image=candidate.image, soak_s=soak_s
        )
        target = open_target("kubernetes", MODEL, "production")
        release = target.draft(version.version, candidate.bundle, candidate.golden, candidate.image)
        return promotion.put(target, release, candidate.golden, wish, version, self.ledger)

    def back(self, to: str | None = None) -> Outcome:
        return rollback(open_target("kubernetes", MODEL, "production"), self.ledger, "production", to)

    def promoter(self, name: str, stage: str = "", soak_s: float = SOAK_S) -> "subprocess.Popen[str]":
        words = [str(self.versions[name]), self.images[name].image, str(soak_s), *([stage] if stage else [])]
        return subprocess.Popen([sys.executable, str(PROMOTER), *words], stdout=subprocess.PIPE, text=True)

    def status(self) -> Status:
        return collect(MODEL, open_target)

    def agree_on(self, name: str | None) -> None:
        """What is served, whom the ledger crowned, and where the alias points."""
        status, wanted = self.status(), self.versions[name].version if name else None
        state = status.environments[1].state
        assert status.problems == ()
        assert (state and state.version) == wanted
        assert (status.champion and status.champion.version) == status.alias == wanted


@pytest.fixture(scope="module")
def production(kube: Kube, images: Images, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Production]:
    with new_place(kube, tmp_path_factory, "production") as place, pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("ASSAY_HOME", str(home))
        for name in ("MLFLOW_TRACKING_URI", "ASSAY_LEDGER", "ASSAY_PROMETHEUS_URL"):
            patch.delenv(name, raising=False)
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        use(place, patch)
        run = registry.open_run(MODEL, "run")
        versions = {name: registry.register(candidate.bundle, MODEL, run, {}) for name, candidate in images.items()}
        yield Production(place, images, versions, home)


@pytest.fixture(autouse=True)
def assay_home(production: Production) -> Path:
    """In place of a folder for each test: the one of the environment."""
    return production.home


def test_the_first_release(production: Production) -> None:
    production.judge("good")
    assert production.put("good").replaced is None
    production.agree_on("good")


def test_an_update_and_a_rollback_under_load_lose_no_request(production: Production) -> None:
    production.judge("better")
    image = production.images["good"].golden.examples[0].image
    with Load.on(production.place.address, image) as load:
        production.put("better")
        production.agree_on("better")
        begun = time.monotonic()
        production.back()
        seconds = time.monotonic() - begun
    production.agree_on("good")
    print(f"rolled back in {seconds:.1f} s, {load.sent:,} requests")
    assert load.failures == []
    assert load.sent > 500
    assert load.digests == {production.versions[name].digest for name in ("good", "better")}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("missing", "ErrImagePull|ImagePullBackOff"),
        ("sleepy", "not there after 30 s.*Startup probe failed"),
        ("wrong", "away from the expected one|has been wrong"),
        ("mortal", "started again|instances are ready|CrashLoopBackOff|ended|does not answer"),
    ],
)
def test_a_bad_release_is_taken_back(
    production: Production, name: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    production.judge(name)
    monkeypatch.setenv("ASSAY_ROLLOUT_TIMEOUT_S", "30")
    with pytest.raises(ReleaseError, match=rf"(?s)({why}).*{MODEL}@1 is served again"):
        production.put(name, soak_s=25)
    production.agree_on("good")
    body = history(MODEL)[-1].body
    assert isinstance(body, Withdrawn)
    assert (body.version, body.instead) == (production.versions[name].version, "1")


def test_a_promoter_killed_at_every_stage_is_run_again(production: Production) -> None:
    production.judge("better")
    version = production.versions["better"].version
    for stage in ("deploy", "applied", "smoke", "crown", "record", "alias"):
        promoter = production.promoter("better", stage)
        promoter.communicate(timeout=180)
        assert promoter.returncode == -signal.SIGKILL, stage
        status = production.status()
        champion = status.champion.version if status.champion else None
        assert champion == (version if stage in ("record", "alias") else "1"), stage
        assert bool(status.problems) == (stage != "deploy"), (stage, status.problems)
    promoter = production.promoter("better")
    assert "promoted by entry" in promoter.communicate(timeout=180)[0]
    production.agree_on("better")
    production.back()
    production.agree_on("good")


def test_one_of_two_promoters_at_once_loses_cleanly(production: Production) -> None:
    production.judge("better")
    both = [production.promoter("better") for _ in range(2)]
    said = [promoter.communicate(timeout=180)[0] for promoter in both]
    codes = sorted(promoter.returncode for promoter in both)
    # The second may also come when the first is done, and then finds that there is nothing left to do.
    assert codes in ([0, 5], [0, 0]), said
    if codes == [0, 5]:
        assert any("is at work" in words for words in said)
    production.agree_on("better")


def test_a_rollback_with_the_registry_down(production: Production, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    outcome = production.back()
    assert "the alias could not follow" in outcome.notes[0]
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    status = production.status()
    assert status.champion
    assert (status.champion.version, status.alias) == ("1", production.versions["better"].version)
    assert any("--repair" in problem for problem in status.problems)
    from assay.crown import verify

    assert verify(MODEL, repair=True) == []
    production.agree_on("good")


def test_what_somebody_deploys_by_hand_is_told(production: Production) -> None:
    deployment = f"deployment/assay-{MODEL}"
    production.place("set", "env", deployment, "ASSAY_SERVE_VERSION=99")
    production.place("label", deployment, "assay/release=ffffffffffff", "--overwrite")
    problems = production.status().problems
    assert any("somebody else" in problem or "ready" in problem for problem in problems), problems
    production.place("rollout", "undo", deployment)
