"""The comment, the settings and the identity, against a server on this machine that answers as GitHub does."""

import itertools
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from kubernetes import client, config
from workflows.hosted import REPOSITORY, GitHub, playing, said

from assay.errors import AssayError
from assay.github import doctor, identity
from assay.github.api import BOT, Api, GithubError
from assay.github.page import MARK
from assay.github_commands import github

SHA = "a" * 40


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[GitHub]:
    with playing(GitHub()) as found:
        monkeypatch.setenv("GITHUB_API_URL", found.url)
        monkeypatch.setenv("GITHUB_REPOSITORY", REPOSITORY)
        monkeypatch.setenv("GITHUB_TOKEN", "token-1")
        yield found


def test_the_comment_of_before_is_replaced_and_only_the_bot_s(server: GitHub) -> None:
    imitation = said(1, "mallory", f"{MARK} all is well")
    quoting = said(2, BOT, f"somebody wrote {MARK}")
    server.answers["/issues/7/comments"] = [imitation, quoting]
    Api.open().comment(7, "new")
    assert server.written == [("POST", "/issues/7/comments", {"body": "new"})]
    server.asked.clear()
    server.answers["/issues/7/comments"] = lambda query: (
        [said(n, "somebody", "x") for n in range(100)] if query["page"] == ["1"] else [said(300, BOT, f"{MARK}\nold")]
    )
    server.answers["/issues/comments/300"] = {}
    Api.open().comment(7, "newer")
    assert server.written == [("PATCH", "/issues/comments/300", {"body": "newer"})]
    assert server.tokens == {"Bearer token-1"}


def event(**changes: Any) -> dict[str, Any]:
    run = {"id": 5, "head_branch": "my&branch=main#", "head_sha": SHA, "head_repository": {"owner": {"login": "fork"}}}
    return {"workflow_run": run | changes}


def test_the_pull_request_is_what_github_says_it_is(server: GitHub) -> None:
    server.answers["/pulls"] = [{"number": 8, "head": {"sha": "b" * 40}}, {"number": 9, "head": {"sha": SHA}}]
    assert Api.open().pull_request_of(event()["workflow_run"]) == 9
    [(_, _, query)] = server.asked
    assert query["head"] == ["fork:my&branch=main#"]
    assert query["state"] == ["open"]
    assert Api.open().pull_request_of(event(head_sha="c" * 40)["workflow_run"]) is None
    server.answers["/pulls"] = []
    assert Api.open().pull_request_of(event(head_repository=None)["workflow_run"]) is None


def test_a_run_of_the_report_comments(server: GitHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "event.json").write_text(json.dumps(event()))
    monkeypatch.setenv("GITHUB_EVENT_PATH", str(tmp_path / "event.json"))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    server.answers |= {
        "/pulls": [{"number": 9, "head": {"sha": SHA}}],
        "/issues/9/comments": [],
        "/actions/runs/5/jobs": {"jobs": [
            {"name": "unit", "started_at": "2026-01-01T00:00:00Z", "completed_at": "2026-01-01T00:02:05Z"},
            {"name": "@all", "started_at": "2026-01-01T00:00:00Z", "completed_at": None}]},
    }  # fmt: skip
    done = CliRunner().invoke(github, ["comment", "--from", str(tmp_path / "nothing")])
    assert done.exit_code == 0, done.output
    [(_, path, content)] = server.written
    assert path == "/issues/9/comments"
    assert content["body"].startswith(MARK)
    assert "2 min 05 s" in content["body"]
    assert "all" not in content["body"].replace("small", "")
    assert content["body"].strip() == (tmp_path / "summary").read_text().strip()


def test_another_event_is_no_reason_to_comment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: GitHub) -> None:
    (tmp_path / "event.json").write_text("{}")
    monkeypatch.setenv("GITHUB_EVENT_PATH", str(tmp_path / "event.json"))
    done = CliRunner().invoke(github, ["comment", "--from", str(tmp_path)])
    assert isinstance(done.exception, AssayError)
    assert server.asked == []


