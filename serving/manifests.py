"""The manifests of a release: an environment's overlay in `serving/k8s`, a model's version, and an image by its digest.

One text, the same for the same release: it can be kept, compared with what a cluster has, and applied again years later
without this checkout. `kubectl kustomize` puts it together, offline.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from assay.errors import AssayError
from assay.home import subfolder

K8S = Path(__file__).parent / "k8s"
OVERLAYS = K8S / "overlays"
"""One folder an environment; `$ASSAY_OVERLAYS` is another such folder."""
RULES = Path(__file__).parent / "monitoring" / "rules.yaml"

NAME = "assay"
"""Of every object (and then the model), of the container, and of the image in the base."""
KUSTOMIZE_S = 120.0
LONGEST_MODEL = 57
"""`assay-MODEL` names a Service, which may be as long as a part of a host name: 63 characters."""

_PART = r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*"
_IMAGE = re.compile(rf"(?:[A-Za-z0-9.-]+(?::[0-9]+)?/)?{_PART}(?:/{_PART})*@sha256:[0-9a-f]{{64}}")
_VERSION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_MODEL = re.compile(r"[a-z]([a-z0-9_]*[a-z0-9])?")
_ENVIRONMENT = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")

# Git by no protocol, the rest by a proxy that is none: what an overlay has not got, it gets from nowhere. And no
# cluster: what is rendered depends on files alone.
_OFFLINE = {
    "GIT_ALLOW_PROTOCOL": "none",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "NO_PROXY": "",
    "KUBECONFIG": os.devnull,
}

Document = dict[str, Any]


class ManifestError(AssayError):
    """A release that no manifests can be made of."""


def render(environment: str, model: str, version: str, bundle_digest: str, image: str) -> str:
    """The manifests of a release as YAML, canonical: documents by kind and name, keys sorted; the same for the same.

    Args:
        environment: an overlay's name, as `staging`.
        model: its name in the registry; it is in the name of every object, with `-` for `_`.
        version: of the model; a label of the pods, and what the service answers.
        bundle_digest: 64 hexadecimal digits; the service starts with no other bundle.
        image: `name@sha256:<64 hexadecimal digits>`.

    Raises:
        ManifestError: kubectl is missing, there is no such overlay or kustomize does not take it, it holds an image
            without a digest, or an argument is of another form.
    """
    overlay = _overlay(environment)
    for what, value, form in (("model", model, _MODEL), ("version", version, _VERSION)):
        if not form.fullmatch(value):
            raise ManifestError(f"{what} {value!r}: cannot be a label in Kubernetes; give it another name")
    if len(model) > LONGEST_MODEL:
        raise ManifestError(f"model {model!r}: longer than the {LONGEST_MODEL} characters that a Service's name leaves")
    if not re.fullmatch(r"[0-9a-f]{64}", bundle_digest):
        raise ManifestError(f"bundle digest {bundle_digest!r}: must be 64 hexadecimal digits")
    if not _IMAGE.fullmatch(image):
        raise ManifestError(f"image {image!r}: must be name@sha256:<64 hexadecimal digits>; a tag can be moved")
    instance = model.replace("_", "-")
    documents = _kustomized(overlay, _release(instance, version, bundle_digest, image))
    for document in documents:
        _fill(document, instance)
    _check(documents, image)
    return _canonical(documents)


def parsed(manifests: str) -> list[Document]:
    """The documents of `render`'s text, in its order."""
    return list(yaml.safe_load_all(manifests))


def namespace_of(manifests: str) -> str:
    """The namespace that every document is in.

    Raises:
        ManifestError: they are in none or in several.
    """
    return _namespace(parsed(manifests))


def deployment_of(manifests: str) -> Document:
    """The Deployment. Without `replicas` in its `spec` an autoscaler says how many."""
    return _only(parsed(manifests), "Deployment")


def service_of(manifests: str) -> Document:
    """The Service."""
    return _only(parsed(manifests), "Service")


def overlays() -> Path:
    """The folder with an overlay for each environment."""
    return Path(os.environ.get("ASSAY_OVERLAYS") or OVERLAYS)


def environments() -> list[str]:
    """Names of the overlays, sorted."""
    return sorted(path.parent.name for path in overlays().glob("*/kustomization.yaml"))


def _overlay(environment: str) -> Path:
    if not _ENVIRONMENT.fullmatch(environment) or environment not in environments():
        known = ", ".join(environments()) or "none"
        raise ManifestError(f"environment {environment!r}: has no overlay in {overlays()}; there are: {known}")
    return overlays() / environment


def _release(instance: str, version: str, bundle_digest: str, image: str) -> Document:
    """What a release adds to an overlay, as a kustomization."""
    name, digest = image.split("@")
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "nameSuffix": f"-{instance}",
        "labels": [
            {"pairs": {"app.kubernetes.io/instance": instance}, "includeSelectors": True},
            {"pairs": {"app.kubernetes.io/name": NAME, "app.kubernetes.io/part-of": NAME}},
        ],
        "images": [{"name": NAME, "newName": name, "digest": digest}],
        "patches": [
            {"target": {"kind": "Deployment", "name": NAME}, "patch": json.dumps(_pods(version, bundle_digest))},
            {"target": {"kind": "ConfigMap", "name": NAME}, "patch": json.dumps(_UNCHANGING)},
        ],
    }


