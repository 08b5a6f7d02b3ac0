"""A promotion, stage by stage: fetch, verify, rehearse, deploy, smoke, crown; and back, if one of the last three fails.

Each stage can be repeated: what is done already is found to be done. What must never be true is that something serves
which the ledger does not know of without somebody being told; `assay.release.status` tells it.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from assay import registry
from assay.assessment import VERDICT
from assay.config import UseCase
from assay.console import say, warn
from assay.data.scan import scan_source
from assay.data.splits import split
from assay.errors import AssayError, LedgerError, RegistryError
from assay.gate.ledger import CROWNED, ENVIRONMENTS, Chain, Entry, Environment, Ledger, Release
from assay.gate.verdict import Verdict
from assay.models.bundle import Bundle
from assay.registry import CHAMPION, Version
from assay.rehearsal import Rehearsal, rehearse_at
from assay.release.golden import Golden
from assay.release.smoke import MAX_P95_MS, SOAK_S, Smoke, smoke
from assay.release.targets import Kind, Open, ReleaseError, Target

MAX_AGE_DAYS = 30.0
"""By default, a verdict that is older allows nothing: data and service may have moved on since."""
REHEARSED = 500
"""Test images that a rehearsal sends, by default."""


@contextmanager
def stage(name: str) -> Iterator[Callable[[str], None]]:
    """Say what a stage has done, and in how many seconds, when it is over; yields what takes the sentence."""
    begun, told = time.monotonic(), [""]
    yield lambda sentence: told.__setitem__(0, sentence)
    say(name, f"{told[0]}  {time.monotonic() - begun:.1f} s")


class Stranded(ReleaseError):
    """A release failed, and what served before it could not be put back: somebody must look at once."""

    exit_code = 6


class Unrecorded(ReleaseError):
    """A release is served and verified, and the ledger could not be told."""

    exit_code = 7


class Wish(BaseModel):
    """What is to be promoted, and how."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: str
    """`name@version`; an alias would mean something else tomorrow."""
    environment: Environment
    target: Kind = "process"
    image: str = ""
    """`name@sha256:…`, for a cluster."""
    max_age_days: float = Field(MAX_AGE_DAYS, gt=0)
    """How old the verdict may be."""
    images: int = Field(REHEARSED, ge=1)
    """Test images in the rehearsal, at most."""
    soak_s: float | None = Field(None, ge=0)
    """Seconds to watch the new release; by default `SOAK_S` of the environment."""
    max_p95_ms: float = Field(MAX_P95_MS, gt=0)
    """What the 95th percentile of the probes' latency may be."""

    @property
    def watched_s(self) -> float:
        """Seconds to watch it."""
        return SOAK_S[self.environment] if self.soak_s is None else self.soak_s


def wish_of(**given: Any) -> Wish:
    """A wish; what is not given or None is as in `Wish`, or what the ledger has: target and image of what was released.

    Raises:
        ReleaseError: something given is no such thing, or a cluster needs an image and none was ever released.
    """
    given = {key: value for key, value in given.items() if value is not None}
    chain = Ledger.open(str(given["model"]).partition("@")[0]).chain()
    present = chain.release(given["environment"])
    given.setdefault("target", present.target if present else "process")
    if given["target"] == "kubernetes" and not given.get("image"):
        given["image"] = _image(chain, given["model"])
    try:
        return Wish.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        raise ReleaseError(f"{'.'.join(map(str, first['loc']))}: {first['msg']} (given: {first['input']!r})") from None


def _image(chain: Chain, reference: str) -> str:
    """Of the newest release of a version anywhere, such as that in staging."""
    digest = registry.find(reference).digest
    served = [release for name in ENVIRONMENTS for release in chain.releases(name) if release.bundle_digest == digest]
    found = [release.image for release in served if release.image]
    if not found:
        raise ReleaseError(
            f"{reference} was on no cluster yet: give --image name@sha256:… of an image with this bundle, as "
            "`make image` or the workflow images.yml makes it"
        )
    return found[-1]


@dataclass(frozen=True)
class Grant:
    """Why a version may be promoted."""

    entry: int
    """Of the ledger: the verdict, or the promotion that made it champion."""
    sentence: str


@dataclass(frozen=True)
class Outcome:
    """Of a promotion or rollback that succeeded."""

    release: Release
    entry: int
    """Of the ledger, that says so."""
    smoke: Smoke
    replaced: Release | None
    """What was served before."""
    notes: tuple[str, ...] = ()
    """What is left to do, each with the command."""

    def as_json(self) -> dict[str, Any]:
        """For `--json` and for ZenML."""
        return {
            "release": self.release.model_dump(mode="json", exclude={"manifests"}) | {"digest": self.release.digest},
            "entry": self.entry,
            "smoke": asdict(self.smoke),
            "seen": str(self.smoke),
            "replaced": str(self.replaced) if self.replaced else None,
            "notes": list(self.notes),
        }


