"""The ledger: append-only, one numbered entry a fact, in a folder or an S3 bucket."""

from assay.gate.ledger.entries import Asked, Champion, Entry, Judged, Promoted, RolledBack, fingerprint, listing
from assay.gate.ledger.ledger import Ledger, alias_problem, ledger_root

__all__ = [
    "Asked",
    "Champion",
    "Entry",
    "Judged",
    "Ledger",
    "Promoted",
    "RolledBack",
    "alias_problem",
    "fingerprint",
    "ledger_root",
    "listing",
]
