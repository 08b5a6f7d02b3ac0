"""A folder of class folders. What lies deeper inside a class folder belongs to that class."""

import heapq
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assay.data.sources.base import Sample, is_junk, read_file, readable, samples_of_tree, stamp_of
from assay.errors import DataError


@dataclass
class FolderSource:
    """See the package. Links inside the folder are followed; every folder is listed once, so there are no cycles.

    A link that leads out of the folder, into a folder that is listed already, or nowhere, and whatever is no regular
    file, is a sample too, one that `read` refuses: it is quarantined rather than passed over. The uri of a folder
    that is such a link ends in `/`.
    """

    uri: str
    path: Path
    _tree: "_Tree | None" = field(default=None, init=False, repr=False)

    def list(self) -> list[Sample]:
        self._tree = _walk(self.uri, self.path)
        return samples_of_tree(self.uri, self._tree.stamps)

    def read(self, sample: Sample) -> bytes:
        tree = self._tree or _walk(self.uri, self.path)
        self._tree = tree
        if fault := tree.faults.get(sample.uri):
            raise DataError(fault)
        return read_file(tree.places.get(sample.uri) or f"{tree.root}/{sample.uri}")

    def close(self) -> None:
        """Nothing is held open."""


@dataclass
class _Tree:
    """What was found below `root`: stamps of all uris, reasons against some, and the places of files that do not lie
    where their uri says (names that are no UTF-8, folders reached by a link)."""

    root: str
    stamps: dict[str, str] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    linked: list[tuple[str, str]] = field(default_factory=list)
    """Heap of (uri, real path) of links to folders: followed last, in this order, whatever order the disk has."""

    def __getstate__(self) -> dict[str, Any]:
        """What a worker process needs in order to read: not the stamps of a million files."""
        return {**self.__dict__, "stamps": {}, "folders": set(), "linked": []}

    def add(self, uri: str, place: str, stamp: str) -> None:
        if uri in self.stamps:
            raise DataError(f"{self.root}: two files read as {uri!r}; rename the one that is not UTF-8")
        self.stamps[uri] = stamp
        if place != f"{self.root}/{uri}":
            self.places[uri] = place

    def refuse(self, uri: str, reason: str) -> None:
        self.stamps[uri] = self.faults[uri] = reason


def _walk(uri: str, path: Path) -> _Tree:
    tree = _Tree(os.path.realpath(path))
    try:
        _walk_folder(tree, tree.root, "")
        while tree.linked:
            name, place = heapq.heappop(tree.linked)
            if place in tree.folders:
                tree.refuse(f"{name}/", "a symbolic link to a folder that is listed already")
            else:
                _walk_folder(tree, place, f"{name}/")
    except OSError as error:
        where = readable(str(error.filename or path))
        raise DataError(f"{uri}: cannot list {where!r}: {error.strerror or error}") from None
    return tree


def _walk_folder(tree: _Tree, folder: str, prefix: str) -> None:
    """List `folder` and all real folders below it; links to folders are left for later."""
    pending = [(folder, prefix)]
    while pending:
        folder, prefix = pending.pop()
        tree.folders.add(folder)
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_junk(entry.name):
                    continue
                uri = prefix + readable(entry.name)
                if entry.is_symlink():
                    _follow(tree, uri, entry.path)
                elif entry.is_dir():
                    pending.append((entry.path, f"{uri}/"))
                elif entry.is_file():
                    tree.add(uri, entry.path, stamp_of(entry.stat()))
                else:
                    tree.refuse(uri, "no regular file")


def _follow(tree: _Tree, uri: str, link: str) -> None:
    place = os.path.realpath(link)
    is_folder = os.path.isdir(place)  # noqa: PTH112
    if place != tree.root and not place.startswith(f"{tree.root}/"):
        tree.refuse(f"{uri}/" if is_folder else uri, "a symbolic link out of the folder")
    elif is_folder:
        heapq.heappush(tree.linked, (uri, place))
    elif os.path.isfile(place):  # noqa: PTH113
        tree.add(uri, place, stamp_of(os.stat(place)))  # noqa: PTH116
    else:
        tree.refuse(uri, "a broken symbolic link" if not os.path.exists(place) else "no regular file")  # noqa: PTH110