def fetch(reference: str) -> tuple[Version, Bundle]:
    """A registered version and its bundle, whose digest is checked.

    Raises:
        RegistryError: there is no such version, or `reference` is an alias.
        BundleError: what is stored is another bundle.
    """
    version = registry.find(reference)
    if reference != str(version):
        raise RegistryError(f"{reference}: promote a version, such as {version}: an alias may move meanwhile")
    return version, registry.fetch(version)


def verify(ledger: Ledger, version: Version, max_age_days: float, now: datetime | None = None) -> Grant:
    """Whether the ledger allows a version: it is the champion, or a PROMOTE against the present one allows it.

    Raises:
        LedgerError: nothing allows it, what does is too old, or the registered verdict is not the one in the ledger.
    """
    chain = ledger.chain()
    champion = chain.champion
    if champion and (champion.version, champion.bundle_digest) == (version.version, version.digest):
        return Grant(champion.number, f"is the champion since entry {champion.number}")
    number = chain.allowing(version.digest)
    if number is None:
        raise LedgerError(f"{version} cannot be promoted: {chain.why_not(version.digest)}")
    entry = chain.entries[number - 1]
    age = (now or datetime.now(UTC)) - entry.at
    if age > timedelta(days=max_age_days):
        raise LedgerError(
            f"{version} cannot be promoted: its verdict (entry {number}) is {age.days} days old, {max_age_days:g} are "
            f"allowed; judge it anew with `assay gate {version}`, or give --max-age"
        )
    _check_verdict(version, chain)
    return Grant(number, f"{entry.sentence} (entry {number}, {_ago(age)})")


def plan(target: Target, wish: Wish, version: Version, bundle: Bundle) -> list[str]:
    """What a promotion would do; nothing is touched and nothing written."""
    ledger = Ledger.open(version.name)
    grant = verify(ledger, version, wish.max_age_days)
    draft = target.draft(version.version, bundle, Golden.of(bundle), wish.image)
    present = ledger.chain().release(wish.environment)
    changes = target.difference(draft) or ["nothing: it is there already"]
    crown = [f"crown     {version} becomes champion, alias `{CHAMPION}` follows"] if wish.environment == CROWNED else []
    return [
        f"verify    {version}: {grant.sentence}",
        f"rehearse  up to {wish.images:,} test images through one instance beside those that serve",
        *(f"deploy    {change}" for change in changes),
        f"smoke     golden images through every instance, then {wish.watched_s:.0f} s of probes",
        *crown,
        f"back to   {present} if that fails" if present else "back to   nothing if that fails: it is the first release",
    ]


def rehearse(
    target: Target, release: Release, bundle: Bundle, use_case: UseCase, limit: int, concurrency: int = 4
) -> Rehearsal:
    """Start one instance of a release beside those that serve, and send it the test split.

    An answer is compared with the model's own to the same image: it need not be one that the training has not met.

    Raises:
        DataError: the images cannot be read.
        ReleaseError: it does not start, or an answer is not the one that the model gives here.
    """
    dataset = split(scan_source(use_case.data), use_case.split)
    if dataset.split_digest != bundle.meta.lineage.split_digest:
        warn("rehearse", "the data has changed since the training: the images are not those it was judged on")
    begun = time.perf_counter()
    with target.trial(release) as endpoint:
        ready_s = time.perf_counter() - begun
        found = rehearse_at(endpoint, bundle, dataset, ready_s, limit, concurrency)
    if not found.passed:
        wrong = found.images - found.agreeing
        raise ReleaseError(f"{release}: {wrong:,} of {found.images:,} answers are wrong: {found.disagreeing[0]}")
    return found


def put(target: Target, release: Release, golden: Golden, wish: Wish, version: Version, ledger: Ledger) -> Outcome:
    """Deploy a release, check it, and crown it; or put back what was served before.

    Raises:
        ReleaseError: it failed; what was served before is served again, and the ledger says so.
        Stranded: it failed, and so did the way back.
        Busy: another promotion or rollback is at work.
        LedgerError: nothing allows it any more.
    """
    with target.exclusive():
        verify(ledger, version, wish.max_age_days)  # somebody else may have been at work since
        before = ledger.chain().release(release.environment)
        if before and before.target != release.target:  # it is there no more, see `stays`
            before = None

        def crown() -> Entry | None:
            return ledger.promote(version.version, version.digest) if release.environment == CROWNED else None

        seen = deployed(target, release, golden, before, ledger, crown, wish.watched_s, wish.max_p95_ms)
        # From here on it is champion, and no way leads back without a decision: what fails now is done by a repetition.
        entry = finish(lambda: ledger.release(release), release)
        notes = follow(version.name, version.version) if release.environment == CROWNED else ()
    return Outcome(release, entry.number, seen, before, notes)


