"""What a user can cause and mend in a stack, each in one line."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from assay.errors import AssayError


class StackError(AssayError):
    """A stack, a setting of it, or a service that it needs, which is missing, wrong or does not answer."""


def first_line(error: BaseException) -> str:
    """The beginning of what another library has to say, as part of one line of ours."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def sentence(error: ValidationError, place: str) -> str:
    """All problems of settings in one line, each with its full key."""
    return "; ".join(_problem(dict(item), place) for item in error.errors())


def _problem(item: Mapping[str, Any], place: str) -> str:
    where = ".".join((place, *(str(part) for part in item["loc"])))
    if item["type"] == "extra_forbidden":
        return f"{where}: unknown setting"
    return f"{where}: {item['msg'].removeprefix('Value error, ')} (given: {item['input']!r})"
