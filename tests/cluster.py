"""A real Kubernetes cluster for tests: namespaces of a test's own, images good and bad, load, and ways to break it.

Any cluster serves: `KUBECONFIG` names it (as an administrator), and `ASSAY_TEST_CLUSTER_LOAD` is a command that loads
an archive of images into it and prints each one's tag and name with digest, as `tests/load_images` does for containerd.
Nothing is started here; without them the tests are skipped.

`tests/integration/conftest.py` has the fixtures from here.
"""

import contextlib
import http.client
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

import serving
from assay.gate.ledger import Environment
from assay.models.bundle import Bundle
from assay.release.golden import Golden

from toybundle import toy_bundle

ROOT = Path(serving.__file__).parents[1]
BASE = "docker.io/library/python:3.11-slim"
MODEL = "colours"
ACCOUNT = "assay-promoter"
NODE_PORT = {"op": "add", "path": "/spec/type", "value": "NodePort"}
REPOSITORY = "localhost/assay-test-cluster"

# Where podman cannot run a container as it is set up: without systemd, and with few rights to raise limits.
PLAIN = """
[containers]
default_ulimits = ["nofile=16384:16384", "nproc=16384:16384"]
pids_limit = 0
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""

LENT = [f"--volume={path}:{path}:ro" for path in ("/etc/ssl/certs", "/etc/pip.conf") if Path(path).exists()]
"""To a build: what it takes to reach a package index from this machine."""

# What each bad image does, at the start of every Python in it.
FAULTS = {
    "sleepy": "import time; time.sleep(3600)",
    "greedy": "import os\nif os.getpid() == 1: hoard = b'x' * 2**30",
    "mortal": """
import os, threading, time, urllib.request
def end():
    while True:
        try:
            urllib.request.urlopen('http://127.0.0.1:3000/v1/ready', timeout=2)
            break
        except OSError:
            time.sleep(0.2)
    time.sleep(9)
    os._exit(3)
if os.getpid() == 1:
    threading.Thread(target=end, daemon=True).start()
""",
    "wrong": """
import sys, threading, time
def turn():
    while 'serving.app' not in sys.modules:
        time.sleep(0.1)
    time.sleep(2)
    from assay.models.predictor import Predictor
    right = Predictor.probabilities
    Predictor.probabilities = lambda self, pixels: right(self, pixels)[:, ::-1]
threading.Thread(target=turn, daemon=True).start()
""",
}


def podman(*arguments: str, timeout: float = 900) -> str:
    """What podman says; it must succeed."""
    done = subprocess.run(["podman", *arguments], capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@dataclass(frozen=True)
class Kube:
    """A cluster, as its administrator."""

    config: str

    def __call__(self, *arguments: str, given: str | None = None, check: bool = True) -> str:
        """What kubectl prints."""
        done = subprocess.run(
            ["kubectl", f"--kubeconfig={self.config}", *arguments],
            input=given, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout

    def get(self, *arguments: str) -> Any:
        return json.loads(self("get", *arguments, "--output=json"))


@pytest.fixture(scope="session")
def kube() -> Kube:
    """The cluster; the test is skipped where there is none."""
    config = os.environ.get("KUBECONFIG", "")
    if not config or not os.environ.get("ASSAY_TEST_CLUSTER_LOAD"):
        pytest.skip("no cluster: set KUBECONFIG and ASSAY_TEST_CLUSTER_LOAD")
    if not shutil.which("kubectl") or not shutil.which("podman"):
        pytest.skip("kubectl or podman is not installed")
    found = Kube(config)
    found("get", "--raw=/readyz")
    return found


def reached_from(kube: Kube) -> str:
    """The address by which the cluster's first node reaches this machine."""
    addresses = kube.get("nodes")["items"][0]["status"]["addresses"]
    node = next(one["address"] for one in addresses if one["type"] == "InternalIP")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect((node, 9))
        return str(asking.getsockname()[0])


@dataclass(frozen=True)
class Candidate:
    """What can be promoted: a bundle, and an image that has it or says so."""

    version: str
    bundle: Bundle
    image: str

    @property
    def golden(self) -> Golden:
        return Golden.of(self.bundle)


Images = dict[str, Candidate]


