"""The ledger: append-only, one numbered entry a fact, in a folder or an S3 bucket."""

from assay.gate.ledger.chain import Chain
from assay.gate.ledger.entries import (
    Asked,
    Champion,
    Entry,
    Judged,
    Promoted,
    Released,
    RolledBack,
    Withdrawn,
    fingerprint,
    listing,
)
from assay.gate.ledger.ledger import Ledger, alias_problem, ledger_root, use_cases
from assay.gate.ledger.releases import CROWNED, ENVIRONMENTS, Environment, Release

__all__ = [
    "CROWNED",
    "ENVIRONMENTS",
    "Asked",
    "Chain",
    "Champion",
    "Entry",
    "Environment",
    "Judged",
    "Ledger",
    "Promoted",
    "Release",
    "Released",
    "RolledBack",
    "Withdrawn",
    "alias_problem",
    "fingerprint",
    "ledger_root",
    "listing",
    "use_cases",
]