@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_refusal_is_one_line_without_the_token(server: GitHub, status: int) -> None:
    server.answers["/pulls"] = status
    with pytest.raises(GithubError, match=rf"GET /pulls.*GitHub answered {status}") as raised:
        Api.open().get("/pulls", state="open")
    assert "token-1" not in str(raised.value)


def test_a_github_that_is_away_is_one_line(monkeypatch: pytest.MonkeyPatch, server: GitHub) -> None:
    monkeypatch.setenv("GITHUB_API_URL", "http://127.0.0.1:9")
    with pytest.raises(GithubError, match="does not answer"):
        Api.open().get("/pulls")
    monkeypatch.delenv("GITHUB_TOKEN")
    monkeypatch.delenv("GH_TOKEN", raising=False)
    with pytest.raises(GithubError, match="set GITHUB_TOKEN"):
        Api.open()
    for name in ("", "me", "me/assay/..", "../x", "me/..", "me/as say"):
        monkeypatch.setenv("GITHUB_REPOSITORY", name)
        monkeypatch.setenv("GITHUB_TOKEN", "token-1")
        with pytest.raises(GithubError, match="give owner/name"):
            Api.open()


BRANCHES = {"protected_branches": False, "custom_branch_policies": True}
MAIN = {"branch_policies": [{"name": "main", "type": "branch"}]}
REVIEWED = {"type": "required_reviewers", "reviewers": [{}], "prevent_self_review": True}
SET_UP: dict[str, Any] = {
    "": {"full_name": REPOSITORY},
    "/actions/permissions/workflow": {
        "default_workflow_permissions": "read",
        "can_approve_pull_request_reviews": False,
    },
    "/actions/permissions": {"sha_pinning_required": True},
    "/rules/branches/main": [
        {"type": "required_status_checks", "parameters": {"required_status_checks": [{"context": "required"}]}},
        {"type": "required_status_checks", "parameters": {"required_status_checks": [{"context": "of another"}]}},
        {"type": "pull_request", "parameters": {"require_code_owner_review": True}},
        {"type": "non_fast_forward"},
    ],
    "/codeowners/errors": {"errors": []},
    "/environments/training": {"protection_rules": [], "deployment_branch_policy": BRANCHES},
    "/environments/staging": {"protection_rules": [], "deployment_branch_policy": BRANCHES},
    "/environments/production": {"protection_rules": [REVIEWED], "deployment_branch_policy": BRANCHES},
    "/actions/variables": {"variables": [{"name": "MLFLOW_TRACKING_URI"}]},
    "/actions/secrets": {"secrets": []},
    **{f"/environments/{name}/deployment-branch-policies": MAIN for name in doctor.ENVIRONMENTS},
    **{f"/environments/{name}/variables": {"variables": [{"name": "ASSAY_LEDGER"}]} for name in doctor.ENVIRONMENTS},
    **{f"/environments/{name}/secrets": {"secrets": [{"name": "ASSAY_WEBHOOK_URL"}]} for name in doctor.ENVIRONMENTS},
}


def policies(*names: str) -> dict[str, Any]:
    return {"branch_policies": [{"name": name, "type": "branch"} for name in names]}


def states(server: GitHub) -> dict[str, str]:
    assert server
    return {finding.what: finding.state for finding in doctor.examine(Api.open())}


def test_a_repository_that_is_set_up_has_no_fault(server: GitHub) -> None:
    server.answers = dict(SET_UP)
    assert set(states(server).values()) == {"good"}


def test_what_the_repository_has_each_environment_has_however_much_there_is(server: GitHub) -> None:
    """GitHub gives 30 variables at a time."""
    names = [*(f"V{n}" for n in range(30)), *doctor.VARIABLES]
    server.answers = {
        **SET_UP,
        "/actions/variables": lambda query: {
            "variables": [{"name": name} for name in names[(int(query["page"][0]) - 1) * 30 :][:30]]
        },
        "/actions/secrets": {"secrets": [{"name": "ASSAY_WEBHOOK_URL"}]},
    }
    for name in doctor.ENVIRONMENTS:
        server.answers |= {f"/environments/{name}/{kind}": {kind: []} for kind in ("variables", "secrets")}
    assert set(states(server).values()) == {"good"}


