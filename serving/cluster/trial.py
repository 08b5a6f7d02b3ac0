"""One pod of a release beside those that serve: neither the Service nor the Deployment knows it."""

import copy
import secrets
from dataclasses import dataclass
from typing import Any

from assay.release.targets import ReleaseError
from serving import manifests
from serving.cluster.api import Document
from serving.cluster.objects import INSTANCE, RELEASE

TRIAL = "assay/trial"
"""Label of all trial pods; its value is the instance."""
LONGEST_S = 900
"""A pod whose promoter was killed is ended after this long, and deleted by a later trial."""
OBSERVATION = "assay-observation"
"""Secret of the component `observation`: the account that writes to its bucket."""
OBSERVE_TO = "ASSAY_SERVE_OBSERVE_TO"

_NAMED = {"configMapRef", "configMapKeyRef", "configMap"}


@dataclass(frozen=True)
class Trial:
    """A pod as the Deployment would make it, that runs once, and what it takes to start it."""

    pod: Document
    standing: tuple[Document, ...]
    """ServiceAccounts and NetworkPolicies, as the release has them."""
    settings: tuple[Document, ...]
    """ConfigMaps that only this pod uses: nothing that a release deployed meanwhile needs ends with it."""

    @classmethod
    def of(cls, documents: list[Document], instance: str, label: str) -> "Trial":
        """What to start.

        Args:
            documents: of the release.
            instance: what its objects are named after.
            label: of the release.

        Raises:
            ReleaseError: the Service or the Deployment would take the pod for one of theirs.
        """
        deployment, service = (_only(documents, kind) for kind in ("Deployment", "Service"))
        name = f"assay-trial-{instance[:40].rstrip('-')}-{secrets.token_hex(4)}"
        pod = _pod(deployment["spec"]["template"], name, instance, label)
        for selector in (deployment["spec"]["selector"].get("matchLabels"), service["spec"].get("selector")):
            if selects(selector or {}, pod):
                raise ReleaseError("a trial pod would get requests: Service and Deployment must select by name")
        found = [document for document in documents if document["kind"] == "ConfigMap"]
        names = {document["metadata"]["name"]: f"{name}-{index}" for index, document in enumerate(found)}
        return cls(
            pod=_renamed(pod, names),
            standing=tuple(one for one in documents if one["kind"] in {"ServiceAccount", "NetworkPolicy"}),
            settings=tuple(_copied(document, names, pod["metadata"]["labels"]) for document in found),
        )

    @property
    def name(self) -> str:
        """Of the pod."""
        return str(self.pod["metadata"]["name"])

    def settings_of(self, pod: Document) -> list[Document]:
        """The ConfigMaps, which end with the pod."""
        owner = {"apiVersion": "v1", "kind": "Pod", "name": self.name, "uid": pod["metadata"]["uid"]}
        return [{**one, "metadata": {**one["metadata"], "ownerReferences": [owner]}} for one in self.settings]


def selects(selector: Document, pod: Document) -> bool:
    """Whether a selector takes a pod."""
    labels = pod["metadata"]["labels"]
    return bool(selector) and all(labels.get(name) == value for name, value in selector.items())


def _pod(template: Document, name: str, instance: str, label: str) -> Document:
    spec = copy.deepcopy(template["spec"])
    # It shall be beside the others, and a constraint would count those, whose labels it must not have.
    spec.pop("topologySpreadConstraints", None)
    spec.update(restartPolicy="Never", activeDeadlineSeconds=LONGEST_S)
    for container in spec["containers"]:
        _unobserved(container)
    labels = {
        "app.kubernetes.io/name": f"{manifests.NAME}-trial", INSTANCE: instance,
        "app.kubernetes.io/part-of": manifests.NAME, TRIAL: instance, RELEASE: label,
    }  # fmt: skip
    annotations = template.get("metadata", {}).get("annotations") or {}
    metadata = {"name": name, "labels": labels, "annotations": annotations}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _unobserved(container: Document) -> None:
    """What a trial is asked is nothing that clients asked."""
    sources = container.get("envFrom") or ()
    container["envFrom"] = [one for one in sources if (one.get("secretRef") or {}).get("name") != OBSERVATION]
    kept = [one for one in container.get("env") or () if one["name"] != OBSERVE_TO]
    container["env"] = [*kept, {"name": OBSERVE_TO, "value": ""}]


def _renamed(value: Any, names: dict[str, str], key: str = "") -> Any:
    """With the ConfigMaps that it refers to by other names."""
    if isinstance(value, list):
        return [_renamed(one, names) for one in value]
    if not isinstance(value, dict):
        return value
    found = {name: _renamed(inner, names, name) for name, inner in value.items()}
    if key in _NAMED and "name" in found:
        found["name"] = names.get(found["name"], found["name"])
    return found


def _copied(document: Document, names: dict[str, str], labels: dict[str, str]) -> Document:
    metadata = {"name": names[document["metadata"]["name"]], "labels": labels}
    return {**document, "metadata": metadata}


def _only(documents: list[Document], kind: str) -> Document:
    return next(document for document in documents if document["kind"] == kind)
