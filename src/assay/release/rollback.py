"""Back to a release that the ledger says was served: it needs the ledger and the target, no registry, no pipeline."""

from assay.console import warn
from assay.errors import LedgerError
from assay.gate.ledger import CROWNED, Chain, Entry, Environment, Ledger, Release
from assay.notify import News, notify
from assay.release.golden import Golden
from assay.release.promotion import Outcome, deployed, finish, follow, stage
from assay.release.smoke import check_endpoint
from assay.release.targets import Open, ReleaseError, State, Target


def chosen(chain: Chain, environment: Environment, state: State | None, to: str | None) -> Release:
    """The release to go back to.

    Args:
        chain: of the ledger.
        environment: in which.
        state: what runs there now.
        to: a version; None for the last one that was served: that which the ledger names if something else runs there
            now, else the one before it.

    Raises:
        LedgerError: there is none.
    """
    served = chain.releases(environment)
    if to is not None:
        found = next((release for release in reversed(served) if release.version == to), None)
        if found is None:
            known = ", ".join(dict.fromkeys(release.version for release in served)) or "none"
            raise LedgerError(
                f"{environment} never served version {to}, so there is no way back to it; it did: {known}"
            )
        return found
    present = chain.release(environment)
    if present is None:
        raise LedgerError(f"{environment} never served a release, so there is nothing to go back to")
    if state is None or state.label != present.label:
        return present
    former = chain.replaced[present.digest]
    if former is None:
        raise LedgerError(f"{present} is the first release that {environment} served: nothing was before it")
    return former


def rollback(target: Target, ledger: Ledger, environment: Environment, to: str | None, soak_s: float = 0) -> Outcome:
    """Serve an earlier release again.

    Before anything is touched, one instance of it is started beside those that serve, and must give the golden answers:
    its image and its bundle can still be had, and work.

    Args:
        target: where.
        ledger: of the use case.
        environment: of the target.
        to: as in `chosen`.
        soak_s: seconds to watch it afterwards.

    Raises:
        LedgerError: there is no such release.
        ReleaseError: it does not work any more; what was served still is.
        Busy: a promotion or another rollback is at work.
    """
    with target.exclusive():
        chain = ledger.chain()
        before, state = chain.release(environment), _state(target)
        release = chosen(chain, environment, state, to)
        if before and release.target != before.target:
            raise LedgerError(
                f"{release} was served on the target {release.target}, and {environment} is on {before.target} now: "
                f"promote it there: assay promote {release} --to {environment} --target {before.target}"
            )
        golden = target.golden(release)
        with stage("verify") as told:
            _tried(target, release, golden)
            told(f"{release}: image and bundle are there, and an instance gives the golden answers")

        def crown() -> Entry | None:
            return ledger.rollback(release.version) if environment == CROWNED else None

        seen = deployed(target, release, golden, before, ledger, crown, soak_s)
        entry = finish(lambda: ledger.release(release, rolled_back=True), release)
        notes = follow(release.model, release.version) if environment == CROWNED else ()
    return Outcome(release, entry.number, seen, before if before != release else None, notes)


def _state(target: Target) -> State | None:
    try:
        return target.state()
    except ReleaseError as error:
        warn("verify", str(error))
        return None


def _tried(target: Target, release: Release, golden: Golden) -> None:
    with target.trial(release) as endpoint:
        check_endpoint(endpoint, release, golden)


def rollback_model(
    model: str, environment: Environment, to: str | None, soak_s: float, actor: str, open_target: Open
) -> Outcome:
    """As `rollback`, on the kind of target that the environment's releases are on.

    Args:
        model: the use case.
        environment: in which.
        to: as in `chosen`.
        soak_s: seconds to watch it afterwards.
        actor: who asks for it, for the ledger.
        open_target: gives the target.
    """
    ledger = Ledger.open(model, actor=actor)
    chain = ledger.chain()
    release = chain.release(environment)
    if release is None:
        raise LedgerError(f"{environment} never served a release of {model}, so there is nothing to go back to")
    outcome = rollback(open_target(release.target, model, environment), ledger, environment, to, soak_s)
    notify(News("rollback", model, outcome.release.version, environment=environment))
    return outcome
