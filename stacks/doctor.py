"""`assay stack doctor`: whether the services and permissions that the active stack needs are there, with remedies."""

import base64
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Set
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay.config import use_case_document
from assay.doctor import Finding
from stacks.errors import StackError, first_line
from stacks.server import connected

if TYPE_CHECKING:
    from zenml.client import Client
    from zenml.stack import Stack

WAIT_S = 10
Look = Callable[["Client", "Stack"], Finding]


def examine(config: Path | None = None) -> list[Finding]:
    """Look at everything; one look that fails is itself a finding.

    Args:
        config: a use case's YAML; where Kubernetes itself runs the steps, the claims that it names are looked for.

    Raises:
        AssayError: the config cannot be read.
    """
    claims = claims_of(use_case_document(config)) if config else frozenset()
    try:
        with connected() as client:
            stack = client.active_stack
            return [*_server(client), *(_looked(look, client, stack) for look in _looks(stack, claims))]
    except StackError as error:
        return [Finding("zenml", "fault", str(error))]


def claims_of(document: Mapping[str, Any]) -> frozenset[str]:
    """The persistent volume claims that a use case's YAML names, for all steps or for one."""
    places = [document, *(document.get("steps") or {}).values()]
    settings = [((place or {}).get("settings") or {}).get("orchestrator") or {} for place in places]
    volumes = [volume for one in settings for volume in one.get("volumes") or () if isinstance(volume, Mapping)]
    return frozenset(str(volume["claim"]) for volume in volumes if "claim" in volume)


def _looks(stack: "Stack", claims: Set[str]) -> Iterator[Look]:
    yield from (_stack, _image, _store, _mlflow)
    flavor = stack.orchestrator.flavor
    if "kubeflow" in flavor:
        yield _kubeflow
    if "kubernetes" in flavor:
        yield from (_kubernetes, _permissions, partial(_namespace, claims))


def _looked(look: Look, client: "Client", stack: "Stack") -> Finding:
    try:
        return look(client, stack)
    except Exception as error:  # a doctor that falls over helps nobody
        name = getattr(look, "func", look).__name__.lstrip("_")
        return Finding(name, "fault", f"{type(error).__name__}: {first_line(error)}")


def _server(client: "Client") -> Iterator[Finding]:
    info = client.zen_store.get_store_info()
    here, there = version("zenml"), str(info.version)
    place = f"{client.zen_store.url}, {there}"
    if here == there:
        yield Finding("zenml", "good", place)
    else:
        yield Finding("zenml", "fault", f"{place}; here it is {here}", "let both be of one version")


def _stack(client: "Client", stack: "Stack") -> Finding:
    flavor = stack.orchestrator.flavor
    if stack.orchestrator.config.is_local:
        return Finding("stack", "warning", f"{stack.name} runs on this machine", "zenml stack set kubeflow")
    try:
        stack.validate()
    except Exception as error:
        return Finding("stack", "fault", f"{stack.name}: {first_line(error)}", f"assay stack apply {stack.name}")
    return Finding("stack", "good", f"{stack.name} on {flavor}")


def _image(client: "Client", stack: "Stack") -> Finding:
    from stacks.snapshots import image

    if stack.orchestrator.config.is_local:
        return Finding("image", "good", "none is needed")
    try:
        return Finding("image", "good", image(getattr(stack.orchestrator.config, "any_tag", False)))
    except StackError as error:
        return Finding("image", "fault", str(error), "take it from the workflow that built it")


def _store(client: "Client", stack: "Stack") -> Finding:
    """Write, read and remove an object: to be allowed to list a bucket is not enough."""
    store = stack.artifact_store
    probe = f"{store.path}/doctor-{os.getpid()}"
    try:
        with store.open(probe, "w") as file:
            file.write("probe")
        with store.open(probe) as file:
            whole = file.read() == "probe"
        store.remove(probe)
    except Exception as error:
        return Finding("artifacts", "fault", f"{store.path}: {type(error).__name__}: {first_line(error)}",
                       "make the bucket, and let the stack's key read, write and delete in it")  # fmt: skip
    remedy = "" if whole else "look at what stands between here and the store"
    return Finding("artifacts", "good" if whole else "fault", store.path, remedy)


def _mlflow(client: "Client", stack: "Stack") -> Finding:
    uri = stack.environment.get("MLFLOW_TRACKING_URI", "")
    if not uri:
        return Finding("mlflow", "good", "of this machine")
    account = [os.environ.get(f"MLFLOW_TRACKING_{part}", "") for part in ("USERNAME", "PASSWORD")]
    state, said = _get(f"{uri.rstrip('/')}/version", *account)
    if state != 200:
        remedies = dict.fromkeys((401, 403), "mend MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")
        return Finding(
            "mlflow", "fault", f"{uri}: {said}", remedies.get(state, "start the server, or mend MLFLOW_TRACKING_URI")
        )
    here = version("mlflow")
    if said.split(".")[0] != here.split(".")[0]:
        return Finding("mlflow", "fault", f"{uri} is {said}; here it is {here}", "let both be of one major version")
    return Finding("mlflow", "good", f"{uri}, {said}")


