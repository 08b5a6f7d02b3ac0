"""The page for a person: static files that ask nothing of any other server, and the rules that hold them to it."""

import hashlib
from collections.abc import Awaitable, Callable
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

INDEX = "index.html"

TYPES = {
    INDEX: "text/html; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "style.css": "text/css; charset=utf-8",
}
"""The files of the page, each with its content type; nothing else is ever read for a request."""

POLICY = "; ".join(
    [
        "default-src 'self'",
        "img-src 'self' data: blob:",  # the heat map, and the pictures that were chosen
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
"""Content-Security-Policy: no script, style or request that is not this server's."""

HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # Asked for anew each time, which costs a 304: after a rollout the page must fit the service.
    "Cache-Control": "no-cache",
}


def routes() -> list[Route]:
    """`/` and the files below `/page/` that it is made of, read once and kept in memory.

    Every address in them is relative, so the application may be mounted anywhere, under a path that ends in `/`.
    """
    paths = {name: "/" if name == INDEX else f"/page/{name}" for name in TYPES}
    return [Route(path, _endpoint(name), methods=["GET"], name=name) for name, path in paths.items()]


def _endpoint(name: str) -> Callable[[Request], Awaitable[Response]]:
    content = files(__package__).joinpath("page", name).read_bytes()
    headers = {**HEADERS, "ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"'}

    async def serve(request: Request) -> Response:
        known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
        if headers["ETag"] in known:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=TYPES[name])

    return serve
