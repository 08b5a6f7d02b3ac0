"""The registry against MLflow itself: the embedded SQLite database, and a server over HTTP."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from assay import registry
from assay.errors import BundleError, RegistryError
from assay.home import home

from toybundle import toy_bundle


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_up(address: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(240):
        assert server.poll() is None, "the MLflow server ended"
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(address)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server that proxies artifacts and answers by its number alone; ends with the module."""
    folder = tmp_path_factory.mktemp("mlflow")
    port = free_port()
    store = ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", str(folder / "files")]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--allowed-hosts", "127.0.0.1:*"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, *store], stdout=log, stderr=log, start_new_session=True, cwd=folder)
    try:
        wait_until_up(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One state folder for all: making MLflow's tables takes seconds."""
    return tmp_path_factory.mktemp("state")


@pytest.fixture
def embedded(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_HOME", str(state))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(params=["embedded", "server"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, embedded: None) -> str:
    if request.param == "server":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", request.getfixturevalue("server"))
    return str(request.param)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A model of its own for every test, for the server outlives them."""
    return "m" + "".join(c for c in request.node.name if c.isalnum()).lower()


@pytest.mark.usefixtures("store")
def test_a_bundle_comes_back_as_it_was(tmp_path: Path, name: str) -> None:
    bundle = toy_bundle(tmp_path / "bundle")
    run = registry.open_run(name, "run-1")
    version = registry.register(bundle, name, run, {"verdict": "PROMOTE"})
    fetched = registry.fetch(registry.find(f"{name}@{version.version}"))
    assert fetched.digest == bundle.digest
    assert fetched.folder.is_relative_to(home())


@pytest.mark.usefixtures("store")
def test_registering_the_same_twice_makes_one_version(tmp_path: Path, name: str) -> None:
    bundle = toy_bundle(tmp_path / "bundle")
    run = registry.open_run(name, "run-1")
    first, second = (registry.register(bundle, name, run, {"verdict": "HOLD"}) for _ in range(2))
    third = registry.register(toy_bundle(tmp_path / "other", card=b"other"), name, run, {"verdict": "HOLD"})
    assert (first.version, second.version, third.version) == ("1", "1", "2")


@pytest.mark.usefixtures("store")
def test_an_alias_moves_and_is_found(tmp_path: Path, name: str) -> None:
    run = registry.open_run(name, "run-1")
    assert registry.aliases(name) == {}
    versions = [
        registry.register(toy_bundle(tmp_path / str(n), card=b"%d" % n), name, run, {"verdict": "PROMOTE"})
        for n in range(2)
    ]
    for version in versions:
        registry.set_alias(version, registry.CHAMPION)
        found = registry.find(f"{name}@champion")
        assert (found.version, found.aliases) == (version.version, ("champion",))
    assert [v.version for v in registry.versions(name)] == ["2", "1"]
    registry.delete_alias(name, registry.CHAMPION)
    assert registry.aliases(name) == {}


@pytest.mark.usefixtures("store")
def test_steps_of_one_pipeline_run_share_a_run(name: str) -> None:
    assert registry.open_run(name, "a") == registry.open_run(name, "a")
    assert registry.open_run(name, "a") != registry.open_run(name, "b")


@pytest.mark.usefixtures("store")
def test_what_is_not_there_is_one_line_with_what_is(tmp_path: Path, name: str) -> None:
    with pytest.raises(RegistryError, match="no model 'nothing'"):
        registry.find("nothing@champion")
    registry.register(toy_bundle(tmp_path / "b"), name, registry.open_run(name, "r"), {"verdict": "HOLD"})
    with pytest.raises(RegistryError, match=r"no version or alias 'champion'; .* has 1"):
        registry.find(f"{name}@champion")


@pytest.mark.usefixtures("store")
def test_a_damaged_copy_in_the_cache_is_fetched_anew(tmp_path: Path, name: str) -> None:
    bundle = toy_bundle(tmp_path / "bundle")
    version = registry.register(bundle, name, registry.open_run(name, "r"), {"verdict": "HOLD"})
    cached = registry.fetch(version).folder
    (cached / "model.onnx").write_bytes(b"damaged")
    assert registry.fetch(version).digest == bundle.digest


@pytest.mark.usefixtures("embedded")
def test_a_bundle_altered_in_the_store_is_refused(tmp_path: Path) -> None:
    bundle = toy_bundle(tmp_path / "b", card=b"to be altered")
    version = registry.register(bundle, "m", registry.open_run("m", "r"), {"verdict": "HOLD"})
    folder = next((home() / "mlflow" / "artifacts").rglob(f"bundle-{bundle.digest[:12]}"))
    (folder / "model.onnx").write_bytes(b"another model")
    with pytest.raises(BundleError, match=r"model\.onnx"):
        registry.fetch(version)
    champion = registry.champion_bundle("m", version.version)
    assert champion.bundle is None
    assert champion.fault


def test_a_server_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(RegistryError, match="MLFLOW_TRACKING_URI") as caught:
        registry.find("m@1")
    assert "\n" not in str(caught.value)


def test_a_server_that_must_not_answer_by_this_name_says_where_the_names_are(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url := server.replace("127.0.0.1", "localhost"))
    with pytest.raises(RegistryError, match=f"^{url}: MLflow is not to answer by this name; .* MLFLOW_SERVER_ALLOWED"):
        registry.find("m@1")


def test_all_of_many_models_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert registry.versions() == []
    client = MlflowClient(registry.tracking_uri(), registry.tracking_uri())
    for number in range(101):
        client.create_registered_model(f"m{number}")
    with pytest.raises(RegistryError, match=r"known: m0, m1, .* and 81 more$"):
        registry.find("other@1")


@pytest.mark.usefixtures("embedded")
def test_a_champion_that_is_not_the_crowned_one_is_a_fault(tmp_path: Path) -> None:
    version = registry.register(toy_bundle(tmp_path / "b"), "n", registry.open_run("n", "r"), {"verdict": "PROMOTE"})
    assert registry.champion_bundle("n", version.version, version.digest).fault is None
    other = registry.champion_bundle("n", version.version, "0" * 64)
    assert other.bundle is None
    assert other.fault == f"its bundle is {version.digest[:12]}, and crowned was 000000000000"
