"""Releases on a Kubernetes cluster: applied with a field manager of our own, watched until they serve, and found again.

Nothing here depends on what is kept on this machine: a release brings its manifests, and its golden images are kept in
the cluster, so that another machine can put it back.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import yaml

from assay.console import say
from assay.errors import BundleError
from assay.gate.ledger import Environment, Release
from assay.models.bundle import Bundle
from assay.release.endpoint import Endpoint, Http, Unreachable
from assay.release.golden import Golden
from assay.release.targets import ReleaseError, State
from serving import manifests
from serving.cluster import lease, objects
from serving.cluster.api import Api, ApiError, Document
from serving.cluster.objects import HANDOVER, INSTANCE, MANAGER, OBJECTS, RELEASE, SINCE, Reference
from serving.cluster.pods import CONTAINER, is_ready, restarts, trouble
from serving.cluster.proxied import Proxied
from serving.cluster.trial import LONGEST_S, TRIAL, Trial
from serving.cluster.watching import POLL_S, Logs, Watch, pods_of

TIMEOUT = "ASSAY_ROLLOUT_TIMEOUT_S"
TIMEOUT_S = 300.0
URL = "ASSAY_URL_"
"""And the environment in capitals: how clients reach the service, if not by the API server."""
GOLDEN = "assay/golden"
"""Label of the ConfigMaps with golden images: the instance. Annotation of the Deployment: the name of its own."""
GOLDEN_KEY = "golden.json"
KEPT = 10
"""Golden images, of so many bundles at least."""
NAMED = 3
"""Fields of an object that differs."""


@dataclass
class Cluster:
    """An environment of a model on a cluster; see `assay.release.targets.Target`."""

    api: Api
    model: str
    environment: Environment
    namespace: str
    _lock: lease.Lease | None = field(default=None, init=False)

    @classmethod
    def open(cls, model: str, environment: Environment) -> "Cluster":
        """The cluster of `$KUBECONFIG`, context `$ASSAY_KUBE_CONTEXT`; or the one whose pod this is.

        Raises:
            ReleaseError: there is none, or it does not answer.
        """
        return cls(Api.open(), model, environment, _namespace(environment))

    def draft(self, version: str, bundle: Bundle, golden: Golden, image: str) -> Release:
        return Release(
            bundle_digest=bundle.digest,
            environment=self.environment,
            golden_digest=golden.digest,
            image=image,
            manifests=manifests.render(self.environment, self.model, version, bundle.digest, image),
            model=self.model,
            target="kubernetes",
            version=version,
        )

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        with lease.held(self.api, self.namespace, self.name) as lock:
            self._lock = lock
            try:
                yield
            finally:
                self._lock = None

    @contextmanager
    def trial(self, release: Release) -> Iterator[Endpoint]:
        trial = Trial.of(self._stamped(release, ""), self.instance, release.label)
        self._end_trials()
        path = f"{self._pods}/{trial.name}"
        try:
            self._start_trial(trial)
            self._await_trial(path)
            yield Proxied.pod(self.api, self.namespace, trial.name)
        except Unreachable:
            self._check_time(path)
            raise
        finally:
            self._tidy(path)

    def deploy(self, release: Release, golden: Golden) -> None:
        before = self._deployment()
        documents = self._stamped(release, _since(before, release))
        self._check(documents)
        self._keep(release, golden)
        if not _is_fixed(documents):
            self._hand_over(before)
        wanted = [Reference.of(document) for document in documents]
        gone = [reference for reference in objects.inventory(before) if reference not in wanted]
        self._apply(documents, [*wanted, *gone])
        self._watch(release).until_there(_timeout_s())
        if gone:
            self._delete(gone)
            self._apply(documents[-1:], wanted)
        self._forget_golden({self._golden_name(release), _annotation(before, GOLDEN)})

    def golden(self, release: Release) -> Golden:
        found = self.api.find(f"{self._configmaps}/{self._golden_name(release)}")
        if found is None:
            raise ReleaseError(
                f"{release}: its golden images are gone: {self.namespace} has no {self._golden_name(release)}"
            )
        try:
            return Golden.decode(str((found.get("data") or {}).get(GOLDEN_KEY, "")).encode(), release.golden_digest)
        except BundleError as error:
            raise ReleaseError(f"{self._golden_name(release)} in {self.namespace}: {error}") from None

    def endpoints(self, release: Release) -> Sequence[Endpoint]:
        url = os.environ.get(URL + self.environment.upper())
        clients: Endpoint = Http(url) if url else Proxied.service(self.api, self.namespace, self.name)
        # One that an autoscaler has just started gets no requests yet.
        names = sorted(pod["metadata"]["name"] for pod in self._pods_of(release.label) if is_ready(pod))
        return [clients, *(Proxied.pod(self.api, self.namespace, name) for name in names)]

    def state(self) -> State | None:
        deployment = self._deployment()
        if deployment is None:
            return None
        template = deployment["spec"]["template"]
        label = str((template["metadata"].get("labels") or {}).get(RELEASE, ""))
        pods = pods_of(self.api, self.namespace, deployment["spec"]["selector"]["matchLabels"])
        return State(
            label=label,
            version=_variable(template, "ASSAY_SERVE_VERSION"),
            bundle_digest=_variable(template, "ASSAY_SERVE_DIGEST"),
            wanted=int(deployment["spec"].get("replicas", 1)),
            ready=sum(is_ready(pod) for pod in pods if pod["metadata"]["labels"].get(RELEASE) == label),
            restarts=sum(map(restarts, pods)),
            problems=tuple(self._problems(deployment, pods, label)),
            since=_annotation(deployment, SINCE),
        )

    def difference(self, release: Release) -> list[str]:
        before = self._deployment()
        documents = self._stamped(release, _since(before, release))
        lines = [line for document in documents for line in self._differs(document)]
        wanted = {Reference.of(document) for document in documents}
        return [*lines, *(f"{one}  is deleted" for one in objects.inventory(before) if one not in wanted)]

    def drift(self, release: Release) -> list[str]:
        """Where the cluster is not as a release that was deployed has it: a line for each object; nothing is changed.

        It is compared by what the cluster itself would make of the manifests, so that an account that may not deploy is
        told nothing. Any other object that the cluster does not let compare is the last that is looked at, and is told.

        Raises:
            ReleaseError: the cluster does not answer at all, or the release belongs somewhere else.
        """
        found: list[str] = []
        for document in self._stamped(release, _since(self._deployment(), release)):
            try:
                found += self._drifted(document)
            except ApiError as error:
                if error.status == 403:
                    return found
                return [*found, f"{Reference.of(document)} cannot be compared with the release: {error}"]
        return found

    def remove(self) -> None:
        before = self._deployment()
        if before is None:
            return
        if not objects.ours(before, self.instance):
            raise ReleaseError(f"{self._reference} in {self.namespace} is somebody else's: it is left as it is")
        # The Deployment last: it knows of the others, should this be interrupted.
        self._delete([one for one in objects.inventory(before) if one != self._reference])
        self._delete([self._reference])
        end = time.monotonic() + _timeout_s()
        while pods_of(self.api, self.namespace, before["spec"]["selector"]["matchLabels"]):
            if time.monotonic() > end:
                raise ReleaseError(f"{self.name} in {self.namespace}: its pods do not end; look at them with kubectl")
            time.sleep(POLL_S)

    @property
    def instance(self) -> str:
        """The model as Kubernetes can spell it."""
        return self.model.replace("_", "-")

    @property
    def name(self) -> str:
        """Of the Deployment, the Service and the lock."""
        return f"{manifests.NAME}-{self.instance}"

    @property
    def _reference(self) -> Reference:
        return Reference("apps/v1", "Deployment", self.name)

    @property
    def _pods(self) -> str:
        return objects.collection("v1", "Pod", self.namespace)

    @property
    def _configmaps(self) -> str:
        return objects.collection("v1", "ConfigMap", self.namespace)

    def _guard(self) -> None:
        """Before each attempt to change anything."""
        if self._lock:
            self._lock.check()

    def _heed(self) -> None:
        """While waiting."""
        if self._lock:
            self._lock.heed()

    def _deployment(self) -> Document | None:
        return self.api.find(self._reference.path(self.namespace))

    def _pods_of(self, label: str) -> list[Document]:
        return pods_of(
            self.api,
            self.namespace,
            {INSTANCE: self.instance, "app.kubernetes.io/name": manifests.NAME, RELEASE: label},
        )

    def _stamped(self, release: Release, since: str) -> list[Document]:
        """What is applied, the Deployment last; it says of which release it is.

        Raises:
            ReleaseError: the release belongs somewhere else.
        """
        documents = manifests.parsed(release.manifests)
        self._check_place(release, documents)
        for document in documents:
            _label(document["metadata"], release.label)
        documents.sort(key=lambda document: document["kind"] == "Deployment")
        deployment = documents[-1]
        _label(deployment["spec"]["template"]["metadata"], release.label)
        if not _is_fixed(documents):
            deployment["spec"].pop("replicas", None)
        said = {
            RELEASE: release.label,
            "assay/bundle": release.bundle_digest,
            "assay/version": release.version,
            GOLDEN: self._golden_name(release),
            SINCE: since,
        }
        deployment["metadata"]["annotations"] = {**deployment["metadata"].get("annotations", {}), **said}
        return documents

    def _check_place(self, release: Release, documents: list[Document]) -> None:
        if (release.model, release.environment) != (self.model, self.environment):
            raise ReleaseError(
                f"{release} is for {release.environment}, not a release of {self.model} for {self.environment}"
            )
        places = {document["metadata"].get("namespace") for document in documents}
        if places != {self.namespace}:
            raise ReleaseError(
                f"{release} was made for {places}; {self.environment} is {self.namespace} now: promote it again"
            )
        if any(document["kind"] == "Rollout" for document in documents):
            raise ReleaseError(f"{release} is for Argo Rollouts, which deploys it: leave the component `canary` out")
        if [d["metadata"]["name"] for d in documents if d["kind"] in {"Deployment", "Service"}] != [self.name] * 2:
            raise ReleaseError(f"{release}: its manifests must hold one Deployment and one Service, both {self.name}")

    def _check(self, documents: list[Document]) -> None:
        """Let the cluster check everything before anything is changed."""
        found = [line for document in documents for line in objects.conflicts(self.api, self.namespace, document)]
        if found:
            raise ReleaseError(
                f"nothing was changed in {self.namespace}: {'; '.join(found)}; "
                "let them give these fields up, or delete the object, and try again"
            )

    def _apply(self, documents: list[Document], inventory: list[Reference]) -> None:
        for document in documents:
            if document["kind"] == "Deployment":
                document["metadata"]["annotations"][OBJECTS] = objects.spelled(inventory)
            self.api.apply(Reference.of(document).path(self.namespace), document, MANAGER, guard=self._guard)

    def _hand_over(self, before: Document | None) -> None:
        """Let the number of replicas stay as it is when we stop setting it: it would fall to one for a moment."""
        if before and objects.owns(before, "spec", "replicas"):
            identity = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": self.name}}
            kept = {**identity, "spec": {"replicas": before["spec"]["replicas"]}}
            self.api.apply(self._reference.path(self.namespace), kept, HANDOVER, guard=self._guard)

    def _delete(self, references: list[Reference]) -> None:
        """Objects of ours; what has the name and is somebody else's stays."""
        for reference in references:
            found = self.api.find(reference.path(self.namespace))
            if found and objects.ours(found, self.instance):
                precondition = {"preconditions": {"uid": found["metadata"]["uid"]}, "propagationPolicy": "Background"}
                self.api.delete(reference.path(self.namespace), precondition, guard=self._guard)

    def _watch(self, release: Release) -> Watch:
        selector = manifests.deployment_of(release.manifests)["spec"]["selector"]["matchLabels"]
        return Watch(self.api, self.namespace, self.name, selector, release.label, self._heed)

    def _golden_name(self, release: Release) -> str:
        return f"{self.name}-golden-{release.golden_digest[:12]}"

    def _keep(self, release: Release, golden: Golden) -> None:
        if golden.digest != release.golden_digest:
            raise ReleaseError(
                f"{release}: these golden images are {golden.digest[:12]}, not {release.golden_digest[:12]}"
            )
        name = self._golden_name(release)
        labels = {GOLDEN: self.instance, INSTANCE: self.instance, "app.kubernetes.io/part-of": manifests.NAME}
        document = {
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels},
            "immutable": True, "data": {GOLDEN_KEY: golden.encode().decode()},
        }  # fmt: skip
        self.api.apply(f"{self._configmaps}/{name}", document, MANAGER, guard=self._guard)

    def _forget_golden(self, needed: set[str]) -> None:
        """But for those of the release that serves, of the one before it, and of the last ones that were new."""
        found = self.api.items(self._configmaps, {"labelSelector": f"{GOLDEN}={self.instance}"})
        found.sort(key=lambda one: str(one["metadata"]["creationTimestamp"]))
        names = [one["metadata"]["name"] for one in found[:-KEPT]]
        self._delete([Reference("v1", "ConfigMap", name) for name in names if name not in needed])

    def _start_trial(self, trial: Trial) -> None:
        """What binds the pod must be there before it, and stays for the release; the settings are the pod's own."""
        for document in trial.standing:
            path = Reference.of(document).path(self.namespace)
            if self.api.find(path) is None:
                self.api.apply(path, document, MANAGER)
        try:
            pod = self.api.create(self._pods, trial.pod)
        except ApiError as error:
            if error.status != 409:  # made by an attempt whose answer was lost: nobody else has this name
                raise
            pod = self.api.get(f"{self._pods}/{trial.name}")
        for document in trial.settings_of(pod):
            self.api.apply(Reference.of(document).path(self.namespace), document, MANAGER)

    def _await_trial(self, path: str) -> None:
        begun, logs, last = time.monotonic(), Logs(self.api, self.namespace), ""
        end = begun + _timeout_s()
        while True:
            self._heed()
            pod = self.api.get(path, patience_s=max(end - time.monotonic(), 1.0))
            if is_ready(pod):
                return
            found = trouble(pod, time.monotonic() - begun, logs.last_words)
            if found and found.final:
                raise ReleaseError(f"a trial pod does not start: {found.text}")
            if time.monotonic() > end:
                why = (found and found.text) or logs.warning(pod) or "it gives no reason"
                raise ReleaseError(f"a trial pod is not ready after {_timeout_s():.0f} s: {why}")
            if found and found.text != last:
                say("trial", found.text)
            last = found.text if found else last
            time.sleep(POLL_S)

    def _check_time(self, path: str) -> None:
        """Whether a trial pod that does not answer was ended by its deadline."""
        pod = self.api.find(path, patience_s=2.0)
        if pod and pod["status"].get("reason") == "DeadlineExceeded":
            raise ReleaseError(
                f"the trial pod was ended after {LONGEST_S} s, with the rehearsal not over: rehearse fewer images, "
                "or give the pods more CPU"
            )

    def _tidy(self, path: str) -> None:
        """After a trial; what the cluster does not let go now ends by its deadline, and with a later trial."""
        try:
            self.api.delete(path, {"gracePeriodSeconds": 1})
        except ReleaseError as error:
            say("trial", f"not tidied up: {error}")

    def _end_trials(self) -> None:
        """Of promoters that were killed; another one may be at its rehearsal."""
        for pod in self.api.items(self._pods, {"labelSelector": f"{TRIAL}={self.instance}"}):
            if pod["status"].get("phase") in {"Failed", "Succeeded"}:
                self.api.delete(f"{self._pods}/{pod['metadata']['name']}", {"gracePeriodSeconds": 1})

    def _problems(self, deployment: Document, pods: list[Document], label: str) -> Iterator[str]:
        logs = Logs(self.api, self.namespace)
        for pod in pods:
            name, found = pod["metadata"]["name"], None
            if pod["metadata"]["labels"].get(RELEASE) != label:
                yield f"pod {name} is of another release"
            elif not is_ready(pod):
                found = trouble(pod, 0.0, logs.last_words)
                yield f"pod {name}: {found.text if found else logs.warning(pod) or 'is starting'}"
        annotated = _annotation(deployment, RELEASE)
        if annotated != label:
            yield f"the Deployment was applied as release {annotated or '(none)'} and its pods are {label or '(none)'}"
        for condition in deployment.get("status", {}).get("conditions") or ():
            if (condition["type"], condition["status"]) == ("ReplicaFailure", "True"):
                yield f"no pod can be made: {condition.get('message', '')}"
        yield from objects.strangers(deployment)

    def _differs(self, document: Document) -> list[str]:
        reference = Reference.of(document)
        before = self.api.find(reference.path(self.namespace))
        lines = [f"conflict: {line}" for line in objects.conflicts(self.api, self.namespace, document)]
        if before is None:
            return [f"{reference}  is made"]
        after = self._applied_to(before, document)
        return [*lines, *(f"{reference}: {line}" for line in objects.differences(before, after))]

    def _drifted(self, document: Document) -> list[str]:
        reference = Reference.of(document)
        # What is seen once only may have been a controller at work, between the question and the answer.
        first = self._changed_fields(document)
        fields = first and [name for name in self._changed_fields(document) or () if name in first]
        if fields is None:
            return [f"{reference} is missing"]
        more = f" and {len(fields) - NAMED} more" if len(fields) > NAMED else ""
        return [f"{reference} differs from the release: {', '.join(fields[:NAMED])}{more}"] if fields else []

    def _changed_fields(self, document: Document) -> list[str] | None:
        """Which fields of an object are not as they were deployed; None without the object."""
        before = self.api.find(Reference.of(document).path(self.namespace))
        if before is None:
            return None
        after = self._applied_to(before, document)
        fields = objects.changed(before, after)
        # Clusters before 1.21 leave what somebody added to a selector.
        if document["kind"] == "Service" and after["spec"]["selector"] != document["spec"]["selector"]:
            fields.append("spec.selector")
        return fields

    def _applied_to(self, before: Document, document: Document) -> Document:
        """What an object would be; nothing is changed."""
        if document["kind"] != "Deployment":
            # Told once, of the Deployment.
            document["metadata"]["labels"][RELEASE] = (before["metadata"].get("labels") or {}).get(RELEASE, "")
        path = Reference.of(document).path(self.namespace)
        return self.api.apply(path, document, MANAGER, dry_run=True, force=True)


