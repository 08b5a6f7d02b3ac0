"""`assay doctor github`: whether a repository is set up for its workflows, as far as a token can see."""

import re
import subprocess
from collections.abc import Callable
from typing import Any

from assay.doctor import Finding
from assay.github.api import Api, GithubError
from assay.notify import URL

BRANCH = "main"
CHECK = "required"
"""The job of `ci.yml` that stands for all of them."""
ENVIRONMENTS = ("training", "staging", "production")
VARIABLES = ("MLFLOW_TRACKING_URI", "ASSAY_LEDGER")
"""Without these two, each job would have a registry and a ledger of its own, which end with it."""

PAGE = "docs/github.md"

Look = Callable[[Api], Finding]


def examine(api: Api) -> list[Finding]:
    """Ask for everything; what the token may not see is a warning.

    Raises:
        GithubError: GitHub does not answer, or does not show the repository at all.
    """
    _reach(api)
    looks: list[tuple[str, Look]] = [
        ("token", _workflow_token),
        ("actions", _allowed_actions),
        ("branch", _required_check),
        ("owners", _owners),
        *((name, _environment(name)) for name in ENVIRONMENTS),
        ("variables", _variables),
        ("webhook", _webhook),
    ]
    return [_looked(what, look, api) for what, look in looks]


def origin() -> str:
    """`owner/name` of the remote `origin`; empty if it is not on GitHub."""
    try:
        command = ["git", "remote", "get-url", "origin"]
        url = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
    found = re.search(r"github\.com[:/]([^/\s]+/[^/\s]+?)(?:\.git)?$", url)
    return found[1] if found else ""


def _reach(api: Api) -> None:
    """What is wrong with all of it is told once."""
    try:
        api.get("")
    except GithubError as error:
        known = {401: "GitHub does not take the token", 404: "there is none, or the token may not see it"}
        if error.status not in known:
            raise
        raise GithubError(f"repository {api.repository}: {known[error.status]}", error.status) from None


def _looked(what: str, look: Look, api: Api) -> Finding:
    try:
        return look(api)
    except GithubError as error:
        if error.status in (401, 403):
            return Finding(what, "warning", "cannot be seen", "give a token of an administrator in GITHUB_TOKEN")
        return Finding(what, "fault", str(error), f"see {PAGE}")
    except (KeyError, TypeError, AttributeError):
        return Finding(what, "fault", "GitHub gave an answer of another kind", f"see {PAGE}")


def _workflow_token(api: Api) -> Finding:
    allowed = api.get("/actions/permissions/workflow")
    if allowed["default_workflow_permissions"] != "read":
        return Finding("token", "fault", "workflows may write by default", "Settings › Actions: read permissions only")
    if allowed["can_approve_pull_request_reviews"]:
        return Finding("token", "fault", "workflows may approve pull requests", "Settings › Actions: take that away")
    return Finding("token", "good", "reads by default, approves nothing")


def _allowed_actions(api: Api) -> Finding:
    allowed = api.get("/actions/permissions")
    if allowed.get("sha_pinning_required"):
        return Finding("actions", "good", "only by SHA")
    return Finding("actions", "warning", "a tag would run, too", "Settings › Actions: require SHAs of actions")


def _required_check(api: Api) -> Finding:
    """Rules of the branch, from all its rulesets; GitHub does not promise those of a classic branch protection here."""
    rules: dict[str, list[dict[str, Any]]] = {}
    for rule in api.get(f"/rules/branches/{BRANCH}"):
        rules.setdefault(rule["type"], []).append(rule.get("parameters") or {})
    checks = rules.get("required_status_checks", [])
    if CHECK not in {check["context"] for one in checks for check in one["required_status_checks"]}:
        return Finding("branch", "fault", f"{BRANCH} takes what {CHECK!r} has not passed", f"a ruleset, see {PAGE}")
    if not any(one.get("require_code_owner_review") for one in rules.get("pull_request", [])):
        return Finding("branch", "fault", f"{BRANCH} takes what no code owner saw", f"a ruleset, see {PAGE}")
    if "non_fast_forward" not in rules:
        return Finding("branch", "warning", f"{BRANCH} can be rewritten", f"a ruleset, see {PAGE}")
    return Finding("branch", "good", f"{BRANCH} takes pull requests that passed {CHECK!r} and that a code owner saw")


