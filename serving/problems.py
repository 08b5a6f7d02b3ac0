"""Everything that can be wrong with a request, or with the moment: a stable code, a status, a sentence."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.responses import JSONResponse

RETRY_AFTER_S = 1
"""A queue that is full now is another queue after this long."""


@dataclass(frozen=True)
class Kind:
    """A problem that clients can tell by its code, which never changes."""

    code: str
    status: int
    meaning: str


BAD_QUERY = Kind("bad_query", 400, "A query parameter is unknown, or its value is wrong.")
EMPTY_BODY = Kind("empty_body", 400, "The body is empty, or a form holds no file.")
BAD_MULTIPART = Kind("bad_multipart", 400, "The multipart form cannot be read.")
NOT_FOUND = Kind("not_found", 404, "There is nothing at this path.")
METHOD_NOT_ALLOWED = Kind("method_not_allowed", 405, "The path does not take this method; `Allow` says which.")
SLOW_BODY = Kind("slow_body", 408, "The body took too long to arrive.")
TOO_LARGE = Kind("too_large", 413, "The body has too many bytes.")
TOO_MANY_IMAGES = Kind("too_many_images", 413, "The form holds too many files.")
TOO_MANY_PIXELS = Kind("too_many_pixels", 413, "An image's header announces too many pixels.")
UNSUPPORTED_MEDIA_TYPE = Kind("unsupported_media_type", 415, "The content type is neither an image nor a form.")
UNSUPPORTED_IMAGE = Kind("unsupported_image", 415, "By its content, a file is neither JPEG, PNG, WebP nor BMP.")
TOO_MANY_FRAMES = Kind("too_many_frames", 422, "A file holds too many pictures (an animation).")
UNREADABLE_IMAGE = Kind(
    "unreadable_image", 422, "An image is broken, has values without a meaning, or takes too much work."
)
DEFECT = Kind("defect", 500, "A defect of the service; its log says which.")
BUSY = Kind("busy", 503, "The queue is full; try again after `Retry-After` seconds.")
DRAINING = Kind("draining", 503, "The service is shutting down; try again, which leads to another one.")
TIMEOUT = Kind("timeout", 504, "The request waited or was worked on for too long.")

KINDS = (
    BAD_QUERY,
    EMPTY_BODY,
    BAD_MULTIPART,
    NOT_FOUND,
    METHOD_NOT_ALLOWED,
    SLOW_BODY,
    TOO_LARGE,
    TOO_MANY_IMAGES,
    TOO_MANY_PIXELS,
    UNSUPPORTED_MEDIA_TYPE,
    UNSUPPORTED_IMAGE,
    TOO_MANY_FRAMES,
    UNREADABLE_IMAGE,
    DEFECT,
    BUSY,
    DRAINING,
    TIMEOUT,
)
"""All of them, by status."""


class Problem(Exception):
    """Stops a request. The message is for whoever sent it: what is wrong, with which value, and what is allowed."""

    def __init__(self, kind: Kind, message: str, limit: float | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.limit = limit
        """The limit that was passed, where there is one."""

    def of_image(self, number: int) -> "Problem":
        """The same, saying which image of several it is about; the first is 1."""
        return Problem(self.kind, f"image {number}: {self.message}", self.limit)


def response(problem: Problem, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The answer to a request that a problem has stopped."""
    body: dict[str, Any] = {"code": problem.kind.code, "message": problem.message}
    if problem.limit is not None:
        body["limit"] = problem.limit
    retry = {"Retry-After": str(RETRY_AFTER_S)} if problem.kind.status == 503 else {}
    # The next request on this connection would be for nobody.
    leave = {"Connection": "close"} if problem.kind is DRAINING else {}
    fixed = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return JSONResponse({"error": body}, problem.kind.status, {**fixed, **retry, **leave, **(headers or {})})
