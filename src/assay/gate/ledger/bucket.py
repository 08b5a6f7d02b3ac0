"""Entries in an S3 bucket."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from assay.errors import DataError, LedgerError
from assay.gate.ledger.entries import MAX_BYTES, MAX_NUMBER, file_name, number_of

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import S3Store

NOT_THERE = "there-is-no-such-object"
RIVALS = 4
"""Writers of the race that shows whether a store creates an object once."""
PAGE = 1000
"""Keys in one answer of an object store."""
SHOWN_FROM = 1000
"""Reading so many objects takes long enough to be shown."""


@dataclass(frozen=True)
class Bucket:
    """Entries as objects `s3://bucket/prefix/<number>.json`, by conditional writes (`If-None-Match: *`)."""

    place: str
    _proven: list[bool] = field(default_factory=list, init=False, repr=False)

    @cached_property
    def _s3(self) -> "S3Store":
        from assay.data.sources.s3 import connect

        with _plainly(self.place):
            return connect(self._bucket)

    @cached_property
    def _bucket(self) -> str:
        return self.place.removeprefix("s3://").partition("/")[0]

    @cached_property
    def _prefix(self) -> str:
        return self.place.removeprefix("s3://").partition("/")[2]

    def numbers(self) -> list[int]:
        with _plainly(self.place):
            pages = self._s3.list(self._prefix, chunk_size=PAGE)
            found = sorted(number for page in pages for number in self._of(page))
        if not found:
            self._check_is_a_store()
        return found

    def folders(self) -> list[str]:
        """Names of what is one level below the prefix."""
        with _plainly(self.place):
            found = self._s3.list_with_delimiter(self._prefix or None)["common_prefixes"]
        if not found:
            self._check_is_a_store()
        return sorted(prefix.rstrip("/").rpartition("/")[2] for prefix in found)

    def last(self) -> int:
        """The largest number, by O(log n) requests: doubling, then halving.

        The page after a number holds the next entries, and one that is not full says that there are no more: no gap
        leads astray.
        """
        low, full = self._after(0)
        beyond: int | None = None
        while full and low != beyond:
            middle = _middle(low, beyond)
            found, more = self._after(middle)
            if found:
                low, full = found, more
            else:
                beyond = middle
        return low

    def read(self, number: int) -> bytes | None:
        import obstore

        with _plainly(self._address(number)):
            try:
                result = obstore.get(self._s3, self._key(number))
            except FileNotFoundError:
                return None
            if result.meta["size"] <= MAX_BYTES:
                return bytes(result.bytes())
            return bytes(next(iter(result.stream(MAX_BYTES + 1))))[: MAX_BYTES + 1]

    def read_all(self, numbers: Sequence[int]) -> Iterator[bytes | None]:
        from assay.console import progress
        from assay.data.sources.s3 import PARALLEL_READS

        with ThreadPoolExecutor(PARALLEL_READS) as pool:
            if len(numbers) < SHOWN_FROM:
                yield from pool.map(self.read, numbers)
                return
            with progress("ledger", len(numbers), "entries") as advance:
                for data in pool.map(self.read, numbers):
                    yield data
                    advance()

    def create(self, number: int, data: bytes) -> bool:
        if self._proven:
            return self._put(number, data)
        self._prove(number - 1)
        # A race against itself: the same bytes from all do no harm, whoever wins.
        with ThreadPoolExecutor(RIVALS) as pool:
            wins = sum(pool.map(self._put, [number] * RIVALS, [data] * RIVALS))
        if wins > 1:
            raise self._unfit()
        self._proven.append(True)
        return wins == 1

    def _prove(self, number: int) -> None:
        """That the store refuses to create an entry that is there. A try with its own bytes does no harm."""
        data = self.read(number)
        if data is not None and self._put(number, data):
            raise self._unfit()

    def _unfit(self) -> LedgerError:
        return LedgerError(
            f"{self.place}: this object store ignores conditional writes (If-None-Match), or lets several at the same "
            "moment succeed, so that one promotion could overwrite another; keep the ledger in a store that honours "
            "them (AWS, MinIO, SeaweedFS from 4.19 on), or in a folder"
        )

    def _put(self, number: int, data: bytes) -> bool:
        import obstore
        from obstore.exceptions import AlreadyExistsError

        with _plainly(self._address(number)):
            try:
                obstore.put(self._s3, self._key(number), data, mode="create")
            except AlreadyExistsError:
                return False
            except NotImplementedError:
                raise LedgerError(
                    f"{self.place}: conditional writes are turned off; unset AWS_CONDITIONAL_PUT"
                ) from None
        return True

    def _after(self, number: int) -> tuple[int, bool]:
        """The last number of the page after `number`, 0 if there is none, and whether the page is full."""
        with _plainly(self.place):
            page = next(iter(self._s3.list(self._prefix, offset=self._key(number), chunk_size=PAGE)), [])
        if not page and number == 0:
            self._check_is_a_store()
        return max(self._of(page), default=0), len(page) == PAGE

    def _check_is_a_store(self) -> None:
        """A login page, or a proxy, answers everything with a page that lists no objects: that is no empty ledger."""
        import obstore

        with _plainly(self.place):
            try:
                obstore.head(self._s3, f"{self._prefix}/{NOT_THERE}".lstrip("/"))
            except FileNotFoundError:
                return
        raise LedgerError(
            f"{self.place}: what answers there is no object store: it has an object that nobody put there; "
            "check AWS_ENDPOINT_URL"
        )

    def _of(self, page: "Sequence[ObjectMeta]") -> list[int]:
        numbers = (number_of(meta["path"].removeprefix(f"{self._prefix}/")) for meta in page)
        return [number for number in numbers if number is not None]

    def _key(self, number: int) -> str:
        return f"{self._prefix}/{file_name(number)}"

    def _address(self, number: int) -> str:
        return f"{self.place}/{file_name(number)}"


@contextmanager
def _plainly(place: str) -> Iterator[None]:
    from assay.data.sources.base import Unavailable
    from assay.data.sources.s3 import one_line

    try:
        with one_line(place):
            yield
    except (DataError, Unavailable) as error:
        raise LedgerError(str(error)) from error


def _middle(low: int, beyond: int | None) -> int:
    """Where to look for an entry after `low`, if none is after `beyond`."""
    if beyond is None:
        return min(2 * low, MAX_NUMBER)
    return low if beyond - low <= PAGE else (low + beyond) // 2