def _owners(api: Api) -> Finding:
    """A line whose owners may not write here counts for nothing, such as one of teams that a fork must replace."""
    found = api.get("/codeowners/errors", ref=BRANCH)["errors"]
    if not found:
        return Finding("owners", "good", "those of .github/CODEOWNERS may write here")
    lines = f"{len(found)} lines of .github/CODEOWNERS count for nothing: {_line(found[0])}"
    return Finding("owners", "warning", lines, "put your own teams in")


def _line(error: dict[str, Any]) -> str:
    """What stands there, in one line of a bounded length."""
    return " ".join(str(error.get("source") or error["kind"]).split())[:120]


def _environment(name: str) -> Look:
    def look(api: Api) -> Finding:
        try:
            found = api.get(f"/environments/{name}")
        except GithubError as error:
            if error.status != 404:
                raise
            return Finding(name, "fault", "there is no such environment", f"make it, see {PAGE}")
        return _protection(name, found, _branches(api, name, found))

    return look


def _branches(api: Api, name: str, found: dict[str, Any]) -> list[str]:
    """What may use an environment, branches and tags, as it stands in its settings: `*` is all of them."""
    policy = found.get("deployment_branch_policy")
    if not policy:
        return ["any branch"]
    if not policy["custom_branch_policies"]:
        return ["any protected branch"]
    rows = api.get(f"/environments/{name}/deployment-branch-policies", per_page="100")["branch_policies"]
    return [row["name"] if row.get("type", "branch") == "branch" else f"{row['type']} {row['name']}" for row in rows]


def _protection(name: str, found: dict[str, Any], branches: list[str]) -> Finding:
    rules = {rule["type"]: rule for rule in found["protection_rules"]}
    if branches != [BRANCH]:
        who = ", ".join(branches)[:120] or "no branch"
        return Finding(name, "fault", f"{who} may use it", f"let {BRANCH} alone deploy, see {PAGE}")
    reviewers = rules.get("required_reviewers", {})
    if name == "production" and not reviewers.get("reviewers"):
        return Finding(name, "fault", "nobody must approve", f"name reviewers, see {PAGE}")
    if name == "production" and not reviewers.get("prevent_self_review"):
        return Finding(name, "warning", "who asks may approve", "prevent self-review")
    return Finding(name, "good", f"bound to {BRANCH}" + ", with reviewers" * bool(reviewers.get("reviewers")))


def _variables(api: Api) -> Finding:
    known = _known(api, "variables")
    missing = [f"{name} in {where}" for where, names in known.items() for name in VARIABLES if name not in names]
    if missing:
        return Finding("variables", "fault", f"not set: {', '.join(missing)}", f"see {PAGE}")
    return Finding("variables", "good", ", ".join(sorted(set().union(*known.values()))))


def _webhook(api: Api) -> Finding:
    if silent := [where for where, names in _known(api, "secrets").items() if URL not in names]:
        return Finding("webhook", "warning", f"nobody is told of {', '.join(silent)}", f"set the secret {URL}")
    return Finding("webhook", "good", f"{URL} is set")


def _known(api: Api, kind: str) -> dict[str, set[str]]:
    """Names of the variables or secrets that a job in each environment has: the repository's, and its own."""
    everywhere = _names(api, f"/actions/{kind}", kind)
    return {where: everywhere | _names(api, f"/environments/{where}/{kind}", kind) for where in ENVIRONMENTS}


def _names(api: Api, path: str, kind: str) -> set[str]:
    names: set[str] = set()
    try:
        for page in range(1, 35):
            rows = api.get(path, per_page="30", page=str(page))[kind]  # more than 30 variables GitHub does not give
            names |= {row["name"] for row in rows}
            if len(rows) < 30:
                break
    except GithubError as error:
        if error.status != 404:  # that there is no such environment is told by its own finding
            raise
    return names
