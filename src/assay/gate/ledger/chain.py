"""What follows from the entries of a ledger, and which entries cannot follow at all.

The same rules hold for reading and for writing: what would not be believed is not written.
"""

from datetime import datetime

from assay import digests
from assay.gate.ledger.entries import (
    Asked,
    Body,
    Champion,
    Entry,
    Judged,
    Promoted,
    Released,
    RolledBack,
    Withdrawn,
    decode,
    encode,
    short,
)
from assay.gate.ledger.releases import CROWNED, Environment, Release
from assay.gate.looks import Tally
from assay.gate.verdict import Decision


class Chain:
    """The entries of a use case, added one by one, with what later ones refer to."""

    def __init__(self, use_case: str) -> None:
        self.use_case = use_case
        self.entries: list[Entry] = []
        self.champion: Champion | None = None
        self.looks: dict[tuple[str, str | None, str, str], Entry] = {}
        """By question, the entry that counts it."""
        self.verdicts: dict[int, Judged] = {}
        """By number of entry."""
        self.recorded: dict[str, Entry] = {}
        """By digest of verdict."""
        self.used: dict[int, int] = {}
        """By number of a verdict, that of the promotion which it allowed."""
        self.crowned: dict[str, str] = {}
        """By version, the bundle digest of each that was ever champion."""
        self.before: dict[str, str | None] = {}
        """By version, the champion when it was promoted."""
        self.serving: dict[Environment, Entry] = {}
        """By environment, the entry with the release that is served there."""
        self.served: dict[Environment, dict[str, Entry]] = {}
        """By environment and digest, the last entry with each release that was ever served there."""
        self.replaced: dict[str, Release | None] = {}
        """By digest of release, what was served in its environment when it came there first."""
        self.tally = Tally()
        self.number = 0
        self.fingerprints: dict[int, str] = {}
        """By number, the SHA-256 of each entry's bytes."""
        self._lost = self._just_lost = False

    def add(self, number: int, data: bytes) -> list[str]:
        """Take the bytes of the entry `number` in; gives all that is wrong with them, in words.

        After an entry that is lost (missing or unreadable), what refers to earlier entries is no longer checked.
        """
        faults = self._missing(number)
        try:
            entry = decode(data)
        except ValueError as error:
            faults.append(f"entry {number} {error}")
            self._lost = self._just_lost = True
        else:
            faults += [f"entry {number} {fault}" for fault in self._faults(entry, number)]
            self._take(entry)
        self.number, self.fingerprints[number] = number, digests.of_bytes(data)
        return faults

    def next(self, body: Body, at: datetime, actor: str) -> Entry:
        """The entry that says `body` next.

        Raises:
            ValueError: it would not be believed, or cannot be written as it is.
        """
        number = self.number + 1
        entry = Entry(
            number=number,
            previous=self.fingerprints[self.number] if self.number else "",
            use_case=self.use_case,
            at=at,
            actor=actor,
            body=body,
            champion=self._champion_after(number, body),
        )
        if faults := self._faults(entry, number):
            raise ValueError(faults[0])
        return decode(encode(entry))

    def stands_against_champion(self, verdict: Judged) -> bool:
        """Whether a verdict compares with the present champion, or is a first one where there is none."""
        if self.champion is None:
            return verdict.champion_digest is None and verdict.bootstrap
        return verdict.champion_digest == self.champion.bundle_digest

    def allowing(self, bundle_digest: str) -> int | None:
        """The last entry with a verdict that allows to promote a bundle now."""
        numbers = [
            number
            for number, verdict in self._verdicts_on(bundle_digest).items()
            if verdict.decision is Decision.PROMOTE
            and number not in self.used
            and self.stands_against_champion(verdict)
        ]
        return max(numbers, default=None)

    def promote_on(self, bundle_digest: str) -> int | None:
        """The last entry with a PROMOTE on a bundle, whatever it compares with."""
        verdicts = self._verdicts_on(bundle_digest)
        return max((number for number, v in verdicts.items() if v.decision is Decision.PROMOTE), default=None)

    def why_not(self, bundle_digest: str) -> str:
        """Why no verdict allows to promote a bundle now."""
        bundle, present = short(bundle_digest), self.champion
        if present and present.bundle_digest == bundle_digest:
            return f"its bundle {bundle} is the champion already, as version {present.version}"
        verdicts = self._verdicts_on(bundle_digest)
        if not verdicts:
            return f"there is no verdict on its bundle {bundle}; judge it first"
        promotes = [number for number, verdict in verdicts.items() if verdict.decision is Decision.PROMOTE]
        number = max(promotes or verdicts)
        verdict, name = verdicts[number], f"the {verdicts[number].decision} for its bundle {bundle} (entry {number})"
        if not promotes:
            return f"{name} is no PROMOTE"
        if number in self.used:
            return f"{name} was used by entry {self.used[number]}; a rollback to that version needs no verdict"
        if present is None and verdict.champion_digest is None:
            return f"{name} was not asked for as the first one; use --bootstrap"
        since = f"the champion is {present}, since entry {present.number}" if present else "there is no champion"
        return f"{name} is against {verdict.rival}, and {since}; judge it anew"

    def release(self, environment: Environment) -> Release | None:
        """What is served in an environment."""
        entry = self.serving.get(environment)
        return entry.body.release if entry and isinstance(entry.body, Released) else None

    def releases(self, environment: Environment) -> list[Release]:
        """What was ever served in an environment, each once, by its last time, oldest first."""
        entries = sorted(self.served.get(environment, {}).values(), key=lambda entry: entry.number)
        return [entry.body.release for entry in entries if isinstance(entry.body, Released)]

    def _verdicts_on(self, bundle_digest: str) -> dict[int, Judged]:
        return {number: v for number, v in self.verdicts.items() if v.candidate_digest == bundle_digest}

    def _missing(self, number: int) -> list[str]:
        first, last = self.number + 1, number - 1
        if first > last:
            return []
        self._lost = self._just_lost = True
        return [f"entries {first} to {last} are missing" if first < last else f"entry {first} is missing"]

    def _faults(self, entry: Entry, number: int) -> list[str]:
        faults = []
        if entry.number != number:
            faults.append(f"says that it is entry {entry.number}")
        if entry.use_case != self.use_case:
            faults.append(f"belongs to the use case {entry.use_case!r}")
        if self.fingerprints.get(number - 1, entry.previous if number > 1 else "") != entry.previous:
            faults.append("does not hold on to the entry before it: one of the two was replaced")
        expected = self._champion_after(number, entry.body)
        if entry.champion != expected and not self._just_lost:
            faults.append(f"names as champion {entry.champion or 'none'}, where it is {expected or 'none'}")
        if not self._lost and (objection := self._objection(entry.body)):
            faults.append(objection)
        return faults

    def _champion_after(self, number: int, body: Body) -> Champion | None:
        if isinstance(body, Promoted | RolledBack):
            return Champion(version=body.version, bundle_digest=body.bundle_digest, number=number)
        return self.champion

    def _objection(self, body: Body) -> str | None:
        """Why this cannot be said after the entries so far."""
        match body:
            case Asked():
                return self._against_look(body)
            case Judged():
                return self._against_verdict(body)
            case Promoted():
                return self._against_promotion(body)
            case RolledBack():
                return self._against_rollback(body)
            case Released():
                return self._against_release(body)
            case Withdrawn():
                return None

    def _against_look(self, body: Asked) -> str | None:
        if known := self.looks.get(body.question.key):
            return f"asks what entry {known.number} asks"
        expected = self.tally.count(body.question.sketch) + 1
        return None if body.look == expected else f"is counted as look {body.look} and is look {expected}"

    def _against_verdict(self, body: Judged) -> str | None:
        if known := self.recorded.get(body.verdict_digest):
            return f"holds the verdict that entry {known.number} holds"
        asked = self.looks.get(body.key)
        if body.decision is Decision.PROMOTE and not (asked and _look(asked) == body.look):
            return f"is a PROMOTE by look {body.look}, and no entry before it counts that look for what was judged"
        return None

    def _against_promotion(self, body: Promoted) -> str | None:
        verdict = self.verdicts.get(body.verdict)
        if verdict is None or verdict.decision is not Decision.PROMOTE:
            return f"is a promotion by entry {body.verdict}, which holds no PROMOTE"
        if verdict.candidate_digest != body.bundle_digest:
            return f"promotes {short(body.bundle_digest)} by entry {body.verdict}, which judges another bundle"
        if body.verdict in self.used:
            return f"is a promotion by entry {body.verdict}, which allowed that of entry {self.used[body.verdict]}"
        if not self.stands_against_champion(verdict):
            return f"is a promotion by entry {body.verdict}, which compares with {verdict.rival}"
        return self._against_version(body.version, body.bundle_digest)

    def _against_version(self, version: str, bundle_digest: str) -> str | None:
        if self.crowned.get(version, bundle_digest) != bundle_digest:
            return f"gives version {version} the bundle {short(bundle_digest)}; it was {short(self.crowned[version])}"
        return None

    def _against_rollback(self, body: RolledBack) -> str | None:
        if self.champion is None or self.champion.version != body.instead_of:
            return f"is a rollback from version {body.instead_of}, which is not the champion"
        if body.version not in self.crowned:
            return f"is a rollback to version {body.version}, which was never champion"
        if body.version == body.instead_of:
            return f"is a rollback to version {body.version}, which is the champion"
        return self._against_version(body.version, body.bundle_digest)

    def _against_release(self, body: Released) -> str | None:
        release, bundle = body.release, short(body.release.bundle_digest)
        if release.model != self.use_case:
            return f"is a release of {release.model!r}"
        if body.rolled_back and release.digest not in self.served.get(release.environment, {}):
            return f"goes back to a release of version {release.version} that {release.environment} never served"
        if release.environment == CROWNED:
            stands = self.champion and (self.champion.version, self.champion.bundle_digest)
            if stands != (release.version, release.bundle_digest):
                return f"puts version {release.version} ({bundle}) into {CROWNED}, and the champion is {self.champion}"
        elif self.promote_on(release.bundle_digest) is None:
            return f"releases {bundle}, on which there is no PROMOTE"
        return None

    def _take(self, entry: Entry) -> None:
        body = entry.body
        if isinstance(body, Asked):
            self.looks[body.question.key] = entry
            self.tally.add(body.question.sketch)
        elif isinstance(body, Judged):
            self.verdicts[entry.number] = body
            self.recorded[body.verdict_digest] = entry
        elif isinstance(body, Promoted):
            self.used[body.verdict] = entry.number
            self.crowned[body.version] = body.bundle_digest
            self.before[body.version] = self.champion.version if self.champion else None
        elif isinstance(body, Released):
            self._take_release(body.release, entry)
        self.champion, self._just_lost = entry.champion, False
        self.entries.append(entry)

    def _take_release(self, release: Release, entry: Entry) -> None:
        before = self.release(release.environment)
        self.replaced.setdefault(release.digest, before)
        self.serving[release.environment] = entry
        self.served.setdefault(release.environment, {})[release.digest] = entry


def _look(entry: Entry) -> int:
    return entry.body.look if isinstance(entry.body, Asked) else 0
