"""From a request to the bytes of its images, and from those to pixels. Nothing that is sent is trusted.

Bytes are bytes here: no name in a form is used as a path, no URL is fetched, nothing is unpickled or written to disk.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from assay.preprocess import Decoded, Geometry, Unreadable, inspect
from serving import headers, memory, problems
from serving.headers import ACCEPTED, Cost
from serving.memory import Room
from serving.problems import Problem
from serving.settings import Settings

FORM = "multipart/form-data"

RAW = ("application/octet-stream", "binary/octet-stream", "application/x-www-form-urlencoded")
"""Content types of a body that may be an image, beside none and `image/*`; the last is what curl says of any body."""


MUCH = 32 * 2**20
"""Bytes of bodies that are no more, after which the C library is told to give back what it keeps of them."""
SOON_S = 1.0


class Held:
    """How many bytes of bodies this process holds: many uploads at once must not exhaust its memory."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.now = 0
        self._most = 0
        """Since memory was last given back."""

    @contextmanager
    def request(self) -> Iterator[Callable[[int], None]]:
        """Gives the function that counts bytes as they arrive; they are given back when the request ends."""
        taken = 0

        def take(count: int) -> None:
            nonlocal taken
            taken += count
            self.now += count
            self._most = max(self._most, self.now)
            if self.now > self.limit:
                raise Problem(problems.BUSY, "too many bytes of other requests are held now", self.limit)

        try:
            yield take
        finally:
            self.now -= taken
            if self._most - self.now > MUCH:
                self._most = self.now
                # A little later: whoever ends the request still has its body in hand.
                asyncio.get_running_loop().call_later(SOON_S, memory.give_back)


async def images(request: Request, settings: Settings, take: Callable[[int], None]) -> list[bytes]:
    """The files of a request, one or more, each of them an image by its first bytes.

    Args:
        request: its body has not been read.
        settings: the limits.
        take: is told of every piece of the body, and may stop the request.

    Raises:
        Problem: the body is empty, too large, slow, of a type or form that is not read, or a file is no image.
        starlette.requests.ClientDisconnect: the client is gone.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind and kind != FORM and kind not in RAW and not kind.startswith("image/"):
        wanted = f"send an image ({ACCEPTED}) as the body, or files in a form ({FORM})"
        raise Problem(problems.UNSUPPORTED_MEDIA_TYPE, f"content type {_short(kind)} is not read; {wanted}")
    try:
        async with asyncio.timeout(settings.body_timeout_s), aclosing(_counted(request, settings, take)) as body:
            files = await (_form(request, body, settings) if kind == FORM else _whole(body))
    except TimeoutError:
        message = f"the body did not arrive within {settings.body_timeout_s:g} seconds"
        raise Problem(problems.SLOW_BODY, message, settings.body_timeout_s) from None
    for number, data in enumerate(files, 1):
        _check_signature(data, number if len(files) > 1 else None)
    return files


def read(data: bytes, geometry: Geometry, settings: Settings, room: Room, check: Callable[[], None]) -> Decoded:
    """The pixels of an image, for a worker thread.

    Args:
        data: the file.
        geometry: what the model wants.
        settings: the limits.
        room: where memory is taken for as long as it is decoded.
        check: called while there is no room; what it raises ends the waiting.

    Raises:
        Problem: it has too many pixels or frames, asks for too much work, or cannot be read.
    """
    if (reason := headers.laborious(data)) is not None:
        raise Problem(problems.UNREADABLE_IMAGE, reason)
    if (count := headers.frames(data)) > settings.max_frames:
        message = f"{count} pictures in one file; send the one that is meant"
        raise Problem(problems.TOO_MANY_FRAMES, message, settings.max_frames)
    cost = headers.cost(data, geometry.size)
    _check_size(cost, settings, room)
    try:
        with room.hold(cost.total, check):
            return inspect(data, geometry, settings.max_pixels)
    except Unreadable as error:
        raise Problem(problems.UNREADABLE_IMAGE, error.reason) from None


def _check_size(cost: Cost, settings: Settings, room: Room) -> None:
    if cost.pixels > settings.max_pixels:
        message = f"{cost.pixels:,} pixels announced; send a smaller picture"
        raise Problem(problems.TOO_MANY_PIXELS, message, settings.max_pixels)
    if cost.total > room.total:
        message = f"{cost.pixels:,} pixels announced, and no memory to decode so many of this kind"
        limit = max(0, int((room.total - cost.fixed) / cost.bytes_a_pixel)) if cost.bytes_a_pixel else 0
        raise Problem(problems.TOO_MANY_PIXELS, message, limit)


async def _counted(request: Request, settings: Settings, take: Callable[[int], None]) -> AsyncGenerator[bytes, None]:
    """The body in pieces. What the header announces can only refuse it early: it may be missing, or a lie."""
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and int(announced[:20]) > settings.max_body_bytes:
        raise _too_large(settings)
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > settings.max_body_bytes:
            raise _too_large(settings)
        take(len(piece))
        yield piece


def _too_large(settings: Settings) -> Problem:
    return Problem(problems.TOO_LARGE, "the body has too many bytes; send a smaller file", settings.max_body_bytes)


async def _whole(body: AsyncGenerator[bytes, None]) -> list[bytes]:
    data = b"".join([piece async for piece in body])
    if not data:
        raise Problem(problems.EMPTY_BODY, f"the body is empty; send an image ({ACCEPTED})")
    return [data]


class _Form(MultiPartParser):
    spool_max_size = 0
    """Files are never moved to disk: the body is bounded, and the file system may be read-only."""

    def close(self) -> int:
        """Close every file that was begun; gives how many there were."""
        for file in self._files_to_close_on_error:
            file.close()
        return len(self._files_to_close_on_error)


async def _form(request: Request, body: AsyncGenerator[bytes, None], settings: Settings) -> list[bytes]:
    parser = _Form(request.headers, body, max_files=settings.max_images, max_fields=0)
    try:
        form = await parser.parse()
        files = [await value.read() for _, value in form.multi_items() if isinstance(value, UploadFile)]
    except MultiPartException as error:
        raise _form_problem(error.message, settings) from None
    except (ValueError, LookupError) as error:  # of odd charsets and parameters
        raise _form_problem(type(error).__name__, settings) from None
    finally:
        begun = parser.close()
    if begun > len(files):
        raise _form_problem("it ends too soon", settings)
    if not files:
        raise Problem(problems.EMPTY_BODY, "the form holds no file")
    return files


def _form_problem(message: str, settings: Settings) -> Problem:
    if message.startswith("Too many files"):
        limit = settings.max_images
        return Problem(problems.TOO_MANY_IMAGES, f"more than {limit} files in one form; send several", limit)
    if message.startswith("Too many fields"):
        text = "a field of the form is no file; a file has a `filename`, and options belong in the query"
        return Problem(problems.BAD_MULTIPART, text)
    return Problem(problems.BAD_MULTIPART, f"the form cannot be read: {message}")


def _check_signature(data: bytes, number: int | None) -> None:
    if not data:
        problem = Problem(problems.EMPTY_BODY, "the file is empty")
    elif not headers.accepted(data):
        problem = Problem(problems.UNSUPPORTED_IMAGE, f"by its content this is no {ACCEPTED}")
    else:
        return
    raise problem.of_image(number) if number else problem


def _short(text: str) -> str:
    """A client's own words, as much of them as a message can bear."""
    return repr(text if len(text) <= 60 else f"{text[:60]}…")