@pytest.fixture(scope="session")
def images(kube: Kube, tmp_path_factory: pytest.TempPathFactory) -> Images:
    """By name, all in the cluster but the last.

    `good` and `better` are; `mismatched` holds another bundle than it should; `sleepy` never answers; `greedy` needs
    more memory than it may have; `mortal` ends nine seconds after it was ready; `wrong` gives wrong answers once it is
    ready; `missing` is nowhere.
    """
    folder = tmp_path_factory.mktemp("images")
    tag = f"{REPOSITORY}-{uuid.uuid4().hex[:8]}"
    bundles = {
        name: toy_bundle(folder / name / "bundle", card=name.encode(), name=MODEL)
        for name in ("good", "better", "mismatched", *FAULTS, "missing")
    }
    with pytest.MonkeyPatch.context() as patch:
        prepare_podman(folder, patch)
        try:
            _build(folder, bundles, tag)
            loaded = _loaded(folder, [f"{tag}:{name}" for name in bundles if name != "missing"])
        finally:
            podman("rmi", "--force", "--ignore", *(f"{tag}:{name}" for name in (*bundles, "service")))
    loaded[f"{tag}:missing"] = f"{tag}-missing@sha256:{'0' * 64}"
    return {
        name: Candidate(str(number), bundle, loaded[f"{tag}:{name}"])
        for number, (name, bundle) in enumerate(bundles.items(), start=1)
    }


def prepare_podman(folder: Path, patch: pytest.MonkeyPatch) -> None:
    if subprocess.run(["podman", "image", "exists", BASE], check=False).returncode:
        pytest.skip(f"podman has no {BASE}: pull it, or import one that debootstrap has made")
    run = ["podman", "run", "--rm", "--pull=never", BASE, "true"]
    if subprocess.run(run, capture_output=True, check=False).returncode:
        (folder / "containers.conf").write_text(PLAIN)
        patch.setenv("CONTAINERS_CONF", str(folder / "containers.conf"))


def _build(folder: Path, bundles: dict[str, Bundle], tag: str) -> None:
    """The service once, and on top of it a thin layer for each bundle, with its fault."""
    context = folder / "context"
    for part in ("serving", "src/assay"):
        shutil.copytree(ROOT / part, context / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".dockerignore", context)
    build = ["build", "--format=docker", "--pull=never"]
    podman(*build, *LENT, "--file=serving/Dockerfile", "--target=service", f"--tag={tag}:service", str(context))
    for name in bundles:
        layer = folder / name
        (layer / "sitecustomize.py").write_text(FAULTS.get(name, ""))
        if name == "mismatched":
            shutil.copytree(folder / "good" / "bundle", layer / "bundle", dirs_exist_ok=True)
        (layer / "Dockerfile").write_text(
            f"FROM {tag}:service\nCOPY --chmod=755 . /app/\nENV ASSAY_SERVE_BUNDLE=/app/bundle\n"
        )
        if name != "missing":
            podman(*build, f"--tag={tag}:{name}", str(layer))


def _loaded(folder: Path, tags: list[str]) -> dict[str, str]:
    """Tag to name with digest."""
    archive = folder / "images.tar"
    podman("save", "--quiet", "--multi-image-archive", f"--output={archive}", *tags)
    command = shlex.split(os.environ["ASSAY_TEST_CLUSTER_LOAD"])
    done = subprocess.run([*command, str(archive)], capture_output=True, text=True, timeout=300, check=False, cwd=ROOT)
    archive.unlink()
    assert done.returncode == 0, done.stderr
    found = dict(line.split() for line in done.stdout.splitlines())
    assert set(tags) <= set(found), done.stdout
    return found


@dataclass(frozen=True)
class Place:
    """A namespace with the promoter's account in it, and overlays that lead there."""

    kube: Kube
    namespace: str
    environment: Environment
    folder: Path
    config: Path
    """A kubeconfig of the promoter's account, for `KUBECONFIG`."""
    overlays: Path
    """For `ASSAY_OVERLAYS`."""

    def __call__(self, *arguments: str, given: str | None = None, check: bool = True) -> str:
        """kubectl in the namespace, as administrator."""
        return self.kube(f"--namespace={self.namespace}", *arguments, given=given, check=check)

    def get(self, *arguments: str) -> Any:
        return self.kube.get(f"--namespace={self.namespace}", *arguments)

    def overlay(
        self, replicas: int = 1, settings: tuple[str, ...] = (), others: tuple[Any, ...] = (), **deployment: Any
    ) -> None:
        """Write the overlay anew.

        Args:
            replicas: pods.
            settings: `NAME=value` in the ConfigMap.
            others: more objects.
            deployment: a strategic merge patch of the Deployment's `spec`.
        """
        quick = {"replicas": replicas, "minReadySeconds": 1, **deployment}
        patch = {"kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": "assay"}, "spec": quick}
        target = self.overlays / self.environment
        target.mkdir(parents=True, exist_ok=True)
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "namespace": self.namespace,
            "resources": [os.path.relpath(ROOT / "serving" / "k8s" / "base", target.resolve()), "others.yaml"],
            "patches": [
                {"patch": json.dumps(patch)},
                {"target": {"kind": "Service"}, "patch": json.dumps([NODE_PORT])},
            ],
            "configMapGenerator": [{"name": "assay", "behavior": "merge", "literals": list(settings)}],
        }  # fmt: skip
        (target / "others.yaml").write_text(yaml.safe_dump_all(others))
        (target / "kustomization.yaml").write_text(json.dumps(kustomization))

    def through(self, server: str) -> Path:
        """The promoter's kubeconfig, for an API server at another address."""
        config = yaml.safe_load(self.config.read_text())
        cluster = config["clusters"][0]["cluster"]
        host = re.sub(r"^https://|:\d+$", "", cluster["server"])
        cluster.update({"server": server, "tls-server-name": host})
        path = self.folder / f"kubeconfig-{uuid.uuid4().hex[:8]}"
        path.write_text(yaml.safe_dump(config))
        return path

    @property
    def address(self) -> tuple[str, int]:
        """Where the Service is reached from here: its NodePort, at the first node."""
        port = self.get("service", f"assay-{MODEL}")["spec"]["ports"][0]["nodePort"]
        addresses = self.kube.get("nodes")["items"][0]["status"]["addresses"]
        return next(one["address"] for one in addresses if one["type"] == "InternalIP"), port


