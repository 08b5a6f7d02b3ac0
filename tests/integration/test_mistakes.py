"""What a user gets wrong, or a service answers wrongly, is one line on standard error, and no defect of Assay."""

import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from assay import cli
from assay.gate.ledger import Ledger

from person import person

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "configs" / "demo.yaml"
DEEP = "a: " + "[" * 3000
LONG = "a: " + "9" * 5000


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> "Said":
    return Said(capsys, monkeypatch)


class Said:
    """Exit code and standard error of a command; standard output must be empty."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.capsys, self.monkeypatch = capsys, monkeypatch

    def __call__(self, *words: str) -> tuple[int, str]:
        self.monkeypatch.setattr(sys, "argv", ["assay", *words])
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = self.capsys.readouterr()
        assert out == ""
        return int(left.value.code or 0), err.strip()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["gate", "power", str(DEMO), "--discordance", "nan"], "nan is no number here"),
        (["gate", "power", str(DEMO), "--images", "9" * 20], "is not in the range"),
        (["gate", "power", str(DEMO), "--look", "9" * 11], "is not in the range"),
        (["promote", "demo@1", "--to", "staging", "--soak", "nan"], "nan is no number here"),
        (["promote", "demo@1", "--to", "staging", "--max-age", "inf"], "inf is no number here"),
        (["stop", "../../x"], "assay: '../../x' is no name of a use case"),
        (["stop", ""], "assay: '' is no name of a use case"),
        (["models", "a'b"], 'assay: "a\'b" is no name of a model'),
        (["models", "nobody"], "assay: nobody: no model 'nobody'"),
        (["ui", "--port", "65535"], "is not in the range"),
        (["train", str(DEMO), "--set", "recipe.epochs=2024-99-99"], "the value is not YAML"),
        (["gate", "demo@1", "--policy", str(DEMO), "--markdown", "/nowhere/x.md"], "/nowhere is no folder in which"),
    ],
)
def test_a_wrong_word(said: Said, words: list[str], told: str) -> None:
    code, line = said(*words)
    assert (code, told in line) == (2, True), line


@pytest.mark.parametrize("text", ["name: 2024-99-99", DEEP, LONG, "a: \x00"], ids=["date", "deep", "long", "nul"])
def test_what_is_no_yaml(said: Said, tmp_path: Path, text: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    code, line = said("gate", "power", str(tmp_path / "x.yaml"))
    assert (code, line.count("\n")) == (2, 0)
    assert line.startswith(f"assay: {tmp_path / 'x.yaml'}: not YAML: ")


def test_a_home_that_is_none(said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path / "file"))
    code, line = said("models")
    assert (code, line.count("\n")) == (2, 0)
    assert "let ASSAY_HOME name a folder in which state can be written" in line


def test_a_defect_is_told_where_nothing_can_be_written(
    said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(cli.cli, "main", lambda **_: 1 / 0)
    code, line = said("models")
    report = Path(line.rpartition(" ")[2])
    assert (code, report.parent) == (1, tmp_path)
    assert "ZeroDivisionError" in report.read_text()


def test_a_full_disk_is_no_defect(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cli.cli, "main", full)
    assert said("models") == (2, "assay: standard output: No space left on device; make room there")


def test_an_account_without_a_name_may_roll_back(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 4242")

    monkeypatch.delenv("ASSAY_ACTOR", raising=False)
    monkeypatch.setattr("getpass.getuser", nameless)
    code, line = said("rollback", "demo", "--to-last-served")
    assert (code, line.startswith("assay: production never served a release of demo")) == (2, True), line


@contextmanager
def answering(body: bytes) -> Iterator[str]:
    """Answers everything with this, as what stands before a server may do."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Last-Modified", "Sun, 22 Nov 2026 00:00:00 GMT")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def login_page() -> Iterator[str]:
    with answering(b"<html><body>Log in</body></html>") as url:
        yield url


