"""Pods: whether they are ready, and why they are not, in words."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from serving.cluster.api import Document

CONTAINER = "assay"
IMAGE_PATIENCE_S = 12.0
"""A pull that failed once may have met a passing fault of the registry; by then a second one has failed."""
LONGEST = 300

LastWords = Callable[[Document, bool], str]
"""The line in which a pod's service said why it ended (of its earlier run, if so asked); empty if it said nothing."""

_NEVER = {"InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError", "CreateContainerError"}
_PULLING = {"ErrImagePull", "ImagePullBackOff", "RegistryUnavailable", "ImageInspectError"}
_HOPELESS = re.compile(
    r"not found|manifest unknown|unauthori[sz]ed|denied|no such host|invalid reference", re.IGNORECASE
)


@dataclass(frozen=True)
class Trouble:
    """Why a pod is not ready."""

    text: str
    final: bool
    """Waiting will not help."""


def is_ending(pod: Document) -> bool:
    """Whether it was deleted: it gets no requests any more."""
    return bool(pod["metadata"].get("deletionTimestamp"))


def is_ready(pod: Document) -> bool:
    """Whether it gets requests."""
    conditions = pod.get("status", {}).get("conditions") or ()
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
    return ready and not is_ending(pod)


def restarts(pod: Document) -> int:
    """Of all its containers together."""
    return sum(int(status.get("restartCount", 0)) for status in _statuses(pod))


def trouble(pod: Document, lasting_s: float, last_words: LastWords) -> Trouble | None:
    """What keeps a pod from being ready; None if it only takes its time.

    Args:
        pod: as the cluster has it.
        lasting_s: seconds since it was first seen.
        last_words: reads the log; it is asked only about a service that ended.
    """
    if pod.get("status", {}).get("phase") == "Failed" and pod["status"].get("reason"):
        return Trouble(_text(pod["status"]["reason"], pod["status"].get("message", "")), final=True)
    for condition in pod.get("status", {}).get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return Trouble(_text("no node takes it", condition.get("message", "")), final=False)
    for status in _statuses(pod):
        if found := _of_container(pod, status, lasting_s, last_words):
            return found
    return None


def _of_container(pod: Document, status: Document, lasting_s: float, last_words: LastWords) -> Trouble | None:
    waiting = (status.get("state") or {}).get("waiting") or {}
    reason, message = str(waiting.get("reason", "")), str(waiting.get("message", ""))
    if reason in _NEVER:
        # A ConfigMap made a moment ago may not have reached the node.
        return Trouble(_text(reason, message), final=reason != "CreateContainerConfigError" or lasting_s > 5)
    if reason in _PULLING:
        final = bool(_HOPELESS.search(message)) or lasting_s > IMAGE_PATIENCE_S
        return Trouble(_text(f"{reason}: {status.get('image', '')}", _root(message)), final)
    return _ended(pod, status, last_words, looping=reason == "CrashLoopBackOff")


def _ended(pod: Document, status: Document, last_words: LastWords, looping: bool) -> Trouble | None:
    """Of a container that ended now or before its last start; a second time in a row is one too many."""
    now = (status.get("state") or {}).get("terminated")
    ended = now or (status.get("lastState") or {}).get("terminated")
    if not ended or status.get("ready"):
        return None
    if ended.get("reason") == "OOMKilled":
        text = f"OOMKilled: it needs more memory than its limit{_limit(pod, status['name'])}"
    else:
        text = f"{'CrashLoopBackOff: ' if looping else ''}it ended with code {ended.get('exitCode')}"
    words = last_words(pod, now is None)
    for_good = pod["spec"].get("restartPolicy") == "Never"
    # What the service says in a line of its own is settled before it starts, and will be the same again.
    return Trouble(f"{text}: {words}" if words else text, final=for_good or looping or bool(words))


def _limit(pod: Document, container: str) -> str:
    for found in pod["spec"].get("containers") or ():
        limit = ((found.get("resources") or {}).get("limits") or {}).get("memory")
        if found["name"] == container and limit:
            return f" of {limit}"
    return ""


def _root(message: str) -> str:
    """The end of a chain of errors; the names before it are in the image's."""
    return message.rsplit("failed to do request: ", maxsplit=1)[-1].rsplit("failed to resolve reference ", maxsplit=1)[
        -1
    ]


def _text(what: str, message: str) -> str:
    return " ".join((f"{what}: {message}" if message else what).split())[:LONGEST]


def _statuses(pod: Document) -> list[Document]:
    status = pod.get("status") or {}
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
