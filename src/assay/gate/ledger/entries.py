"""The entries of a ledger: what each says, and the bytes that say it.

The fields of a model stand in the order of their names, so that what pydantic writes is canonical JSON.
"""

import re
from collections.abc import Iterable
from datetime import UTC
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, Field, ValidationError

from assay import digests
from assay.gate.ledger.releases import Environment, Release, VersionName
from assay.gate.looks import Digest, Question, Record
from assay.gate.verdict import Decision

MAX_BYTES = 64 * 1024
"""No entry is larger, so that no file, whatever it is, is read further than this."""
MAX_NUMBER = 99_999_999

MAX_ACTOR = 200
"""Characters of who is at work."""
LINE = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$"
"""Without line breaks and control characters: it is printed as it stands."""

_FILE = re.compile(r"([0-9]{8})\.json")

Number = Annotated[int, Field(ge=1, le=MAX_NUMBER)]


class Champion(Record):
    """The version that is the champion, and the entry that made it so."""

    bundle_digest: Digest
    number: Number
    version: VersionName

    def __str__(self) -> str:
        return f"version {self.version} ({short(self.bundle_digest)})"


class Asked(Record):
    """A question was put to a test set. Written before it is answered."""

    kind: Literal["look"] = "look"
    look: int = Field(ge=1)
    """How many looks at this test set, or at one that overlaps it, there are with this one."""
    question: Question

    @property
    def sentence(self) -> str:
        """For a person, without the number of the entry."""
        question = self.question
        rival = f"champion {short(question.champion_digest)}" if question.champion_digest else "no champion"
        test = f"{question.sketch.images:,} test images (split {short(question.split_digest)})"
        return f"look {self.look} at {test}: candidate {short(question.candidate_digest)} against {rival}"


class Judged(Record):
    """A verdict was reached."""

    bootstrap: bool
    candidate_digest: Digest
    champion_digest: Digest | None
    champion_version: VersionName | None
    decision: Decision
    evidence_digest: Digest
    kind: Literal["verdict"] = "verdict"
    look: int = Field(ge=1)
    policy_digest: Digest
    split_digest: Digest
    verdict_digest: Digest

    @property
    def key(self) -> tuple[str, str | None, str, str]:
        """That of the question which it answers."""
        return self.candidate_digest, self.champion_digest, self.policy_digest, self.split_digest

    @property
    def rival(self) -> str:
        """What the candidate was compared with."""
        if self.champion_digest is None:
            return "no champion"
        return f"champion {self.champion_version or 'of no version'} ({short(self.champion_digest)})"

    @property
    def sentence(self) -> str:
        """For a person, without the number of the entry."""
        return f"{self.decision} for {short(self.candidate_digest)} against {self.rival}, by look {self.look}"


class Promoted(Record):
    """A version became the champion."""

    bundle_digest: Digest
    kind: Literal["promotion"] = "promotion"
    verdict: Number
    """The entry with the PROMOTE that allows it; each allows one promotion."""
    version: VersionName

    @property
    def sentence(self) -> str:
        """For a person, without the number of the entry."""
        return f"version {self.version} ({short(self.bundle_digest)}) became champion, by the verdict {self.verdict}"


class RolledBack(Record):
    """A version that had been champion became it again."""

    bundle_digest: Digest
    instead_of: VersionName
    kind: Literal["rollback"] = "rollback"
    version: VersionName

    @property
    def sentence(self) -> str:
        """For a person, without the number of the entry."""
        return f"back from version {self.instead_of} to version {self.version} ({short(self.bundle_digest)})"


class Released(Record):
    """A release was deployed to its environment and verified there."""

    kind: Literal["release"] = "release"
    release: Release
    rolled_back: bool
    """Whether it had been served there before, and was gone back to."""

    @property
    def sentence(self) -> str:
        """For a person, without the number of the entry."""
        release, how = self.release, "serves again" if self.rolled_back else "serves"
        image = f" from {release.image}" if release.image else ""
        return f"{release.environment} {how} version {release.version} ({short(release.bundle_digest)}){image}"