def follow(model: str, version: str) -> tuple[str, ...]:
    """Let the alias `champion` follow the ledger; a registry that cannot be reached is told, and no failure."""
    try:
        with registry.briefly():
            registry.set_alias(registry.find(f"{model}@{version}"), CHAMPION)
    except RegistryError as error:
        note = f"the alias could not follow ({error}); later: assay ledger verify {model} --repair"
        warn("crown", note)
        return (note,)
    return ()


def deployed(
    target: Target,
    release: Release,
    golden: Golden,
    before: Release | None,
    ledger: Ledger,
    crown: Callable[[], Entry | None],
    soak_s: float,
    max_p95_ms: float = MAX_P95_MS,
) -> Smoke:
    """Deploy, check and crown; on any failure, an interrupt too, put back what was served before.

    Raises:
        ReleaseError: it failed; what was served before is served again.
        Stranded: it failed, and so did the way back.
    """
    try:
        with stage("deploy") as told:
            target.deploy(release, golden)
            told(f"{release} to {release.environment}")
        with stage("smoke") as told:
            seen = smoke(target, release, golden, soak_s, max_p95_ms)
            told(str(seen))
        if entry := crown():
            say("crown", entry.sentence)
        return seen
    except (Exception, KeyboardInterrupt) as error:  # also what nobody foresaw must not leave it as it is
        reason = _reason(error)
        if before == release:  # there is nothing else to go to
            raise
        warn("back", reason)
        back(target, before, release, reason, ledger)
        if isinstance(error, KeyboardInterrupt):
            raise
        again = f"{before} is served again" if before else "nothing was served before, and nothing is now"
        raise ReleaseError(f"{reason}; {again}") from None


def back(target: Target, before: Release | None, failed: Release, reason: str, ledger: Ledger) -> None:
    """Put back what was served, check it, and write that down.

    Raises:
        Stranded: that failed as well.
    """
    try:
        if before is None:
            target.remove()
        else:
            golden = target.golden(before)
            target.deploy(before, golden)
            smoke(target, before, golden, soak_s=0)
    except Exception as error:
        with suppress(AssayError):
            ledger.withdraw(failed, f"{reason}; and {before} could not be put back: {_reason(error)}")
        raise Stranded(
            f"{reason}; and {before or 'the state before'} could not be put back: {_reason(error)}; look at it now: "
            f"assay status {failed.model}, then assay rollback {failed.model} --environment {failed.environment}"
        ) from None
    say("back", f"{before} is served again" if before else "what was begun was removed")
    with suppress(LedgerError):  # the ledger may be what failed; what is served is what it says all the same
        ledger.withdraw(failed, reason)


def stays(present: Release | None, kind: Kind, open_target: Open) -> None:
    """Refuse to serve an environment on another kind of target while it is served where it is.

    Args:
        present: what the ledger says is served.
        kind: of the target that is wanted.
        open_target: gives the present one.

    Raises:
        ReleaseError: it would be served twice, and the ledger know of one.
    """
    if present is None or present.target == kind:
        return
    if open_target(present.target, present.model, present.environment).state() is not None:
        raise ReleaseError(
            f"{present.environment} serves {present} on the target {present.target}; give --target {present.target}, "
            f"or end it there first, and then promote with --target {kind}"
        )


def finish(write: Callable[[], Entry], release: Release) -> Entry:
    """Write down what is served now.

    Raises:
        Unrecorded: the ledger did not take it.
    """
    try:
        return write()
    except LedgerError as error:
        raise Unrecorded(
            f"{release} is served in {release.environment} and verified, but the ledger could not be told: {error}; "
            "run the same command again"
        ) from None


def _reason(error: BaseException) -> str:
    """In a line; what is no error of ours has its kind with it."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    text = " ".join(str(error).split())
    return text if isinstance(error, AssayError) else f"{type(error).__name__}: {text[:200]}"


def _check_verdict(version: Version, chain: Chain) -> None:
    """The verdict that was registered with the version is one that the ledger holds, if there is any."""
    try:
        verdict = Verdict.model_validate_json(registry.text(version, VERDICT))
    except registry.Absent:
        return  # it was judged later, by `assay gate`: the ledger has that
    except ValueError:
        raise LedgerError(f"{version}: its registered {VERDICT} cannot be read; judge it anew") from None
    if verdict.digest not in chain.recorded:
        raise LedgerError(
            f"{version}: its registered verdict {verdict.digest[:12]} is not in the ledger: it was altered, or made "
            f"with another ledger; is $ASSAY_LEDGER right?"
        )


def _ago(age: timedelta) -> str:
    hours = age.total_seconds() / 3600
    return f"{hours / 24:.0f} days old" if hours >= 48 else f"{hours:.0f} hours old" if hours >= 2 else "just judged"
