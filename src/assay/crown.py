"""The champion: what the ledger says. The registry's alias follows it."""

from assay import registry
from assay.errors import LedgerError
from assay.gate.ledger import Entry, Ledger, alias_problem
from assay.registry import CHAMPION, Version


def champion_of(name: str) -> tuple[str, str] | tuple[None, None]:
    """Version of the champion and digest of its bundle, by the ledger; the registry is not asked."""
    crowned = Ledger.open(name).champion()
    return (crowned.version, crowned.bundle_digest) if crowned else (None, None)


def crown(version: Version, actor: str = "") -> Entry:
    """Make a version the champion, first in the ledger and then in the registry.

    Raises:
        LedgerError: the ledger holds no verdict that allows it, or another promotion came first.
        RegistryError: the ledger says so now, and the alias could not follow; `assay ledger verify --repair` mends it.
    """
    entry = Ledger.open(version.name, actor=actor).promote(version.version, version.digest)
    registry.set_alias(version, CHAMPION)
    return entry


def verify(name: str, repair: bool = False) -> list[str]:
    """All that is wrong with the ledger of a use case, and with the alias that follows it.

    Args:
        name: of the use case.
        repair: point the alias at the ledger's champion. The ledger itself is never changed: what is broken there was
            altered on purpose or lost, and a person must look.
    """
    ledger = Ledger.open(name)
    if problems := ledger.verify():
        return problems
    crowned = ledger.champion()
    problem = alias_problem(crowned, registry.aliases(name).get(CHAMPION))
    if problem is None:
        return []
    if not repair:
        return [f"{problem}; `assay ledger verify {name} --repair` lets the alias follow"]
    if crowned is None:
        registry.delete_alias(name, CHAMPION)
        return []
    version = registry.find(f"{name}@{crowned.version}")
    if version.digest != crowned.bundle_digest:
        raise LedgerError(f"{version}: its bundle is not the one that the ledger crowned; the alias is left as it is")
    registry.set_alias(version, CHAMPION)
    return []
