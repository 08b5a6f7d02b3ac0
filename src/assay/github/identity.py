"""The identity that GitHub gives a job (OIDC), for who trusts it: a cloud's role, a cluster's account."""

import json
import os
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread

from assay.console import warn
from assay.errors import AssayError

TIMEOUT_S = 20.0
AWS = "sts.amazonaws.com"
AWS_FILE = "AWS_WEB_IDENTITY_TOKEN_FILE"
RENEW_S = 120.0
"""Between two tokens in a file: each holds for about 5 minutes."""
AUDIENCE = re.compile(r"[A-Za-z0-9.:/_-]{1,200}")


def token(audience: str) -> str:
    """A token that says which repository, environment and workflow this job is of, for one who trusts GitHub.

    Args:
        audience: for whom; nobody else takes it.

    Raises:
        AssayError: the job has no `id-token: write`, or GitHub does not answer.
    """
    url, bearer = (os.environ.get(f"ACTIONS_ID_TOKEN_REQUEST_{name}", "") for name in ("URL", "TOKEN"))
    if not url or not bearer:
        raise AssayError("no identity: the job needs `permissions: {id-token: write}`")
    if not AUDIENCE.fullmatch(audience):
        raise AssayError(f"audience {audience[:80]!r}: give a name or an address")
    address = f"{url}&{urllib.parse.urlencode({'audience': audience})}"
    request = urllib.request.Request(address, headers={"Authorization": f"Bearer {bearer}"})  # noqa: S310 (the runner's)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
            return str(json.loads(answer.read(1_000_000))["value"])
    except (OSError, ValueError, KeyError) as error:
        raise AssayError(f"GitHub gave no identity for {audience}: {type(error).__name__}") from None


def write_token(audience: str, path: Path) -> None:
    """A token in a file that nobody else on the machine can read; who reads meanwhile reads the old one or the new."""
    value = token(audience)
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(value)
    beside.replace(path)


@contextmanager
def kept_fresh(every_s: float = RENEW_S) -> Iterator[None]:
    """Meanwhile the token in `$AWS_WEB_IDENTITY_TOKEN_FILE` is a fresh one; nothing happens where GitHub gives none.

    A file that cannot be renewed is told, and is no reason to end what is at work.
    """
    path = os.environ.get(AWS_FILE, "")
    if not path or not os.environ.get("ACTIONS_ID_TOKEN_REQUEST_URL"):
        yield
        return
    ended = Event()
    renewing = Thread(target=_renew, args=(Path(path), every_s, ended), daemon=True)
    renewing.start()
    try:
        yield
    finally:
        ended.set()
        renewing.join(TIMEOUT_S)


def _renew(path: Path, every_s: float, ended: Event) -> None:
    while True:
        try:
            write_token(AWS, path)
        except (AssayError, OSError) as error:
            warn("identity", f"{path}: not renewed: {error}")
        if ended.wait(every_s):
            return


def credential(audience: str) -> str:
    """What Kubernetes' clients ask a plugin of their configuration for, JSON: a token, and until when it holds."""
    value = token(audience)
    status = {"token": value, "expirationTimestamp": _expiry(value)}
    document = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}
    return json.dumps(document)


def kubeconfig(server: str, authority: str, audience: str) -> str:
    """A configuration for a cluster that trusts GitHub's identities; it holds no secret, and asks for a token when one
    is needed: they hold for minutes only.

    Args:
        server: `https://…`.
        authority: the cluster's certificates, PEM in base 64; empty if the machine knows who signed them.
        audience: that the cluster takes.

    Raises:
        AssayError: the address is none.
    """
    if not re.fullmatch(r"https://[A-Za-z0-9.:/_-]+", server):
        raise AssayError(f"cluster {server[:80]!r}: give the address of its API, https://…")
    plugin = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": sys.executable,
        "args": ["-m", "assay", "github", "token", "--audience", audience, "--as", "kubernetes"],
        "interactiveMode": "Never",
    }
    cluster = {"server": server} | ({"certificate-authority-data": authority} if authority else {})
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "assay", "cluster": cluster}],
            "users": [{"name": "github", "user": {"exec": plugin}}],
            "contexts": [{"name": "assay", "context": {"cluster": "assay", "user": "github"}}],
            "current-context": "assay",
        }
    )


def _expiry(value: str) -> str:
    try:
        payload = value.split(".")[1]
        seconds = float(json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["exp"])
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, LookupError, TypeError):
        raise AssayError("GitHub gave an identity that is no token") from None