@contextlib.contextmanager
def new_place(kube: Kube, folders: pytest.TempPathFactory, environment: Environment = "staging") -> Iterator[Place]:
    """A `Place` for the time of the block. Its pods are gone after it: a small cluster has no room for all at once."""
    folder, namespace = folders.mktemp("place"), f"assay-test-{uuid.uuid4().hex[:8]}"
    try:
        _grant(kube, namespace, folder)
        found = Place(kube, namespace, environment, folder, _as_promoter(kube, namespace, folder), folder / "overlays")
        found.overlay()
        yield found
    finally:
        kube("delete", "namespace", namespace, "--ignore-not-found", "--wait=false")
        pods = f"--namespace={namespace}", "delete", "pods", "--all"
        kube(*pods, "--now", "--timeout=20s", check=False)
        # A node may take a minute to let go of a pod whose containers have ended, and its requests count until then.
        kube(*pods, "--grace-period=0", "--force", "--wait=false")


PlaceMaker = Callable[..., Place]


@pytest.fixture
def make_place(kube: Kube, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlaceMaker]:
    """A function that makes a `Place` of the test's own for an environment."""
    with contextlib.ExitStack() as places:
        yield lambda *environment: places.enter_context(new_place(kube, tmp_path_factory, *environment))


def use(place: Place, patch: pytest.MonkeyPatch) -> Place:
    """Let `Cluster.open` and `render` lead to a place, as the promoter."""
    patch.setenv("KUBECONFIG", str(place.config))
    patch.setenv("ASSAY_OVERLAYS", str(place.overlays))
    patch.setenv("ASSAY_ROLLOUT_TIMEOUT_S", "90")
    return place


@pytest.fixture
def place(make_place: PlaceMaker, monkeypatch: pytest.MonkeyPatch) -> Place:
    """An empty place of the test's own, in use."""
    return use(make_place(), monkeypatch)


def _grant(kube: Kube, namespace: str, folder: Path) -> None:
    """What an administrator applies once, in a namespace of another name."""
    target = folder / "access"
    target.mkdir()
    base = os.path.relpath(ROOT / "serving" / "k8s" / "access" / "base", target.resolve())
    (target / "kustomization.yaml").write_text(json.dumps({"namespace": namespace, "resources": [base]}))
    kube("apply", "--filename=-", given=kube("kustomize", str(target)))


def _as_promoter(kube: Kube, namespace: str, folder: Path) -> Path:
    config = json.loads(kube("config", "view", "--raw", "--flatten", "--minify", "--output=json"))
    token = kube("create", "token", ACCOUNT, f"--namespace={namespace}", "--duration=1h").strip()
    config["users"] = [{"name": config["users"][0]["name"], "user": {"token": token}}]
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path


@dataclass
class Load:
    """Clients that ask without a pause, each request over a connection of its own."""

    address: tuple[str, int]
    body: bytes
    sent: int = 0
    failures: list[str] = field(default_factory=list)
    digests: set[str] = field(default_factory=set)
    """Of the bundles that answered."""
    _over: threading.Event = field(default_factory=threading.Event)

    @classmethod
    @contextlib.contextmanager
    def on(cls, address: tuple[str, int], body: bytes, clients: int = 4) -> "Iterator[Load]":
        """Load for as long as the block runs."""
        load = cls(address, body)
        threads = [threading.Thread(target=load._ask, daemon=True) for _ in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield load
        finally:
            load._over.set()
            for thread in threads:
                thread.join()

    def _ask(self) -> None:
        while not self._over.is_set():
            connection = http.client.HTTPConnection(*self.address, timeout=30)
            try:
                connection.request("POST", "/v1/predict", self.body, {"Content-Type": "application/octet-stream"})
                answer = connection.getresponse()
                text = answer.read()
                if answer.status == 200:
                    self.digests.add(json.loads(text)["model"]["digest"])
                else:
                    self.failures.append(f"{answer.status} {text[:100]!r}")
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
            finally:
                self.sent += 1
                connection.close()
