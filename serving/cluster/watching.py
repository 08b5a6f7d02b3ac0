"""A rollout, watched until its pods are all there are, or until it is certain that they will not be."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from assay.console import Advance, progress, say, stderr
from assay.release.targets import ReleaseError
from serving.cluster.api import PATIENCE_S, Api, ApiError, Document
from serving.cluster.objects import RELEASE, Reference, collection
from serving.cluster.pods import CONTAINER, Trouble, is_ending, is_ready, trouble

POLL_S = 0.5
LINGERING_S = 3.0
"""What a Deployment says of itself may still be about the time before the last change."""
LOG_LINES = "50"
LONGEST_NOTE = 60
"""Beside a bar, on one line."""


class Logs:
    """What services said before they ended; each is read once."""

    def __init__(self, api: Api, namespace: str) -> None:
        self._api, self._namespace = api, namespace
        self._known: dict[tuple[str, int, bool], str] = {}

    def last_words(self, pod: Document, earlier: bool) -> str:
        """See `serving.cluster.pods.LastWords`."""
        statuses = pod.get("status", {}).get("containerStatuses") or ()
        count = sum(int(status.get("restartCount", 0)) for status in statuses)
        key = (pod["metadata"]["name"], count, earlier)
        if not self._known.get(key):
            self._known[key] = self._read(pod["metadata"]["name"], earlier)
        return self._known[key]

    def _read(self, pod: str, earlier: bool) -> str:
        path = f"{collection('v1', 'Pod', self._namespace)}/{pod}/log?container={CONTAINER}&tailLines={LOG_LINES}"
        text = self._api.text(f"{path}&previous={str(earlier).lower()}")
        told = [line.removeprefix("assay: ") for line in text.splitlines() if line.startswith("assay: ")]
        return told[-1] if told else ""

    def warning(self, pod: Document) -> str:
        """The last thing that the cluster itself warned of; empty if nothing."""
        query = {"fieldSelector": f"involvedObject.uid={pod['metadata']['uid']},type=Warning"}
        try:
            events = self._api.items(collection("v1", "Event", self._namespace), query, patience_s=2.0)
        except ApiError:
            return ""
        events.sort(key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))
        return " ".join(str(events[-1].get("message", "")).split())[:200] if events else ""


@dataclass(frozen=True)
class View:
    """A rollout at one moment."""

    wanted: int
    ready: int
    """New pods that get requests."""
    new: int
    old: int
    troubles: tuple[Trouble, ...]
    done: bool

    @property
    def line(self) -> str:
        """For a person."""
        return f"{self.ready} of {self.wanted} new pods ready, {self.rest}"

    @property
    def rest(self) -> str:
        """What a bar does not show."""
        return f"{self.old} old{f'; {self.why}' if self.troubles else ''}"

    @property
    def why(self) -> str:
        """The first reason, one that is final before others."""
        return min(self.troubles, key=lambda found: not found.final).text if self.troubles else ""

    @property
    def final(self) -> bool:
        return any(found.final for found in self.troubles)


@dataclass
class Watch:
    """On the Deployment and the Service of a release, which have one name."""

    api: Api
    namespace: str
    name: str
    selector: dict[str, str]
    """Labels of the Deployment's pods, old and new."""
    label: str
    """Of the release."""
    guard: Callable[[], None]
    """Raises when it is not ours to go on."""
    _seen: dict[str, float] = field(default_factory=dict, init=False)
    _pods: list[Document] = field(default_factory=list, init=False)
    _logs: Logs = field(init=False)

    def __post_init__(self) -> None:
        self._logs = Logs(self.api, self.namespace)

    def until_there(self, timeout_s: float) -> None:
        """Wait until every pod is of the release, ready, and an endpoint, and no other is.

        Raises:
            ReleaseError: a pod cannot become ready, or the time is up; or the cluster is gone.
        """
        end = time.monotonic() + timeout_s
        with _Told() as told:
            while True:
                self.guard()
                view = self.look(max(end - time.monotonic(), 1.0))
                told(view)
                if view.done:
                    return
                if view.final:
                    raise ReleaseError(f"{self.name} in {self.namespace}: {view.why}")
                if time.monotonic() > end:
                    raise ReleaseError(
                        f"{self.name} in {self.namespace}: not there after {timeout_s:.0f} s; {self._late(view)}"
                    )
                time.sleep(POLL_S)

    def look(self, patience_s: float = PATIENCE_S) -> View:
        """How far it is."""
        deployment = self.api.get(Reference("apps/v1", "Deployment", self.name).path(self.namespace), None, patience_s)
        pods = pods_of(self.api, self.namespace, self.selector, patience_s)
        self._pods = [pod for pod in pods if (pod["metadata"].get("labels") or {}).get(RELEASE) == self.label]
        ready = sum(map(is_ready, self._pods))
        wanted, old = int(deployment["spec"].get("replicas", 1)), len(pods) - len(self._pods)
        there = not old and ready == wanted > 0 and _complete(deployment, wanted)
        return View(
            wanted, ready, len(self._pods), old, tuple(self._troubles(deployment)),
            done=there and self._only_ours_get_requests(patience_s),
        )  # fmt: skip

    def _troubles(self, deployment: Document) -> list[Trouble]:
        words = self._logs.last_words
        found = [trouble(pod, self._lasting(pod["metadata"]["uid"]), words) for pod in self._pods]
        return [one for one in [*found, self._of(deployment)] if one]

    def _of(self, deployment: Document) -> Trouble | None:
        """What keeps the Deployment from making pods, or ended its patience."""
        if deployment["spec"].get("paused"):
            return Trouble(f"the Deployment is paused: kubectl rollout resume deployment {self.name}", final=True)
        for condition in deployment.get("status", {}).get("conditions") or ():
            kind, value, message = condition["type"], condition["status"], condition.get("message", "")
            if (kind, value) == ("ReplicaFailure", "True"):
                return Trouble(f"no pod can be made: {message}", final=self._lasting("ReplicaFailure") > LINGERING_S)
            if kind == "Progressing" and condition.get("reason") == "ProgressDeadlineExceeded":
                late = self._lasting("ProgressDeadlineExceeded") > LINGERING_S
                return Trouble(f"the Deployment's own time is up: {self._hint() or message}", final=late)
        self._seen = {
            key: at for key, at in self._seen.items() if key not in {"ReplicaFailure", "ProgressDeadlineExceeded"}
        }
        return None

    def _late(self, view: View) -> str:
        hint = self._hint()
        return f"{view.line}{f'; {hint}' if hint and hint not in view.line else ''}"

    def _hint(self) -> str:
        return next((why for pod in self._pods if not is_ready(pod) and (why := self._logs.warning(pod))), "")

    def _only_ours_get_requests(self, patience_s: float) -> bool:
        endpoints = self.api.get(Reference("v1", "Endpoints", self.name).path(self.namespace), None, patience_s)
        addresses = [one for subset in endpoints.get("subsets") or () for one in subset.get("addresses") or ()]
        names = {(address.get("targetRef") or {}).get("name") for address in addresses}
        return bool(names) and names == {pod["metadata"]["name"] for pod in self._pods if is_ready(pod)}

    def _lasting(self, key: str) -> float:
        now = time.monotonic()
        return now - self._seen.setdefault(key, now)


