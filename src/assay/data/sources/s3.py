"""Objects in an S3 bucket, below a prefix, in class "folders".

Endpoint, region and credentials come from the usual variables: `AWS_ENDPOINT_URL`, `AWS_REGION`, `AWS_ACCESS_KEY_ID`,
`AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, a web identity, or the instance's role.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from assay.data.sources.base import Sample, Unavailable, check_size, is_junk, samples_of_tree
from assay.errors import DataError

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import S3Store

CONNECT_S, SILENCE_S, REQUEST_S = 3, 8, 300
"""How long a connection may take, an answer or its next bytes may be awaited, and a whole request may last."""
RETRIES, RETRY_S = 5, 7
"""How often a request that fails for now is repeated, and how long after its start it still is."""

PARALLEL_READS = 16
"""Reads that one process should have under way at a time: each mostly waits for its answer."""

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")
_ENDPOINT = re.compile(r"https?://[A-Za-z0-9\[][!-~]*")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_REFUSED = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired"}


@dataclass
class Stores:
    """Connections to buckets, one each, for any number of threads. A pickled one arrives without them."""

    _open: "dict[str, S3Store]" = field(default_factory=dict, init=False, repr=False)

    def read(self, place: str) -> bytes:
        """Content of the object `s3://bucket/key` (DataError: it cannot be read; Unavailable: nothing can be)."""
        import obstore

        bucket, key = parse(place)
        with one_line(place, for_one=True):
            result = obstore.get(self._store(bucket), key)
            check_size(result.meta["size"])
            return bytes(result.bytes())

    def below(self, prefix: str) -> Iterator[tuple[str, str]]:
        """`s3://bucket/key` and stamp of every object below a prefix, which ends at a `/` or not at all."""
        bucket, key = parse(prefix)
        with one_line(prefix):
            for chunk in self._store(bucket).list(key.rstrip("/") or None, chunk_size=1000):
                yield from ((f"s3://{bucket}/{meta['path']}", _stamp(meta)) for meta in chunk)

    def stamps(self, places: Iterable[str]) -> dict[str, str]:
        """Stamps of those of `places` that exist, from one listing of each folder that they lie in."""
        folders: dict[str, set[str]] = defaultdict(set)
        for place in places:
            folders[place.rpartition("/")[0]].add(place)
        return {
            place: stamp for folder in folders for place, stamp in self._directly_in(folder) if place in folders[folder]
        }

    def close(self) -> None:
        self._open = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"_open": {}}

    def _directly_in(self, folder: str) -> Iterator[tuple[str, str]]:
        bucket, key = parse(f"{folder}/")
        with one_line(folder):
            found = self._store(bucket).list_with_delimiter(key.rstrip("/") or None)
            yield from ((f"s3://{bucket}/{meta['path']}", _stamp(meta)) for meta in found["objects"])

    def _store(self, bucket: str) -> "S3Store":
        if bucket not in self._open:
            self._open[bucket] = connect(bucket)
        return self._open[bucket]


@dataclass
class S3Source:
    """See the package."""

    uri: str
    parallel_reads: ClassVar[int] = PARALLEL_READS
    _stores: Stores = field(default_factory=Stores, init=False, repr=False)

    def list(self) -> list[Sample]:
        root = f"{self.uri.rstrip('/')}/"
        objects = {place.removeprefix(root): tag for place, tag in self._stores.below(self.uri)}
        if not objects:
            raise DataError(f"{self.uri}: nothing is stored below it; it should hold one folder for each class")
        return samples_of_tree(self.uri, {path: tag for path, tag in objects.items() if not _is_junk_path(path)})

    def read(self, sample: Sample) -> bytes:
        return self._stores.read(f"{self.uri.rstrip('/')}/{sample.uri}")

    def close(self) -> None:
        self._stores.close()


def parse(uri: str) -> tuple[str, str]:
    """Bucket and key of `s3://bucket/key`; a key is taken as it stands, `%`, `#` and `?` included."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise DataError(f"{uri}: {bucket!r} is no bucket name; as in s3://bucket/prefix")
    return bucket, key


def connect(bucket: str) -> "S3Store":
    """A client of a bucket, by the usual AWS_* variables, that gives up on a silent store within a minute.

    Raises:
        DataError: the address of the store is none.
    """
    from obstore.store import S3Store

    endpoint = _endpoint()
    if endpoint and not _ENDPOINT.fullmatch(endpoint):  # the client would panic
        raise DataError(f"AWS_ENDPOINT_URL: {endpoint!r} is no http:// or https:// address")
    return S3Store(
        bucket,
        client_options={
            "allow_http": endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=CONNECT_S),
            "read_timeout": timedelta(seconds=SILENCE_S),
            "timeout": timedelta(seconds=REQUEST_S),
        },
        retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_S)},
    )


def _endpoint() -> str:
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    return next((os.environ[name] for name in names if os.environ.get(name)), "")


@contextmanager
def one_line(place: str, for_one: bool = False) -> Iterator[None]:
    """Turn what the object store's client raises into one line: DataError or Unavailable.

    `for_one`: the request is for one sample, whose reason for quarantine must name no place.
    """
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, OSError, ValueError) as error:
        raise _explained(place, error, for_one) from error


def _explained(place: str, error: Exception, for_one: bool) -> DataError | Unavailable:
    text = str(error).partition("\n\nDebug source")[0]
    code = match[1] if (match := _CODE.search(text)) else ""
    if trouble := _trouble(text, code, place):
        return Unavailable(f"{place}: {trouble}")
    where = "" if for_one else f"{place}: "
    if code == "AccessDenied":
        return DataError(f"{where}access denied by the object store")
    if isinstance(error, FileNotFoundError):
        return DataError(f"{where}no such object")
    if isinstance(error, ValueError):
        return DataError(f"{where}a key that object stores do not allow")
    reason = code or " ".join(text.rpartition(" - ")[2].split())
    return Unavailable(f"{place}: no answer from {_endpoint() or 'AWS'} ({reason}); check AWS_ENDPOINT_URL, AWS_REGION")


def _trouble(text: str, code: str, place: str) -> str:
    """What is wrong with the bucket or the credentials; "" if neither is."""
    if code == "NoSuchBucket":
        return f"there is no bucket {parse(place)[0]!r} at {_endpoint() or 'AWS'}"
    if "latest/api/token" in text:  # where an instance's role is asked for, last of all
        return "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (profiles in ~/.aws are not read)"
    return f"the credentials are refused ({code}); check the AWS_… variables" if code in _REFUSED else ""


def _stamp(meta: "ObjectMeta") -> str:
    return f"{(meta['e_tag'] or meta['last_modified'].isoformat()).strip(chr(34))}-{meta['size']}"


def _is_junk_path(path: str) -> bool:
    return any(map(is_junk, path.split("/")))
