"""Around releases in a workflow: what is asked for, what is served afterwards, and whether a container answers."""

import re
import time
from collections.abc import Mapping
from pathlib import Path

from assay.errors import AssayError, DataError
from assay.github.markdown import block
from assay.github.page import page
from assay.github.report import Images, Report, read_images, read_report
from assay.github.runner import summary
from assay.models.bundle import Bundle
from assay.release.endpoint import Http, Unreachable
from assay.release.golden import Golden, problem_of

READY_S = 90.0
_VERSION = re.compile(r"[a-z][a-z0-9_]{0,62}@[1-9][0-9]{0,8}")
_USE_CASE = re.compile(r"[a-z][a-z0-9_]{0,62}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_IMAGE = re.compile(r"[a-z0-9][a-z0-9.:/_-]{0,400}@sha256:[0-9a-f]{64}")


def check_request(model: str, digest: str, image: str) -> None:
    """What is to be promoted, held against how such names look, and against the registry.

    Args:
        model: `name@version`.
        digest: that its bundle must have; empty if anything will do.
        image: `name@sha256:…`; empty for a process.

    Raises:
        AssayError: one of them is something else.
    """
    if not _VERSION.fullmatch(model):
        raise AssayError(f"model {model[:80]!r}: give name@version, such as demo@3; an alias may move meanwhile")
    if image and not _IMAGE.fullmatch(image):
        raise AssayError(f"image {image[:80]!r}: give name@sha256:… with all its 64 digits; a tag may move meanwhile")
    if digest and not _DIGEST.fullmatch(digest):
        raise AssayError(f"digest {digest[:80]!r}: give the 64 digits of the bundle's digest")
    if digest:
        _check_digest(model, digest)


def check_way_back(use_case: str, version: str) -> None:
    """As `check_request`, for a rollback; the registry is not asked, since it need not be up."""
    if not _USE_CASE.fullmatch(use_case):
        raise AssayError(f"use case {use_case[:80]!r}: give a name, such as demo")
    if version != "last-served" and not re.fullmatch(r"[1-9][0-9]{0,8}", version):
        raise AssayError(f"version {version[:80]!r}: give a number, or last-served")


def served(use_case: str, exit_code: int) -> int:
    """Put what is served now on the page of the run, after a promotion or rollback that ended with `exit_code`."""
    from assay.release.status import collect
    from assay.release.telling import status_text
    from serving.targets import open_target

    try:
        told = status_text(collect(use_case, open_target))
    except AssayError as error:
        told = str(error)
    summary(f"#### What is served\n\n{block(told)}")
    return exit_code


def answers_rightly(url: str, bundle: Bundle) -> str:
    """Wait for a service, send it the golden images of a bundle, and say that all is well.

    Raises:
        AssayError: it is not ready in time, or an answer is wrong.
    """
    endpoint, golden = Http(url.rstrip("/")), Golden.of(bundle)
    _wait(endpoint)
    for example in golden.examples:
        if problem := problem_of(endpoint, example, bundle.digest):
            raise AssayError(f"{url} {problem}")
    return f"{url} answers {len(golden.examples)} golden images as bundle {bundle.digest[:12]} must"


def page_of(folder: Path, seconds: Mapping[str, float]) -> str:
    """The page of what artifacts say; one that is not as it must be is named and left out.

    Args:
        folder: with `head/report.json`, `base/report.json`, `images/images.json`, each of which may be missing.
        seconds: job to how long it took.
    """
    faults: list[str] = []
    head, base = (_read_report(folder / side, faults) for side in ("head", "base"))
    return page(head, base, _read_images(folder / "images", faults), seconds, faults)


def _read_report(folder: Path, faults: list[str]) -> Report | None:
    try:
        return read_report(folder)
    except DataError as error:
        faults.append(f"{folder.name}: {error}")
        return None


def _read_images(folder: Path, faults: list[str]) -> Images | None:
    try:
        return read_images(folder)
    except DataError as error:
        faults.append(f"{folder.name}: {error}")
        return None


def _check_digest(model: str, digest: str) -> None:
    from assay import registry

    version = registry.find(model)
    if version.digest != digest:
        raise AssayError(
            f"{model} has bundle {version.digest[:12]}, and {digest[:12]} was asked for: it was registered anew, or "
            "another registry answers; nothing was touched"
        )


def _wait(endpoint: Http) -> None:
    deadline, last = time.monotonic() + READY_S, ""
    while time.monotonic() < deadline:
        try:
            answer = endpoint.send("GET", "/v1/ready", timeout_s=5)
            if answer.status == 200:
                return
            last = f"answers {answer.status}"
        except Unreachable as error:
            last = str(error)
        time.sleep(0.5)
    raise AssayError(f"{endpoint.name} is not ready after {READY_S:.0f} s: {last}")