def pods_of(api: Api, namespace: str, selector: dict[str, str], patience_s: float = PATIENCE_S) -> list[Document]:
    """The pods with these labels, without those that are ending, or ended and were replaced, as evicted ones are."""
    query = {"labelSelector": ",".join(f"{name}={value}" for name, value in sorted(selector.items()))}
    found = api.items(collection("v1", "Pod", namespace), query, patience_s)
    return [pod for pod in found if not is_ending(pod) and pod["status"].get("phase") not in {"Failed", "Succeeded"}]


def _complete(deployment: Document, wanted: int) -> bool:
    status = deployment.get("status") or {}
    counts = {int(status.get(name) or 0) for name in ("replicas", "updatedReplicas", "availableReplicas")}
    return int(status.get("observedGeneration") or 0) >= deployment["metadata"]["generation"] and counts == {wanted}


class _Told:
    """Shows a rollout: a live line on a terminal, else a line for each change."""

    def __enter__(self) -> "_Told":
        self._last, self._ready = "", 0
        self._bar: AbstractContextManager[Advance] | None = None
        self._live = stderr().is_terminal
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)

    def __call__(self, view: View) -> None:
        if not self._live:
            if view.line != self._last:
                say("deploy", view.line)
            self._last = view.line
            return
        if self._bar is None:
            self._bar = progress("deploy", view.wanted, "pods")
            self._advance = self._bar.__enter__()
        self._advance(view.ready - self._ready, view.rest[:LONGEST_NOTE])
        self._ready = view.ready
