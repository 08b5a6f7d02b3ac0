"""Where labelled pictures come from, by one URI each.

| URI | what |
|---|---|
| `data/cracks` or `file:///data/cracks` | a folder of class folders |
| `data/cracks.zip`, `.tar`, `.tar.gz`, `.tar.bz2`, `.tar.xz` | an archive of that |
| `data/cracks.csv`, `data/cracks.parquet` | a list with the columns `uri`, `label` and, if wanted, `group` |
| `s3://bucket/prefix`, `s3://bucket/list.csv` | the same in an object store |
| `synthetic://concrete?count=3000&seed=7` | drawn by Assay itself |
"""

import hashlib
import os
from pathlib import Path

from assay.data.sources.archive import open_archive
from assay.data.sources.base import Sample, Source, Unavailable, local_path
from assay.data.sources.folder import FolderSource
from assay.data.sources.listing import ListSource
from assay.data.sources.s3 import S3Source
from assay.data.sources.synthetic import SyntheticSource
from assay.digests import canonical_json
from assay.errors import DataError

__all__ = ["Sample", "Source", "Unavailable", "fingerprint", "open_source"]

_LIST_SUFFIXES = (".csv", ".parquet")


def open_source(uri: str) -> Source:
    """The source that a URI names; nothing of it is listed or read yet.

    Raises:
        DataError: the URI is of no known kind, or the path is missing or nothing that Assay can list.
    """
    scheme = uri.partition("://")[0] if "://" in uri else ""
    if scheme == "synthetic":
        return SyntheticSource.parse(uri)
    if scheme == "s3":
        return ListSource(uri) if uri.lower().endswith(_LIST_SUFFIXES) else S3Source(uri)
    if scheme not in ("", "file"):
        raise DataError(f"{uri}: {scheme}:// is not supported; give a path, s3://… or synthetic://…")
    return _local(uri, local_path(uri))


def fingerprint(uri: str) -> str:
    """SHA-256 of a source's listing (uris, labels, groups, stamps): changes when any picture may have changed.

    Raises:
        DataError, Unavailable: as `Source.list` does.
    """
    digest = hashlib.sha256()
    source = open_source(uri)
    try:
        for sample in source.list():
            digest.update(canonical_json([sample.uri, sample.label, sample.group, sample.stamp]) + b"\n")
    finally:
        source.close()
    return digest.hexdigest()


def _local(uri: str, path: Path) -> Source:
    if os.path.isdir(path) and uri.strip():  # noqa: PTH112 (Path's raises where a folder above cannot be searched)
        return FolderSource(uri, path)
    if not os.path.isfile(path):  # noqa: PTH113
        raise DataError(f"{uri or '(empty)'}: no such folder or file; `data.source` says where the pictures are")
    return ListSource(uri) if path.name.lower().endswith(_LIST_SUFFIXES) else open_archive(uri, path)
