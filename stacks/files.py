"""A stack's YAML: what stands in it, with the variables that differ from one environment to the next filled in."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stacks.errors import StackError, sentence

FOLDER = Path(__file__).parent
_VARIABLE = re.compile(r"\$\{([A-Z][A-Z0-9_]*)(?::-([^}]*))?\}")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Component(_Part):
    """One component; it is named like its stack."""

    flavor: str
    configuration: Mapping[str, Any] = {}


class StackFile(_Part):
    """A stack, whole."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")
    flavors: tuple[str, ...] = ()
    """Classes of orchestrators' flavours, by their dotted names."""
    secrets: Mapping[str, Mapping[str, str]] = {}
    """ZenML secrets of the stack; every step sees their values as environment variables."""
    environment: Mapping[str, str] = {}
    """Variables of every step, to be read by anybody."""
    components: Mapping[str, Component]


def names() -> list[str]:
    """The stacks that there are YAMLs for."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != "compose")


def load(name: str) -> StackFile:
    """The stack `stacks/NAME.yaml`, or that of a path to a YAML of one's own, with `${VARIABLES}` filled in.

    A value that is left empty is left out.

    Raises:
        StackError: there is no such stack, it is not sound, or variables are not set; all of these are named at once.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StackError(f"no stack {name!r}; there are: {', '.join(names())}") from None
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise StackError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    if missing := sorted(set(_missing(raw))):
        raise StackError(f"{path.name}: set {', '.join(missing)} (docs/stacks.md says what each is)")
    try:
        return StackFile.model_validate(_filled(raw))
    except ValidationError as error:
        raise StackError(f"{path.name}: {sentence(error, 'stack')}") from None


def _missing(raw: Any) -> Iterator[str]:
    if isinstance(raw, Mapping):
        for value in raw.values():
            yield from _missing(value)
    elif isinstance(raw, str):
        for found in _VARIABLE.finditer(raw):
            if found[2] is None and not os.environ.get(found[1]):
                yield found[1]


def _filled(raw: Any) -> Any:
    if isinstance(raw, Mapping):
        filled = {key: _filled(value) for key, value in raw.items()}
        return {key: value for key, value in filled.items() if value not in ("", {})}
    if isinstance(raw, list):
        return [_filled(value) for value in raw]
    return _VARIABLE.sub(lambda found: os.environ.get(found[1]) or found[2] or "", raw) if isinstance(raw, str) else raw