def _kubeflow(client: "Client", stack: "Stack") -> Finding:
    config: Any = stack.orchestrator.config
    if not config.kubeflow_hostname:
        return _context("kubeflow", config.kubernetes_context)
    state, said = _get(f"{config.kubeflow_hostname.rstrip('/')}/apis/v2beta1/healthz")
    remedies = {401: "the token has expired: mend client_args", 403: "ask for the permission", 404: "add /pipeline"}
    if state != 200:
        remedy = remedies.get(state, "mend KUBEFLOW_HOST, or let this machine reach it")
        return Finding("kubeflow", "fault", f"{config.kubeflow_hostname}: {said}", remedy)
    return Finding("kubeflow", "good", config.kubeflow_hostname)


def _kubernetes(client: "Client", stack: "Stack") -> Finding:
    config: Any = stack.orchestrator.config
    return _context("kubernetes", config.kubernetes_context)


def _context(what: str, name: str) -> Finding:
    from kubernetes import client, config

    try:
        connection = config.new_client_from_config(context=name)
        found = client.VersionApi(connection).get_code(_request_timeout=WAIT_S)
    except Exception as error:
        return Finding(what, "fault", f"context {name}: {first_line(error)}", "mend KUBECONFIG: kubectl config use-…")
    return Finding(what, "good", f"context {name}, {found.git_version}")


PERMISSIONS = (("create", "batch", "jobs"), ("create", "", "secrets"), ("get", "", "pods"), ("get", "", "pods/log"))


def _permissions(client: "Client", stack: "Stack") -> Finding:
    """Ask the cluster whether what a run does first is allowed to us."""
    from kubernetes import client as kube
    from kubernetes import config as kubeconfig

    config: Any = stack.orchestrator.config
    reviews = kube.AuthorizationV1Api(kubeconfig.new_client_from_config(context=config.kubernetes_context))
    refused = [
        f"{verb} {resource}"
        for verb, group, resource in PERMISSIONS
        if not _allowed(reviews, config.kubernetes_namespace, verb, group, resource)
    ]
    where = f"namespace {config.kubernetes_namespace}"
    if refused:
        return Finding("permission", "fault", f"{where}: not allowed: {', '.join(refused)}",
                       "kubectl apply -k stacks/cluster gives the role assay-submitter")  # fmt: skip
    return Finding("permission", "good", where)


def _namespace(claims: Set[str], client: "Client", stack: "Stack") -> Finding:
    """Whether what a run names is in its namespace."""
    from kubernetes import client as kube
    from kubernetes import config as kubeconfig
    from kubernetes.client.exceptions import ApiException

    from stacks.namespaces import missing

    config: Any = stack.orchestrator.config
    core = kube.CoreV1Api(kubeconfig.new_client_from_config(context=config.kubernetes_context))
    accounts = {config.service_account_name, config.step_pod_service_account_name} - {None}
    where = f"{config.kubernetes_namespace}: {', '.join(sorted({*accounts, *claims}))}"
    try:
        lacking = missing(core, config.kubernetes_namespace, accounts, claims)
    except ApiException as error:
        return Finding("namespace", "warning", f"{where}: not seen: {error.status} {error.reason}",
                       "ask for the role assay-submitter of stacks/cluster/pipelines")  # fmt: skip
    if lacking:
        return Finding("namespace", "fault", f"{config.kubernetes_namespace}: there is no {', no '.join(lacking)}",
                       "kubectl apply -k stacks/cluster/pipelines, or another name")  # fmt: skip
    return Finding("namespace", "good", where)


def _allowed(reviews: Any, namespace: str, verb: str, group: str, resource: str) -> bool:
    from kubernetes import client as kube

    kind, _, sub = resource.partition("/")
    asked = kube.V1ResourceAttributes(
        namespace=namespace, verb=verb, group=group, resource=kind, subresource=sub or None
    )
    review = kube.V1SelfSubjectAccessReview(spec=kube.V1SelfSubjectAccessReviewSpec(resource_attributes=asked))
    return bool(reviews.create_self_subject_access_review(review, _request_timeout=WAIT_S).status.allowed)


def _get(url: str, user: str = "", password: str = "") -> tuple[int, str]:
    """Status and the beginning of the body, or 0 and what went wrong."""
    if not url.startswith(("http://", "https://")):
        return 0, "not an address of a server: it begins with neither http:// nor https://"
    request = urllib.request.Request(url)  # noqa: S310 - checked above
    if user:
        told = base64.b64encode(f"{user}:{password}".encode()).decode()
        request.add_header("Authorization", f"Basic {told}")
    try:
        with urllib.request.urlopen(request, timeout=WAIT_S) as answer:  # noqa: S310 - checked above
            return answer.status, answer.read(200).decode(errors="replace").strip()
    except urllib.error.HTTPError as error:
        return error.code, f"{error.code} {error.reason}"
    except OSError as error:
        return 0, first_line(error)
