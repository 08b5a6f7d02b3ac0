"""GitHub's API, as far as the workflows and `assay doctor github` ask it."""

import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from assay.errors import AssayError
from assay.github.page import MARK

TIMEOUT_S = 20.0
MAX_BYTES = 8 * 2**20
BOT = "github-actions[bot]"
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,38}/(?!\.{1,2}$)[A-Za-z0-9_.-]{1,100}")


class GithubError(AssayError):
    """GitHub does not answer, or refuses."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status
        """Of HTTP; 0 if there was no answer."""


@dataclass(frozen=True)
class Api:
    """One repository, as whoever the token stands for."""

    repository: str
    """`owner/name`."""
    token: str
    url: str = "https://api.github.com"

    @classmethod
    def open(cls, repository: str = "") -> "Api":
        """By `$GITHUB_REPOSITORY`, `$GITHUB_TOKEN` (or `$GH_TOKEN`) and `$GITHUB_API_URL`.

        Raises:
            GithubError: one of the first two is not there.
        """
        repository = repository or os.environ.get("GITHUB_REPOSITORY", "")
        token = os.environ.get("GITHUB_TOKEN") or os.environ.get("GH_TOKEN") or ""
        if not _REPOSITORY.fullmatch(repository):
            raise GithubError(f"repository {repository!r}: give owner/name, by --repository or GITHUB_REPOSITORY")
        if not token:
            raise GithubError("no token: set GITHUB_TOKEN, such as to what `gh auth token` prints")
        return cls(repository, token, os.environ.get("GITHUB_API_URL", cls.url))

    def get(self, path: str, **query: str) -> Any:
        """What is at a path below the repository's.

        Raises:
            GithubError: there is nothing, or it may not be seen.
        """
        return self._send("GET", f"{path}?{urllib.parse.urlencode(query)}" if query else path)

    def comment(self, number: int, markdown: str) -> None:
        """Put a comment on a pull request, in place of the one that was put there before.

        Raises:
            GithubError: it is not taken.
        """
        for page in range(1, 31):
            comments = self.get(f"/issues/{number}/comments", per_page="100", page=str(page))
            for comment in comments:
                # Anybody can write the mark; nobody else can be the bot.
                if comment["user"]["login"] == BOT and comment["body"].startswith(MARK):
                    self._send("PATCH", f"/issues/comments/{int(comment['id'])}", {"body": markdown})
                    return
            if len(comments) < 100:
                break
        self._send("POST", f"/issues/{number}/comments", {"body": markdown})

    def pull_request_of(self, run: Mapping[str, Any]) -> int | None:
        """The open pull request whose newest commit a run of a workflow has checked; None if there is none (any more).

        What GitHub says of the run is asked, and never what the run itself left: that could name another one.

        Args:
            run: `workflow_run` of the event.
        """
        owner = str((run.get("head_repository") or {}).get("owner", {}).get("login", ""))
        found = self.get("/pulls", state="open", head=f"{owner}:{run['head_branch']}", per_page="100")
        return next((int(pull["number"]) for pull in found if pull["head"]["sha"] == run["head_sha"]), None)

    def seconds(self, run_id: int) -> dict[str, float]:
        """How long each finished job of a run took, by its name."""
        jobs = self.get(f"/actions/runs/{run_id}/jobs", per_page="100")["jobs"]
        return {str(job["name"]): _between(job) for job in jobs if job.get("started_at") and job.get("completed_at")}

    def _send(self, method: str, path: str, content: Mapping[str, Any] | None = None) -> Any:
        headers = {
            "Authorization": f"Bearer {self.token}",
            "Accept": "application/vnd.github+json",
            "X-GitHub-Api-Version": "2022-11-28",
            "Content-Type": "application/json",
        }
        address = f"{self.url}/repos/{self.repository}{path}"
        body = json.dumps(content).encode() if content is not None else None
        request = urllib.request.Request(address, body, headers, method=method)  # noqa: S310 (GitHub's own address)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
                return json.loads(answer.read(MAX_BYTES))
        except urllib.error.HTTPError as error:
            with error:
                raise GithubError(f"{method} {path}: GitHub answered {error.code}", error.code) from None
        except (OSError, ValueError) as error:
            raise GithubError(f"{method} {path}: GitHub does not answer: {type(error).__name__}") from None


def _between(job: Mapping[str, Any]) -> float:
    begun, ended = (datetime.fromisoformat(job[name]) for name in ("started_at", "completed_at"))
    return max((ended - begun).total_seconds(), 0.0)