# Not in the base: kustomize forgets it when an overlay merges settings of its own.
_UNCHANGING = [{"op": "add", "path": "/immutable", "value": True}]


def _pods(version: str, bundle_digest: str) -> Document:
    environment = {"ASSAY_SERVE_VERSION": version, "ASSAY_SERVE_DIGEST": bundle_digest}
    container = {"name": NAME, "env": [{"name": name, "value": value} for name, value in environment.items()]}
    template = {
        "metadata": {"labels": {"assay/version": version, "assay/bundle": bundle_digest[:12]}},
        "spec": {"containers": [container]},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": NAME},
        "spec": {"template": template},
    }


def _kustomized(overlay: Path, release: Document) -> list[Document]:
    with tempfile.TemporaryDirectory(prefix="manifests-", dir=subfolder("tmp")) as made:
        folder = Path(made).resolve()
        # kustomize takes folders from anywhere, but by no absolute path.
        resources = [os.path.relpath(overlay.resolve(), folder)]
        # JSON, which every YAML parser reads in the same way.
        (folder / "kustomization.yaml").write_text(json.dumps({**release, "resources": resources}), encoding="utf-8")
        return list(yaml.safe_load_all(_kustomize(folder, overlay)))


def _kustomize(folder: Path, overlay: Path) -> str:
    kubectl = _kubectl()
    try:
        done = subprocess.run(
            [kubectl, "kustomize", str(folder)], env={**os.environ, **_OFFLINE},
            capture_output=True, timeout=KUSTOMIZE_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ManifestError(f"{kubectl}: {error}") from None
    if done.returncode != 0:
        raise ManifestError(f"{overlay}: kustomize refuses it: {_complaint(done.stderr.decode(errors='replace'))}")
    return done.stdout.decode()


def _kubectl() -> str:
    found = shutil.which("kubectl")
    if found is None:
        raise ManifestError("kubectl is not on PATH: install it, any version since 1.27 (it brings kustomize)")
    return found


def _complaint(stderr: str) -> str:
    """What kustomize says, in one line; some kubectls log it rather than saying it."""
    text = " ".join(stderr.split()) or "without a word"
    logged = re.search(r'err=(?:"(.*)"|< (.*) >)$', text)
    said = (logged[1] or logged[2]).replace('\\"', '"') if logged else text.removeprefix("error: ")
    remote = "proxyconnect" in said or "git fetch" in said
    return f"{said} (nothing is fetched: copy what is remote beside the overlay)" if remote else said


def _fill(document: Document, instance: str) -> None:
    """What kustomize cannot put in: the alert rules, which are no manifest, and the model in a host's name."""
    spec = document.get("spec", {})
    if document["kind"] == "PrometheusRule" and not spec["groups"]:
        spec["groups"] = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    if document["kind"] == "Ingress":
        for rule in spec["rules"]:
            rule["host"] = _host(rule["host"], instance)
        for tls in spec.get("tls", []):
            tls["hosts"] = [_host(host, instance) for host in tls["hosts"]]


def _host(host: str, instance: str) -> str:
    return re.sub(r"^model\.", f"{instance}.", host)


def _check(documents: list[Document], image: str) -> None:
    """Overlays are written by hand; what must hold of a release is looked for in what they gave."""
    _namespace(documents)
    _only(documents, "Service")
    containers = _only(documents, "Deployment")["spec"]["template"]["spec"]["containers"]
    if [container["image"] for container in containers if container["name"] == NAME] != [image]:
        raise ManifestError(f"the container {NAME!r} of the Deployment has not the image {image}; mend the overlay")
    for found in _images(documents):
        if not _IMAGE.fullmatch(found):
            raise ManifestError(f"image {found!r} in the overlay: must be name@sha256:<64 hexadecimal digits>")


def _images(value: Any) -> Iterator[str]:
    """Every image that anything in these documents names."""
    if isinstance(value, dict):
        if isinstance(value.get("image"), str):
            yield value["image"]
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _images(part)


def _only(documents: list[Document], kind: str) -> Document:
    found = [document for document in documents if document["kind"] == kind]
    if len(found) != 1:
        raise ManifestError(f"the manifests hold {len(found)} objects of the kind {kind}: there must be one")
    return found[0]


def _namespace(documents: list[Document]) -> str:
    found = {document["metadata"].get("namespace") for document in documents}
    if len(found) != 1 or None in found:
        raise ManifestError("the manifests are in no namespace, or in several: set `namespace` in the overlay")
    return str(found.pop())


class _Dumper(yaml.SafeDumper):
    """Texts that a parser might take for something else are quoted: PyYAML's idea of YAML is not Go's."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    plain = re.match(r"[A-Za-z/]\S", text)
    style = "|" if "\n" in text else None if plain else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _text)


def _canonical(documents: list[Document]) -> str:
    order = sorted(documents, key=lambda document: (document["kind"], document["metadata"]["name"]))
    return yaml.dump_all(order, Dumper=_Dumper, width=10_000, allow_unicode=True, explicit_start=True)