def test_what_is_not_set_is_told_with_where(server: GitHub) -> None:
    server.answers = {**SET_UP, "/environments/production/variables": {"variables": []}}
    [finding] = [finding for finding in doctor.examine(Api.open()) if finding.what == "variables"]
    assert finding.detail == "not set: ASSAY_LEDGER in production"


@pytest.mark.parametrize(("status", "why"), [(401, "does not take the token"), (404, "may not see it"), (500, "500")])
def test_what_is_wrong_with_all_of_it_is_told_once(server: GitHub, status: int, why: str) -> None:
    server.answers = {"": status}
    with pytest.raises(GithubError, match=why):
        doctor.examine(Api.open())
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("path", "answer", "what", "state"),
    [
        ("/actions/permissions/workflow", {"default_workflow_permissions": "write"}, "token", "fault"),
        ("/actions/permissions/workflow", {"default_workflow_permissions": "read",
                                           "can_approve_pull_request_reviews": True}, "token", "fault"),
        ("/actions/permissions", {}, "actions", "warning"),
        ("/rules/branches/main", [], "branch", "fault"),
        ("/rules/branches/main", SET_UP["/rules/branches/main"][:2], "branch", "fault"),
        ("/rules/branches/main", SET_UP["/rules/branches/main"][1:], "branch", "fault"),
        ("/rules/branches/main", SET_UP["/rules/branches/main"][:3], "branch", "warning"),
        ("/rules/branches/main", 403, "branch", "warning"),
        ("/rules/branches/main", {"message": "x"}, "branch", "fault"),
        ("/codeowners/errors", {"errors": [{"kind": "Unknown owner", "source": "* @assay/maintainers"}]}, "owners",
         "warning"),
        ("/codeowners/errors", 404, "owners", "fault"),
        ("/environments/staging", 404, "staging", "fault"),
        ("/environments/staging", 401, "staging", "warning"),
        ("/environments/training", {"protection_rules": []}, "training", "fault"),
        ("/environments/production", SET_UP["/environments/staging"], "production", "fault"),
        ("/environments/production", {"protection_rules": [{**REVIEWED, "prevent_self_review": False}],
                                      "deployment_branch_policy": BRANCHES}, "production", "warning"),
        ("/environments/training", {"protection_rules": [], "deployment_branch_policy": {
            "protected_branches": True, "custom_branch_policies": False}}, "training", "fault"),
        ("/environments/staging/deployment-branch-policies", policies("*"), "staging", "fault"),
        ("/environments/staging/deployment-branch-policies", policies("main", "release/*"), "staging", "fault"),
        ("/environments/staging/deployment-branch-policies", policies(), "staging", "fault"),
        ("/environments/staging/deployment-branch-policies",
         {"branch_policies": [{"name": "main", "type": "tag"}]}, "staging", "fault"),
        ("/environments/training/variables", {"variables": []}, "variables", "fault"),
        ("/environments/production/variables", {"variables": []}, "variables", "fault"),
        ("/environments/training/variables", 404, "variables", "fault"),
        ("/environments/production/secrets", {"secrets": []}, "webhook", "warning"),
        ("/actions/secrets", 500, "webhook", "fault"),
    ],
)  # fmt: skip
def test_each_thing_that_is_missing_is_found(server: GitHub, path: str, answer: Any, what: str, state: str) -> None:
    server.answers = {**SET_UP, path: answer}
    found = states(server)
    assert found.pop(what) == state
    assert set(found.values()) == {"good"}


def jwt(content: dict[str, Any]) -> str:
    return ".".join(urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in ({}, content, {}))


@pytest.fixture
def issuer(server: GitHub, monkeypatch: pytest.MonkeyPatch) -> GitHub:
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", f"{server.url}/identity?api-version=2")
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "request-1")
    server.answers["/identity"] = lambda query: {"value": jwt({"aud": query["audience"][0], "exp": 4_000_000_000})}
    return server


