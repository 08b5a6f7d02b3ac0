"""Where a release runs: a process on this machine (`process`), or a cluster (`serving.rollout`)."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

from assay.errors import AssayError
from assay.gate.ledger import Environment, Release
from assay.models.bundle import Bundle
from assay.release.endpoint import Endpoint
from assay.release.golden import Golden

Kind = Literal["process", "kubernetes"]


class ReleaseError(AssayError):
    """A release that cannot be deployed, does not become ready, or does not do what it must."""

    exit_code = 4


class Busy(AssayError):
    """Another promotion or rollback is at work in the environment."""

    exit_code = 5


@dataclass(frozen=True)
class State:
    """What an environment runs now, as the environment itself says: not the ledger."""

    label: str
    """`Release.label` of what was applied last; empty if it was made by something else."""
    version: str
    bundle_digest: str
    wanted: int
    """Instances that there should be."""
    ready: int
    """Of this release."""
    restarts: int
    """Of all its instances together."""
    problems: tuple[str, ...] = ()
    """Why instances are not ready, each a line."""
    since: str = ""
    """When it was applied, ISO 8601 with time zone; empty if not known."""

    @property
    def healthy(self) -> bool:
        """Whether every instance is there and ready; while an autoscaler takes some away there are more."""
        return self.ready >= self.wanted > 0 and not self.problems


class Target(Protocol):
    """An environment of one model, on something that runs releases.

    What goes wrong is raised as AssayError, one line: ReleaseError if it is the release's fault or the environment's.
    """

    def draft(self, version: str, bundle: Bundle, golden: Golden, image: str) -> Release:
        """The release that would be deployed; nothing is touched."""

    def exclusive(self) -> AbstractContextManager[None]:
        """Keep every other promotion and rollback out; a killed holder does not keep it for more than some seconds.

        Raises:
            Busy: somebody else is at work.
        """

    def trial(self, release: Release) -> AbstractContextManager[Endpoint]:
        """One ready instance of a release beside the ones that serve, which gets no requests but ours; it ends with
        the block. That it starts shows that image and bundle can still be had.

        Raises:
            ReleaseError: it does not become ready.
        """

    def deploy(self, release: Release, golden: Golden) -> None:
        """Replace what serves by a release, without losing a request, and wait until nothing else serves.

        To deploy what is there already changes nothing. `golden` is kept with it.

        Raises:
            ReleaseError: it is not there and ready in time; what served before may still do, beside it.
        """

    def golden(self, release: Release) -> Golden:
        """The golden images that were kept.

        Raises:
            ReleaseError: they are gone, or were changed.
        """

    def endpoints(self, release: Release) -> Sequence[Endpoint]:
        """How clients reach it, first, and then each of its instances by itself."""

    def state(self) -> State | None:
        """What runs; None if nothing does.

        Raises:
            ReleaseError: it cannot be told.
        """

    def difference(self, release: Release) -> list[str]:
        """What `deploy` would change, a line each; none if nothing."""

    def drift(self, release: Release) -> list[str]:
        """What was changed by somebody else since `release` was deployed, a line an object; `state` tells of instances.

        Raises:
            ReleaseError: it cannot be told.
        """

    def remove(self) -> None:
        """End what serves: for a first release that failed."""


Open = Callable[[Kind, str, Environment], Target]
"""What gives the target of a kind, model and environment."""
