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
            return sorted(number for page in pages for number in self._of(page))

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
        if number > 1:
            self._prove(number - 1)
        won = self._put(number, data)
        self._prove(number)
        return won

    def _prove(self, number: int) -> None:
        """Once: that the store refuses to create an entry that is there. A try with its own bytes does no harm."""
        if self._proven:
            return
        data = self.read(number)
        if data is None:
            return
        if self._put(number, data):
            raise LedgerError(
                f"{self.place}: this object store ignores conditional writes (If-None-Match), so that one promotion "
                "could overwrite another; keep the ledger in a store that honours them, or in a folder"
            )
        self._proven.append(True)

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
        return max(self._of(page), default=0), len(page) == PAGE

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
