"""The service as an image: what it is made from and, where podman has a base image, the image, built and run."""

import http.client
import json
import os
import re
import shutil
import subprocess
import time
import tomllib
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from asking import ask
from PIL import Image

import serving

from cluster import LENT, PLAIN
from pictures import encoded
from toybundle import toy_bundle

pytestmark = pytest.mark.long

ROOT = Path(serving.__file__).parents[1]
DOCKERFILE = (ROOT / "serving" / "Dockerfile").read_text(encoding="utf-8")
LOCK = (ROOT / "serving" / "requirements.txt").read_text(encoding="utf-8")
TORCH_AND_COMPANY = {"torch", "torchvision", "timm", "albumentations", "mlflow", "opencv-python-headless", "zenml"}
PATIENCE_S = 60
LONGEST_S = "300"
"""A container ends itself after this long, should nobody be left to end it."""

CONFINED = ["--read-only", "--tmpfs=/tmp", "--cap-drop=all", "--security-opt=no-new-privileges", "--memory=512m"]


def pins(text: str) -> dict[str, set[str]]:
    """Name to versions, of which there may be one for each Python, of a locked file."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([a-z0-9.-]+)(?:\[[^]]*\])?==(\S+)", text, re.MULTILINE):
        found.setdefault(name, set()).add(version)
    return found


def instructions(name: str) -> list[str]:
    """The arguments of all instructions of a kind in the Dockerfile, in order, continued lines joined."""
    joined = re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE))
    return re.findall(rf"^{name}\s+(.*)$", joined, re.MULTILINE)


def test_every_requirement_is_locked_by_hashes() -> None:
    entries = re.sub(r"\\\n\s*", " ", re.sub(r"^\s*#.*\n", "", LOCK, flags=re.MULTILINE)).splitlines()
    assert len(entries) > 40
    entry = re.compile(r"[a-z0-9.-]+==\S+( ; [^#]+?)?(\s+--hash=sha256:[0-9a-f]{64})+\s*")
    assert not [line for line in entries if not entry.fullmatch(line)]


def test_no_address_is_in_what_the_image_is_made_from() -> None:
    given = LOCK + DOCKERFILE.replace("http://127.0.0.1:3000/", "")
    assert not re.findall(r"\S*(?:://|index-url|find-links|trusted-host)\S*", given)


def test_the_image_gets_the_versions_that_the_tests_run_with() -> None:
    everything = pins((ROOT / "requirements.txt").read_text(encoding="utf-8"))
    assert {
        name: versions for name, versions in pins(LOCK).items() if not versions <= everything.get(name, set())
    } == {}


def test_the_image_gets_what_serving_needs_and_no_torch() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["serve"]
    names = {re.match(r"[A-Za-z0-9-]+", requirement)[0] for requirement in wanted}  # type: ignore[index]
    assert names <= set(pins(LOCK))
    assert not TORCH_AND_COMPANY & set(pins(LOCK))


def test_each_stage_builds_on_the_base_or_an_earlier_stage() -> None:
    known = {"${PYTHON_IMAGE}"}
    for source in instructions("FROM"):
        image, _, stage = source.partition(" AS ")
        assert image in known
        known.add(stage)


def test_the_base_has_a_version() -> None:
    assert re.fullmatch(r"docker\.io/library/python:3\.\d+-slim", base())
    assert ":latest" not in DOCKERFILE


def test_the_service_is_started_as_no_root_and_without_a_shell() -> None:
    assert instructions("USER") == ["10001:10001"]
    (command,) = instructions("ENTRYPOINT")
    assert json.loads(command)[:3] == ["bentoml", "serve", "serving.service:AssayService"]
    (check,) = instructions("HEALTHCHECK")
    assert json.loads(check.partition("CMD ")[2])[0] == "python3"


def test_the_hashes_are_heeded() -> None:
    installs = [line for line in instructions("RUN") if "pip install" in line]
    assert installs
    assert all("--require-hashes --no-deps --only-binary :all:" in line for line in installs)


def test_only_what_is_named_goes_into_the_build() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    wanted = {"!src/assay", "!serving", "!pyproject.toml", "!pipelines", "!stacks", "!steps", "!.assay/bundles"}
    assert {line for line in lines if line.startswith("!")} == wanted
    assert not instructions("ADD")


def base() -> str:
    """The base image that is taken if none is given."""
    (image,) = [given.partition("=")[2] for given in instructions("ARG") if given.startswith("PYTHON_IMAGE=")]
    return image


@dataclass(frozen=True)
class Podman:
    """Podman, with settings under which it runs containers on this machine."""

    environment: dict[str, str]

    def __call__(self, *arguments: str, timeout: float = PATIENCE_S) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["podman", *arguments], capture_output=True, text=True, timeout=timeout, check=False, env=self.environment
        )

    def inspect(self, name: str, what: str) -> str:
        done = self("inspect", "--format", what, name)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Podman:
    if not shutil.which("podman"):
        pytest.skip("podman is not installed")
    plain = tmp_path_factory.mktemp("podman") / "containers.conf"
    plain.write_text(PLAIN)
    if Podman(dict(os.environ))("image", "exists", base()).returncode:
        pytest.skip(f"podman has no {base()}: pull it, or import one that debootstrap has made")
    for environment in (dict(os.environ), {**os.environ, "CONTAINERS_CONF": str(plain)}):
        tried = Podman(environment)("run", "--rm", "--pull=never", base(), "true")
        if tried.returncode == 0:
            return Podman(environment)
    pytest.skip(f"podman cannot run a container here: {tried.stderr.strip()[-300:]}")


@dataclass(frozen=True)
class Built:
    """An image with the toy bundle in it."""

    name: str
    digest: str
    context: Path


@pytest.fixture(scope="module")
def image(podman: Podman, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    context = tmp_path_factory.mktemp("context")
    for part in ("serving", "src/assay"):
        shutil.copytree(ROOT / part, context / part)
    shutil.copy(ROOT / ".dockerignore", context)
    bundle = toy_bundle(context / ".assay" / "bundles" / "toy")
    built = Built(f"localhost/assay-test-{uuid.uuid4().hex[:12]}:toy", bundle.digest, context)
    try:
        done = build(podman, built, bundle.digest)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        yield built
    finally:
        podman("rmi", "--force", built.name)


def build(
    podman: Podman, built: Built, digest: str, commit: str = "abc", openvino: str = ""
) -> subprocess.CompletedProcess[str]:
    """Build the image."""
    given = {"BUNDLE": ".assay/bundles/toy", "BUNDLE_DIGEST": digest, "COMMIT": commit, "OPENVINO": openvino}
    arguments = [f"--build-arg={name}={value}" for name, value in given.items()]
    command = ["build", "--format=docker", "--pull=never", "--file=serving/Dockerfile", f"--tag={built.name}"]
    return podman(*command, *LENT, *arguments, str(built.context), timeout=900)


@dataclass(frozen=True)
class Running:
    """A container that answers on a port of this machine."""

    podman: Podman
    name: str

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        host, _, port = self.podman("port", self.name, "3000").stdout.strip().rpartition(":")
        return ask(int(port), method, path, body, host=host)

    def predict(self, body: bytes) -> tuple[int, bytes]:
        return self.ask("POST", "/v1/predict", body)

    def execute(self, code: str) -> str:
        """What a Python in the container prints."""
        done = self.podman("exec", self.name, "python3", "-c", code)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def ready(self) -> bool:
        try:
            return self.ask("GET", "/v1/ready")[0] == 200
        except (OSError, http.client.HTTPException):
            return False


@contextmanager
def container(podman: Podman, image: Built, *options: str) -> Iterator[Running]:
    """The image, run with as few rights as it needs; it is gone afterwards, however the test ends."""
    name = f"assay-test-{uuid.uuid4().hex[:12]}"
    run = ["run", "--detach", "--pull=never", f"--name={name}", f"--timeout={LONGEST_S}", "--publish=127.0.0.1::3000"]
    try:
        done = podman(*run, *CONFINED, *options, image.name)
        assert done.returncode == 0, done.stderr
        yield Running(podman, name)
    finally:
        podman("rm", "--force", "--time=0", name)


@pytest.fixture(scope="module")
def service(podman: Podman, image: Built) -> Iterator[Running]:
    with container(podman, image) as started:
        wait_until_ready(started)
        yield started


def wait_until_ready(service: Running) -> None:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if service.ready():
            return
        time.sleep(0.1)
    told = service.podman("logs", service.name)
    pytest.fail(f"the container is not ready:\n{told.stdout[-2000:]}{told.stderr[-2000:]}")


@pytest.mark.slow
def test_the_container_answers_from_the_bundle_in_it(service: Running, image: Built) -> None:
    status, body = service.predict(encoded(Image.new("RGB", (30, 20), (250, 10, 20)), "PNG"))
    answer = json.loads(body)
    assert (status, answer["label"], answer["model"]["digest"]) == (200, "red", image.digest)
    assert b"<!doctype html>" in service.ask("GET", "/")[1]


@pytest.mark.slow
def test_it_explains_and_reports_where_only_tmp_can_be_written(service: Running) -> None:
    picture = encoded(Image.new("RGB", (30, 20), (250, 10, 20)), "PNG")
    assert json.loads(service.ask("POST", "/v1/predict?explain=true", picture)[1])["heatmap"].startswith("data:image/")
    assert b"assay_requests_total{" in service.ask("GET", "/v1/metrics")[1]


@pytest.mark.slow
def test_its_memory_holds_the_largest_images_that_it_lets_in(service: Running) -> None:
    def png(mode: str, side: int = 7000) -> bytes:
        return encoded(Image.new(mode, (side, side), 9), "PNG")

    fits = [png("L"), png("RGB"), png("RGBA", 4000), encoded(Image.new("RGBA", (3000, 3000)), "WEBP", lossless=True)]
    before = service.podman("top", service.name, "hpid").stdout
    with ThreadPoolExecutor(8) as clients:
        for body in fits:
            assert {status for status, _ in clients.map(service.predict, [body] * 8)} == {200}
        told = list(clients.map(service.predict, [*fits, png("RGBA")] * 4))
    assert [status for status, _ in told] == [200, 200, 200, 200, 413] * 4
    error = json.loads(told[-1][1])["error"]
    assert (error["code"], 10_000_000 < error["limit"] < 49_000_000) == ("too_many_pixels", True)
    assert service.podman("top", service.name, "hpid").stdout == before  # no worker was killed, and none came anew


@pytest.mark.slow
def test_its_health_check_agrees(service: Running) -> None:
    assert service.podman("healthcheck", "run", service.name).returncode == 0


@pytest.mark.slow
def test_it_runs_without_rights(service: Running) -> None:
    status = dict(re.findall(r"^(\w+):\s+(.*)$", service.execute("print(open('/proc/1/status').read())"), re.MULTILINE))
    assert status["Uid"].split() == ["10001"] * 4
    assert (int(status["CapEff"], 16), int(status["CapBnd"], 16), status["NoNewPrivs"]) == (0, 0, "1")


@pytest.mark.slow
def test_nothing_of_it_belongs_to_the_service(service: Running) -> None:
    find = "import os; print([p for t in ('/venv', '/app', '/bundle') for p, *_ in os.walk(t) if os.stat(p).st_uid])"
    assert service.execute(find) == "[]"


@pytest.mark.slow
def test_it_holds_no_installer_and_no_torch(service: Running) -> None:
    names = sorted(TORCH_AND_COMPANY - {"opencv-python-headless"} | {"pip", "setuptools", "cv2"})
    look = f"import importlib.util as i; print([n for n in {names!r} if i.find_spec(n)])"
    assert service.execute(look) == "[]"


@pytest.mark.slow
def test_it_is_small_and_says_what_it_is(podman: Podman, image: Built) -> None:
    size = int(podman.inspect(image.name, "{{.Size}}")) - int(podman.inspect(base(), "{{.Size}}"))
    assert size < 250_000_000
    labels = json.loads(podman.inspect(image.name, "{{json .Config.Labels}}"))
    assert (labels["org.opencontainers.image.revision"], labels["assay.bundle.digest"]) == ("abc", image.digest)


@pytest.mark.slow
def test_a_label_is_not_taken_from_an_earlier_build(podman: Podman, image: Built) -> None:
    later = Built(image.name.replace(":toy", ":later"), image.digest, image.context)
    try:
        done = build(podman, later, "", "def")
        assert done.returncode == 0, done.stderr[-3000:]
        labels = json.loads(podman.inspect(later.name, "{{json .Config.Labels}}"))
        assert (labels["org.opencontainers.image.revision"], labels["assay.bundle.digest"]) == ("def", "")
    finally:
        podman("rmi", "--force", later.name)


@pytest.mark.slow
def test_openvino_is_in_it_if_it_is_asked_for(podman: Podman, image: Built) -> None:
    other = Built(f"{image.name}-openvino", image.digest, image.context)
    try:
        done = build(podman, other, image.digest, openvino="yes")
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        with container(podman, other, "--env=ASSAY_SERVE_RUNTIME=openvino") as service:
            wait_until_ready(service)
            assert "openvino" in json.loads(service.ask("GET", "/v1/model")[1])["runtime"]
        size = int(podman.inspect(other.name, "{{.Size}}")) - int(podman.inspect(image.name, "{{.Size}}"))
        assert size < 300e6
    finally:
        podman("rmi", "--force", other.name)


@pytest.mark.slow
def test_it_ends_on_sigterm(podman: Podman, image: Built) -> None:
    with container(podman, image) as service:
        wait_until_ready(service)
        podman("kill", "--signal=TERM", service.name)
        assert podman("wait", service.name).stdout.strip() == "0"


@pytest.mark.slow
def test_it_does_not_start_with_a_bundle_that_is_another(podman: Podman, image: Built, tmp_path: Path) -> None:
    other = toy_bundle(tmp_path / "other", card=b"another").folder
    with container(podman, image, f"--volume={other}:/bundle:ro") as service:
        assert podman("wait", service.name).stdout.strip() == "2"
        told = podman("logs", service.name)
        assert f"expected {image.digest}" in told.stderr + told.stdout


@pytest.mark.slow
def test_a_bundle_that_is_another_makes_no_image(podman: Podman, image: Built) -> None:
    done = build(podman, Built(f"{image.name}-other", "", image.context), "0" * 64)
    assert done.returncode != 0
    assert f"is bundle {image.digest}, expected {'0' * 64}" in done.stdout + done.stderr