class Withdrawn(Record):
    """A release was deployed, failed, and was taken back."""

    bundle_digest: Digest
    environment: Environment
    instead: VersionName | None
    """Version that is served again; None if nothing was served before."""
    kind: Literal["withdrawal"] = "withdrawal"
    reason: Annotated[str, Field(max_length=1000, pattern=LINE)]
    version: VersionName

    @property
    def sentence(self) -> str:
        """For a person, without the number of the entry."""
        again = f"version {self.instead} is served again" if self.instead else "nothing is served"
        what = f"version {self.version} ({short(self.bundle_digest)})"
        return f"{what} was taken back from {self.environment}, {again}: {self.reason}"


Body = Asked | Judged | Promoted | RolledBack | Released | Withdrawn


class Entry(Record):
    """One fact."""

    actor: str = Field(max_length=MAX_ACTOR, pattern=LINE)
    """Who or what wrote it, if that was given."""
    at: Annotated[AwareDatetime, AfterValidator(lambda at: at.astimezone(UTC))]
    body: Annotated[Body, Field(discriminator="kind")]
    champion: Champion | None
    """The champion after this entry, so that the last entry alone says who it is."""
    format: Literal[1] = 1
    number: Number
    """From 1, without gaps."""
    previous: Digest | Literal[""]
    """SHA-256 of the bytes of the entry before; of the first one "" ."""
    use_case: str

    @property
    def kind(self) -> str:
        """`look`, `verdict`, `promotion`, `rollback`, `release` or `withdrawal`."""
        return self.body.kind

    @property
    def sentence(self) -> str:
        """What happened, for a person."""
        return self.body.sentence


class _Sealed(Record):
    entry: Entry
    sha256: Digest
    """Of the canonical JSON of `entry`: the last entry is held by no later one, and this shows damage to it."""


def encode(entry: Entry) -> bytes:
    """The bytes of an entry: canonical JSON, `{"entry": …, "sha256": …}`."""
    content = entry.model_dump_json().encode()
    return b'{"entry":%b,"sha256":"%b"}' % (content, digests.of_bytes(content).encode())


def decode(data: bytes) -> Entry:
    """The entry that `encode` gave these bytes for, and no others.

    Raises:
        ValueError: they are something else; the message says what, without the number of the entry.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"has more than {MAX_BYTES:,} bytes, which no entry has")
    try:
        entry = _Sealed.model_validate_json(data).entry
    except ValidationError as error:
        if _of_another_format(error):
            raise ValueError("has a format that this version of Assay does not know; use a newer one") from None
        raise ValueError(f"is no entry: {fault(error)}") from None
    if encode(entry) != data:
        raise ValueError("was altered after it was written: its content is not what its SHA-256 is of")
    return entry


def fingerprint(entry: Entry) -> str:
    """SHA-256 of an entry's bytes, to be remembered elsewhere: it stands for all entries up to this one."""
    return digests.of_bytes(encode(entry))


def listing(entries: Iterable[Entry]) -> list[str]:
    """A line for each entry: number, time (UTC), kind, what happened, and by whom."""
    return [
        f"{entry.number:>6}  {entry.at:%Y-%m-%d %H:%M:%S}  {entry.kind:<10}  {entry.sentence}"
        + f"  [{entry.actor}]" * bool(entry.actor)
        for entry in entries
    ]


def file_name(number: int) -> str:
    """Name of the file or object of an entry."""
    return f"{number:08d}.json"


def number_of(name: str) -> int | None:
    """Number of the entry whose file has this name; None if no entry's has."""
    return int(match[1]) if (match := _FILE.fullmatch(name)) else None


def short(digest: str) -> str:
    """Enough of a digest to tell it from others."""
    return digest[:12]


def fault(error: ValidationError) -> str:
    """What pydantic found first, in one line without the input."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where + ': ' if where else ''}{' '.join(first['msg'].split())[:200]}"


def _of_another_format(error: ValidationError) -> bool:
    return any(item["loc"] == ("entry", "format") and item["type"] == "literal_error" for item in error.errors())