@pytest.mark.parametrize("words", [["ledger", "list", "demo"], ["status"], ["history", "demo"]])
def test_a_login_page_is_no_empty_ledger(
    said: Said, login_page: str, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    pytest.importorskip("obstore")
    endpoint = {"AWS_ENDPOINT_URL": login_page, "AWS_ALLOW_HTTP": "true", "ASSAY_LEDGER": "s3://bucket/prefix"}
    for name, value in {**endpoint, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}.items():
        monkeypatch.setenv(name, value)
    code, line = said(*words)
    assert (code, "what answers there is no object store" in line) == (2, True), line


def test_a_login_page_crowns_nobody(login_page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore")
    for name, value in {"AWS_ENDPOINT_URL": login_page, "AWS_ALLOW_HTTP": "true", "AWS_ACCESS_KEY_ID": "a"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    with pytest.raises(Exception, match="no object store"):
        Ledger.open("demo", root="s3://bucket/prefix").champion()


def test_a_database_that_is_none(said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database at all" * 100)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    code, line = said("models")
    assert (code, line.count("\n")) == (2, 0)
    assert "file is not a database" in line


@pytest.mark.parametrize(
    "words", [["models"], ["models", "demo"], ["promote", "demo@1", "--to", "staging"], ["train", str(DEMO)]]
)
def test_what_answers_and_is_no_mlflow_is_no_empty_registry(
    said: Said, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    with answering(b"{}") as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        assert said(*words) == (2, f"assay: {url}: is no MLflow; is MLFLOW_TRACKING_URI right?")


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("postgresql://me:secret@127.0.0.1:1/x", "Connection refused; is MLFLOW_TRACKING_URI right?"),
        ("mysql://me:secret@127.0.0.1:1/x", "the driver MySQLdb is not installed"),
        ("mysql+nobodys://me:secret@127.0.0.1:1/x", "is MLFLOW_TRACKING_URI right?"),
    ],
)
def test_a_database_that_nobody_serves(said: Said, monkeypatch: pytest.MonkeyPatch, uri: str, told: str) -> None:
    """MLflow, which would repeat for a minute, is not even asked."""
    monkeypatch.setattr("mlflow.MlflowClient", lambda **_: pytest.fail("MLflow was asked"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    code, line = said("models")
    assert (code, line.count("\n"), told in line, "secret" in line) == (2, 0, True, False), line


@pytest.mark.parametrize("name", ["x" * 201, "two\nlines"])
def test_a_name_that_the_ledger_would_refuse_is_refused_before_the_work(
    said: Said, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("ASSAY_ACTOR", name)
    code, line = said("rollback", "demo", "--to-last-served")
    assert (code, line) == (2, "assay: ASSAY_ACTOR: must be one line of at most 200 characters, for the ledger")


IMPATIENT = """
import sys
class Interrupted:
    def find_spec(self, name, *_):
        if name == "assay.cli":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupted())
from assay.__main__ import main
main()
"""


def test_an_interrupt_before_anything_began_is_quiet(tmp_path: Path) -> None:
    command = [sys.executable, "-c", IMPATIENT]
    done = subprocess.run(command, env=person(tmp_path).environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


FILLED = """
import os, sys
from pathlib import Path
from assay import registry
from assay.errors import AssayError
from stacks.server import connected

def of_zenml():
    with connected() as client:
        client.create_tag("new")

def of_mlflow():
    registry.open_run("demo", "run")

registry.versions()
with connected():
    pass
with Path(os.environ["ASSAY_HOME"], "rest").open("wb", buffering=0) as rest:
    try:
        while True:
            rest.write(bytes(4096))
    except OSError:
        pass
for work in (of_mlflow, of_zenml):
    try:
        work()
    except AssayError as error:
        print(error)
Path(os.environ["ASSAY_HOME"], "rest").unlink()
of_mlflow(), of_zenml()
print("kept")
"""


def test_a_full_disk_is_told_and_nothing_is_lost(tmp_path: Path) -> None:
    (home := tmp_path / "home").mkdir()
    mounted = f'mount -t tmpfs -o size=24m tmpfs {home} && exec "$@"'
    shell = ["unshare", "--map-root-user", "--mount", "sh", "-c", mounted, "sh"]
    if not shutil.which("unshare") or subprocess.run([*shell, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    somebody = person(tmp_path, ASSAY_HOME=str(home))
    command = [*shell, *somebody.command(module=FILLED)]
    done = subprocess.run(command, env=somebody.environment, capture_output=True, text=True, check=False)
    mlflow, zenml, kept = done.stdout.splitlines() or [done.stderr] * 3
    assert (
        mlflow == f"sqlite:///{home}/mlflow/mlflow.db: cannot be written, the disk is full: make room and run it again"
    )
    assert zenml.endswith("zenml.db cannot be written, the disk is full: make room and run it again")
    assert (kept, done.stderr) == ("kept", "")


LOOK = """
import sys
from pathlib import Path
from assay.config import load_use_case
from assay.errors import ConfigError
from pipelines.document import run_document
for path in map(Path, sys.argv[1:]):
    try:
        print(run_document(path, load_use_case(path))["parameters"]["use_case"]["name"])
    except ConfigError as error:
        print(error)
"""
LEFT_OUT: list[tuple[dict[str, Any], str]] = [
    ({"stepz": {}}, "stepz: there is no such key; is steps meant?"),
    ({"steps": {"trane": {}}}, "steps.trane: there is no such key; is steps.train meant?"),
    ({"steps": [1]}, "steps: must be a mapping, not [1]"),
    ({"parameters": {"bootsrap": True}}, "parameters.bootsrap: there is no such key; is parameters.bootstrap meant?"),
    ({"parameters": {"bootstrap": [1, 2]}}, "parameters.bootstrap: true or false, not [1, 2]"),
]


@pytest.mark.long
def test_what_zenml_would_leave_out_without_a_word(tmp_path: Path) -> None:
    document, shipped = yaml.safe_load(DEMO.read_text()), sorted((ROOT / "configs").glob("*.yaml"))
    files = [tmp_path / f"{number}.yaml" for number in range(len(LEFT_OUT))]
    for file, (change, _) in zip(files, LEFT_OUT, strict=True):
        parameters = document["parameters"] | change.get("parameters", {})
        file.write_text(yaml.safe_dump({**document, **change, "parameters": parameters}))
    somebody = person(tmp_path)
    told = somebody.good(*map(str, [*files, *shipped]), module=LOOK).splitlines()
    expected = [f"{file}: {what}" for file, (_, what) in zip(files, LEFT_OUT, strict=True)]
    assert [line for line in told if line in expected or line in {path.stem for path in shipped}] == [
        *expected,
        *(path.stem for path in shipped),
    ]
