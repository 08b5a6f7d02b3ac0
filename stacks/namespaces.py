"""What a run names in its Kubernetes namespace, and whether it is there: accounts and persistent volume claims."""

from collections.abc import Iterator, Set
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kubernetes.client import CoreV1Api


def missing(core: "CoreV1Api", namespace: str, accounts: Set[str], claims: Set[str]) -> list[str]:
    """What of it is not there, in words.

    Raises:
        kubernetes.client.exceptions.ApiException: it is not allowed to look.
    """
    return [
        *_lacking("service account", accounts, core.list_namespaced_service_account, namespace),
        *_lacking("claim", claims, core.list_namespaced_persistent_volume_claim, namespace),
    ]


def _lacking(kind: str, wanted: Set[str], listing: Any, namespace: str) -> Iterator[str]:
    present = {one.metadata.name for one in listing(namespace, _request_timeout=10).items} if wanted else set()
    yield from (f"{kind} {name}" for name in sorted(wanted - present))