def test_an_identity_is_for_one_audience_and_for_nobody_else_s_eyes(issuer: GitHub, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("old")
    path.chmod(0o644)
    identity.write_token("sts.amazonaws.com", path)
    assert path.read_text() == jwt({"aud": "sts.amazonaws.com", "exp": 4_000_000_000})
    assert path.stat().st_mode & 0o777 == 0o600
    assert issuer.tokens == {"Bearer request-1"}


def numbered(issuer: GitHub, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Each token is another one."""
    count = itertools.count(1)
    issuer.answers["/identity"] = lambda query: {"value": f"{query['audience'][0]} {next(count)}"}
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(path))


def wait_for(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_an_identity_is_renewed_as_long_as_there_is_work(
    issuer: GitHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "aws"
    path.write_text("old")
    numbered(issuer, monkeypatch, path)
    seen = {"old"}
    with identity.kept_fresh(0.0):
        while len(seen) < 200:  # read as fast as can be: at no time is there no file, or half of one
            seen.add(path.read_text())
    assert all(text == "old" or text.startswith("sts.amazonaws.com ") for text in seen)
    assert path.stat().st_mode & 0o777 == 0o600
    asked = len(issuer.asked)
    time.sleep(0.05)
    assert len(issuer.asked) == asked
    assert [one.name for one in tmp_path.iterdir()] == ["aws"]


def test_an_identity_that_cannot_be_renewed_ends_nothing(
    issuer: GitHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "aws"
    path.write_text("old")
    numbered(issuer, monkeypatch, path)
    issuer.answers["/identity"] = 500
    with identity.kept_fresh(0.01):
        wait_for(lambda: len(issuer.asked) > 2)
    assert path.read_text() == "old"
    said = capsys.readouterr().err.splitlines()
    assert all(line.startswith("identity  ") and "not renewed: GitHub gave no identity" in line for line in said)
    assert said


def test_nothing_is_renewed_where_github_gives_nothing(issuer: GitHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with identity.kept_fresh(0.0):
        pass
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/nowhere/aws")
    monkeypatch.delenv("ACTIONS_ID_TOKEN_REQUEST_URL")
    with identity.kept_fresh(0.0):
        pass
    assert issuer.asked == []


def test_a_credential_says_until_when_it_holds(issuer: GitHub) -> None:
    assert issuer
    status = json.loads(identity.credential("kubernetes"))["status"]
    assert status["expirationTimestamp"] == "2096-10-02T07:06:40Z"
    assert status["token"].count(".") == 2


def test_a_job_without_the_permission_is_told_so(monkeypatch: pytest.MonkeyPatch, issuer: GitHub) -> None:
    with pytest.raises(AssayError, match="give a name or an address"):
        identity.token("a&audience=other")
    issuer.answers["/identity"] = 403
    with pytest.raises(AssayError, match="gave no identity for kubernetes"):
        identity.token("kubernetes")
    issuer.answers["/identity"] = {"value": "nonsense"}
    with pytest.raises(AssayError, match="no token"):
        identity.credential("kubernetes")
    monkeypatch.delenv("ACTIONS_ID_TOKEN_REQUEST_URL")
    with pytest.raises(AssayError, match="id-token: write"):
        identity.token("kubernetes")


def test_a_cluster_s_configuration_holds_no_secret_and_is_one(issuer: GitHub, tmp_path: Path) -> None:
    assert issuer
    path = tmp_path / "kubeconfig"
    done = CliRunner().invoke(github, ["kubeconfig", "--server", "https://cluster.example:6443", "--to", str(path)])
    assert done.exit_code == 0, done.output
    found = yaml.safe_load(path.read_text())
    plugin = found["users"][0]["user"]["exec"]
    assert plugin["args"] == ["-m", "assay", "github", "token", "--audience", "kubernetes", "--as", "kubernetes"]
    # The official client takes it; what it runs to get a token is another test's.
    plugin |= {"command": "echo", "args": [identity.credential("kubernetes")]}
    configuration = client.Configuration()
    config.load_kube_config_from_dict(found, client_configuration=configuration)
    assert configuration.host == "https://cluster.example:6443"
    assert configuration.api_key["authorization"].startswith("Bearer ")


@pytest.mark.parametrize("server", ["http://cluster.example", "https://a b", "https://x\nusers: []", "--help", ""])
def test_a_cluster_is_an_address(server: str) -> None:
    with pytest.raises(AssayError, match="give the address"):
        identity.kubeconfig(server, "", "kubernetes")
