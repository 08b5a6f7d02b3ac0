"""What an operator can set: each field of `Settings` is the environment variable `ASSAY_SERVE_<NAME>`."""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from assay.errors import AssayError

PREFIX = "ASSAY_SERVE_"

LONGEST_S = 300.0
"""No time limit may be set longer: what is in front of the service gives up sooner."""

# Kubernetes gives each pod such variables for every Service of its namespace, and one may be called `assay-serve`.
_SERVICE_LINK = re.compile(r"(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")

_BOOLEANS = {"1": True, "true": True, "0": False, "false": False}


class SettingsError(AssayError):
    """An environment variable that is unknown or wrong."""


def _about(
    meaning: str, least: float = -math.inf, most: float = math.inf, pattern: str = ".*", shape: str = "a text"
) -> dict[str, Any]:
    """What a field means; its value is from `least` to `most`, or a text of `pattern`, which is `shape` in words."""
    return {"meaning": meaning, "least": least, "most": most, "pattern": pattern, "shape": shape}


@dataclass(frozen=True)
class Settings:
    """The model to serve and the limits to serve it within; `from_environment` checks them."""

    bundle: str = field(default="", metadata=_about("Folder of the bundle to serve."))
    digest: str = field(
        default="",
        metadata=_about(
            "Digest that the bundle must have; empty: any.", pattern="([0-9a-f]{64})?", shape="64 hexadecimal digits"
        ),
    )
    version: str = field(
        default="",
        metadata=_about("Version that answers name for `BUNDLE`; empty: the first 12 digits of the digest."),
    )
    model: str = field(
        default="",
        metadata=_about(
            "Instead of `BUNDLE`: a model in the registry, as `name@alias` or `name@version`.",
            pattern="([^@]+@[^@]+)?",
            shape="name@alias or name@version",
        ),
    )
    max_body_bytes: int = field(
        default=20_000_000, metadata=_about("Bytes of a request's body, counted as they arrive.", 1, 2**31)
    )
    max_held_bytes: int = field(
        default=200_000_000,
        metadata=_about(
            "Bytes of all bodies that this process holds at once, those that arrive and those that wait.", 1
        ),
    )
    max_pixels: int = field(
        default=50_000_000,
        metadata=_about("Width x height of an image, read from its header before anything is decoded.", 1, 2**31),
    )
    decode_bytes: int = field(
        default=0,
        metadata=_about("Memory that images may take while they are decoded; 0: what the memory limit leaves.", 0),
    )
    max_frames: int = field(
        default=1,
        metadata=_about("Pictures in one file; of an animation that is let in, the first is used.", 1, 10_000),
    )
    max_images: int = field(default=16, metadata=_about("Images in one request.", 1, 10_000))
    concurrency: int = field(default=0, metadata=_about("Requests worked on at once; 0: one a CPU.", 0, 1024))
    queue: int = field(default=64, metadata=_about("Requests that may wait for that.", 0, 100_000))
    threads: int = field(default=1, metadata=_about("Threads that one inference uses.", 1, 1024))
    runtime: str = field(
        default="auto",
        metadata=_about(
            "What computes the model: `onnxruntime`, `openvino`, or `auto`: OpenVINO where it is installed and the CPU "
            "has AMX for bf16.",
            pattern="auto|onnxruntime|openvino",
            shape="auto, onnxruntime or openvino",
        ),
    )
    timeout_s: float = field(
        default=30.0, metadata=_about("Seconds that a request may wait and be worked on.", 0.001, LONGEST_S)
    )
    body_timeout_s: float = field(
        default=20.0, metadata=_about("Seconds that a request's body may take to arrive.", 0.001, LONGEST_S)
    )
    top_k: int = field(
        default=10,
        metadata=_about("Probabilities in an answer to a request that does not ask for a number.", 1, 100_000),
    )
    observe_to: str = field(
        default="", metadata=_about("Folder or bucket where predictions are kept for monitoring; empty: nowhere.")
    )
    observe_rate: float = field(default=0.0, metadata=_about("Share of the predictions that are kept.", 0, 1))
    observe_images: bool = field(default=False, metadata=_about("Whether the images themselves are kept as well."))

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Settings":
        """Read the variables that are set; an empty one counts as not set.

        Raises:
            SettingsError: a variable is unknown, or its value is wrong; the message is one line that names it.
        """
        given = {name.removeprefix(PREFIX): text for name, text in environ.items() if name.startswith(PREFIX)}
        known = {option.name.upper(): option for option in fields(cls)}
        for name in sorted(set(given) - set(known)):
            if not _SERVICE_LINK.fullmatch(name):
                raise SettingsError(f"{PREFIX}{name}: unknown; known are {', '.join(known)}, each after {PREFIX}")
        values = {o.name: _value(o, given[name].strip()) for name, o in known.items() if given.get(name, "").strip()}
        return _consistent(cls(**values))

    def check_model_is_named(self) -> None:
        """Whether there is a model to serve.

        Raises:
            SettingsError: there is none.
        """
        if not self.bundle and not self.model:
            raise SettingsError(f"no model to serve: set {PREFIX}BUNDLE to a folder or {PREFIX}MODEL to name@alias")

    @property
    def workers(self) -> int:
        """How many requests are worked on at once."""
        return self.concurrency or cpus()


def options() -> list[tuple[str, Any, str]]:
    """Environment variable, default and meaning of each setting."""
    return [(PREFIX + option.name.upper(), option.default, option.metadata["meaning"]) for option in fields(Settings)]


def cpus(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """CPUs that this process may use: those it may run on, or fewer where its control group has a quota.

    Args:
        quota: a file as the control groups (v2) of Linux have it: microseconds of CPU, and the period they are for.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        share, period = map(int, quota.read_text(encoding="ascii").split())
    except (OSError, ValueError):  # no Linux, or "max": no quota
        return allowed
    return max(1, min(allowed, math.ceil(share / period)))


def _value(option: "Field[Any]", text: str) -> Any:
    kind: type[Any] = type(option.default)
    try:
        value = _BOOLEANS[text.lower()] if kind is bool else kind(text)
    except (ValueError, KeyError):
        raise SettingsError(f"{PREFIX}{option.name.upper()}: must be {_NAMES[kind]}, given: {text!r}") from None
    _check(option, value)
    return value


_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def _check(option: "Field[Any]", value: Any) -> None:
    about, name = option.metadata, PREFIX + option.name.upper()
    if isinstance(value, str):
        if not re.fullmatch(about["pattern"], value):
            raise SettingsError(f"{name}: must be {about['shape']}, given: {value!r}")
    elif not about["least"] <= value <= about["most"]:  # NaN fails both comparisons
        raise SettingsError(f"{name}: must be {_range(about['least'], about['most'])}, given: {value}")


def _range(least: float, most: float) -> str:
    return f"from {least:,} to {most:,}" if math.isfinite(most) else f"{least:,} or more"


def _consistent(settings: Settings) -> Settings:
    if settings.max_held_bytes < settings.max_body_bytes:
        raise SettingsError(f"{PREFIX}MAX_HELD_BYTES: is less than {PREFIX}MAX_BODY_BYTES, so no such body fits")
    if settings.bundle and settings.model:
        raise SettingsError(f"{PREFIX}MODEL: {PREFIX}BUNDLE is set too; set one of them")
    return settings
