"""Content digests: SHA-256, in hex, over bytes that do not depend on the machine."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def of_bytes(data: bytes) -> str:
    """SHA-256 of `data`, 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def of_file(path: Path) -> str:
    """SHA-256 of a file's content, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_json(value: Any) -> str:
    """SHA-256 of the canonical JSON of `value`: sorted keys, no spaces, NaN refused (ValueError)."""
    return of_bytes(canonical_json(value))


def canonical_json(value: Any) -> bytes:
    """`value` as canonical JSON bytes: the same value gives the same bytes everywhere."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def of_files(root: Path, names: Iterable[str]) -> str:
    """Digest of a set of files below `root`: over each one's relative name and content digest, in name order."""
    return of_json([[name, of_file(root / name)] for name in sorted(names)])