def _namespace(environment: str) -> str:
    """Where an environment is, as its overlay says."""
    path = manifests.overlays() / environment / "kustomization.yaml"
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))["namespace"]
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        raise ReleaseError(f"{path}: says no `namespace`, or cannot be read") from None
    return str(found)


def _timeout_s() -> float:
    text = os.environ.get(TIMEOUT) or str(TIMEOUT_S)
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 1 <= found <= 86_400:
        raise ReleaseError(f"${TIMEOUT}: must be seconds, from 1 to 86,400, given: {text!r}")
    return found


def _since(before: Document | None, release: Release) -> str:
    """When the release was applied first, if that was the last that was."""
    known = _annotation(before, SINCE) if _annotation(before, RELEASE) == release.label else ""
    return known or datetime.now(UTC).isoformat(timespec="seconds")


def _annotation(document: Document | None, name: str) -> str:
    """Empty if there is none."""
    return str(((document or {}).get("metadata", {}).get("annotations") or {}).get(name, ""))


def _label(metadata: Document, label: str) -> None:
    metadata["labels"] = {**(metadata.get("labels") or {}), RELEASE: label}


def _is_fixed(documents: list[Document]) -> bool:
    """Whether the release itself says how many pods there are: no autoscaler does."""
    return not any(document["kind"] == "HorizontalPodAutoscaler" for document in documents)


def _variable(template: Document, name: str) -> str:
    """Of the service's environment."""
    for container in template["spec"]["containers"]:
        if container["name"] == CONTAINER:
            return next((str(one.get("value", "")) for one in container.get("env") or () if one["name"] == name), "")
    return ""
