"""The objects of a release in a cluster: where each is, who owns its fields, and how it differs from what is wanted."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from serving.cluster.api import Api, ApiError, Document

MANAGER = "assay"
"""Our field manager: who owns what a release sets."""
HANDOVER = "assay-handover"
"""Who owns the number of replicas once an autoscaler sets it."""
INSTANCE = "app.kubernetes.io/instance"
RELEASE = "assay/release"
SINCE = "assay/since"
OBJECTS = "assay/objects"
"""Annotation of the Deployment: every object that was made with it, so that those of an earlier release can go."""

LONGEST_VALUE = 80

# What the cluster fills in, and what changes with each release and is shown once, at the Deployment.
_IGNORED = {
    ("status",),
    *(
        ("metadata", name)
        for name in ("managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink")
    ),
    *(("metadata", "annotations", name) for name in (SINCE, OBJECTS, "deployment.kubernetes.io/revision")),
}
_KEYS = ("name", "containerPort", "port", "mountPath", "topologyKey", "ip")


@dataclass(frozen=True, order=True)
class Reference:
    """What names an object within a namespace."""

    api: str
    """As `apps/v1`."""
    kind: str
    name: str

    @classmethod
    def of(cls, document: Document) -> "Reference":
        return cls(document["apiVersion"], document["kind"], document["metadata"]["name"])

    @classmethod
    def parse(cls, text: str) -> "Reference":
        """What `spelled` gave."""
        api, kind, name = re.fullmatch(r"(.+)/([^/]+)/([^/]+)", text).groups()  # type: ignore[union-attr]
        return cls(api, kind, name)

    @property
    def spelled(self) -> str:
        return f"{self.api}/{self.kind}/{self.name}"

    def path(self, namespace: str) -> str:
        """At the API server."""
        return f"{collection(self.api, self.kind, namespace)}/{self.name}"

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def collection(api: str, kind: str, namespace: str) -> str:
    """The path of all objects of a kind; the plural is regular for every kind that a release may hold."""
    lower = kind.lower()
    plural = lower if lower == "endpoints" else f"{lower[:-1]}ies" if lower.endswith("y") else f"{lower}s"
    if lower.endswith("ss"):
        plural = f"{lower}es"
    return f"/{'apis' if '/' in api else 'api'}/{api}/namespaces/{namespace}/{plural}"


def inventory(deployment: Document | None) -> list[Reference]:
    """The objects that were made with a Deployment, as its annotation says."""
    annotations = (deployment or {}).get("metadata", {}).get("annotations") or {}
    try:
        return sorted({Reference.parse(text) for text in json.loads(annotations.get(OBJECTS, "[]"))})
    except (ValueError, TypeError, AttributeError):  # somebody else wrote there
        return []


def spelled(references: Sequence[Reference]) -> str:
    """The annotation."""
    return json.dumps(sorted({reference.spelled for reference in references}))


def ours(document: Document, instance: str) -> bool:
    """Whether an object carries our label and has fields that our manager owns: no other is ever deleted."""
    metadata = document["metadata"]
    managers = {field.get("manager") for field in metadata.get("managedFields") or ()}
    return (metadata.get("labels") or {}).get(INSTANCE) == instance and MANAGER in managers


def conflicts(api: Api, namespace: str, document: Document) -> list[str]:
    """Fields that others own and that a document would change, a line each; it is checked in all else, too.

    Raises:
        ApiError: the cluster does not take the document.
    """
    reference = Reference.of(document)
    try:
        api.apply(reference.path(namespace), document, MANAGER, dry_run=True)
    except ApiError as error:
        if error.status == 409 and error.causes:
            return [f"{reference}: {_owned(cause)}" for cause in error.causes]
        raise
    return []


def _owned(cause: Document) -> str:
    manager = re.search(r'conflict with "([^"]+)"', str(cause.get("message", "")))
    return f"{str(cause.get('field', '')).lstrip('.')} belongs to {manager[1] if manager else cause.get('message')}"


def strangers(deployment: Document) -> list[str]:
    """Who else has set something in the `spec` of an object of ours, with what, a line each.

    An autoscaler may set the number of replicas, and anybody restart the pods, which is an annotation of theirs.
    """
    found = []
    for entry in deployment["metadata"].get("managedFields") or ():
        if entry.get("manager") in {MANAGER, HANDOVER}:
            continue
        fields = [path for path in _owns(entry.get("fieldsV1") or {}) if path[0] == "spec" and not _harmless(path)]
        if fields:
            found.append(f"{entry.get('manager')} has changed {'.'.join(fields[0])} by hand")
    return found


def owns(document: Document, *path: str) -> bool:
    """Whether our manager has set a field of an object."""
    entries = [one for one in document["metadata"].get("managedFields") or () if one.get("manager") == MANAGER]
    return any(path in list(_owns(one.get("fieldsV1") or {})) for one in entries)


def _owns(fields: Document, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of a `fieldsV1`: `f:NAME` is a field, `k:{…}` an element by its key."""
    inner = {name: value for name, value in fields.items() if name != "."}
    if not inner and path:
        yield path
    for name, value in inner.items():
        part = name[2:] if name.startswith("f:") else "[" + name[2:] + "]"
        yield from _owns(value, (*path, part))


def _harmless(path: tuple[str, ...]) -> bool:
    return path[:2] == ("spec", "replicas") or path[:4] == ("spec", "template", "metadata", "annotations")


def differences(before: Document, after: Document) -> list[str]:
    """The fields in which an object would change, a line each: `spec.replicas  1 → 2`."""
    return [f"{_path(path)}  {_shown(old)} → {_shown(new)}" for path, old, new in _changes(before, after, ())]


def changed(before: Document, after: Document) -> list[str]:
    """The names of these fields: `spec.replicas`."""
    return [_path(path) for path, _, _ in _changes(before, after, ())]


Path = tuple[str, ...]


def _changes(old: Any, new: Any, path: Path) -> Iterator[tuple[Path, Any, Any]]:
    if old == new or path in _IGNORED:
        return
    keyed = (_keyed(old), _keyed(new)) if isinstance(old, list) and isinstance(new, list) else (old, new)
    if not (isinstance(keyed[0], dict) and isinstance(keyed[1], dict)):
        # An object that is there on one side only is shown by its fields, if it has any.
        if isinstance(old, dict | None) and isinstance(new, dict | None) and (old or new):
            keyed = (old or {}, new or {})
        else:
            yield path, old, new
            return
    for name in [*keyed[0], *(name for name in keyed[1] if name not in keyed[0])]:
        yield from _changes(keyed[0].get(name), keyed[1].get(name), (*path, name))


def _keyed(elements: list[Any]) -> Any:
    """Elements by what tells them apart, so that one that was put in does not change all that follow."""
    for key in _KEYS:
        names = [element.get(key) if isinstance(element, dict) else None for element in elements]
        if elements and None not in names and len(set(names)) == len(names):
            return {f"[{name}]": element for name, element in zip(names, elements, strict=True)}
    return {f"[{index}]": element for index, element in enumerate(elements)}


def _path(path: Path) -> str:
    return ".".join(path).replace(".[", "[")


def _shown(value: Any) -> str:
    if value is None:
        return "(none)"
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…"
