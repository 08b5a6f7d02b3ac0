"""Tell a chat what happened: a verdict, a promotion, a rollback, a failure, by one webhook.

It is for people who are not looking, and nothing else hangs on it: a webhook that fails, refuses or hangs is told on
standard error and is no failure of whoever notifies. The standard library is all it takes, so that it also works on a
machine where nothing is installed: `python3 src/assay/notify.py --help`.
"""

import argparse
import json
import os
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal, get_args

URL = "ASSAY_WEBHOOK_URL"
PATIENCE_S = 5.0
"""Nobody waits longer for a webhook."""
MAX_TEXT = 300
"""Characters of one value; a chat is no log."""

What = Literal["verdict", "promotion", "rollback", "failure"]
SIGNS = {"verdict": "⚖️", "promotion": "🚀", "rollback": "↩️", "failure": "🔥"}


@dataclass(frozen=True)
class News:
    """Something that happened; what is not known is empty."""

    what: What
    use_case: str
    version: str = ""
    verdict: str = ""
    """What the gate said."""
    environment: str = ""
    reason: str = ""
    """Why it was done, or what went wrong: one sentence."""
    link: str = ""
    """Where to look; by default the run of the workflow that this process belongs to."""


def notify(news: News, patience_s: float = PATIENCE_S) -> bool:
    """Send news to `$ASSAY_WEBHOOK_URL`; whether it was taken. Without a webhook nothing happens; nothing is raised.

    Args:
        news: what happened.
        patience_s: how long to wait at most, in all.
    """
    url = os.environ.get(URL, "")
    if not url:
        return False
    problems: list[str] = ["no answer in time"]
    # A socket's time limit is one of each wait: who sends a byte now and then would keep us for hours.
    sender = threading.Thread(target=_send, args=(url, message(news), patience_s, problems), daemon=True)
    sender.start()
    sender.join(patience_s)
    if problem := problems[-1]:
        print(f"notify    nobody was told: {problem}", file=sys.stderr)  # never the address, which is a secret
    return not problem


def message(news: News) -> dict[str, str]:
    """What is sent as JSON: `text` for Slack, Mattermost and the like, and each value by itself for any other."""
    known = {field.name: _line(getattr(news, field.name)) for field in fields(news)}
    known["link"] = known["link"] or run_link()
    return {"text": text(News(**known))} | {name: value for name, value in known.items() if value}  # type: ignore[arg-type]


def text(news: News) -> str:
    """One or two lines in Slack's markup."""
    version = f" {news.use_case}@{news.version}" if news.version else f" {news.use_case}"
    where = f" → {news.environment}" if news.environment else ""
    verdict = f": {news.verdict}" if news.verdict else ""
    first = f"{SIGNS[news.what]} {news.what}{_plain(version + where + verdict)}"
    lines = [first, *([_plain(news.reason)] if news.reason else []), *([f"<{_url(news.link)}>"] if news.link else [])]
    return "\n".join(lines)


def run_link() -> str:
    """The page of the GitHub run that this process belongs to; empty elsewhere."""
    server, repository, run = (os.environ.get(f"GITHUB_{name}", "") for name in ("SERVER_URL", "REPOSITORY", "RUN_ID"))
    return f"{server}/{repository}/actions/runs/{run}" if server and repository and run else ""


def _send(url: str, content: dict[str, str], patience_s: float, problems: list[str]) -> None:
    """The last of `problems` says how it went; nothing, if it went well."""
    try:
        if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
            raise ValueError(f"{URL} is no http or https address")
        body = json.dumps(content, ensure_ascii=False).encode()
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310 (checked above)
        with urllib.request.urlopen(request, timeout=patience_s):  # noqa: S310
            problems.append("")
    except urllib.error.HTTPError as error:
        problems.append(f"the webhook answered {error.code}")
        error.close()
    except urllib.error.URLError as error:
        problems.append(f"the webhook cannot be reached: {type(error.reason).__name__}")
    except Exception as error:  # whatever it is, the work that it tells of is done
        told = str(error) if isinstance(error, ValueError) and URL in str(error) else type(error).__name__
        problems.append(f"the webhook failed: {told}")


def _line(value: str) -> str:
    """One line that can be printed, of a bounded length."""
    plain = "".join(char if char.isprintable() else " " for char in str(value))
    return plain if len(plain) <= MAX_TEXT else f"{plain[: MAX_TEXT - 1]}…"


def _plain(value: str) -> str:
    """As Slack asks for it: without these three nobody is mentioned, and nothing becomes a link."""
    return value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _url(value: str) -> str:
    return _plain(urllib.parse.quote(value, safe=":/?#[]@!$&'()*+,;=%~"))


def main(arguments: Sequence[str] | None = None) -> int:
    """`notify.py failure --use-case demo`; the exit code is 0 whatever becomes of the message."""
    parser = argparse.ArgumentParser(description=notify.__doc__.splitlines()[0] if notify.__doc__ else "")
    parser.add_argument("what", choices=get_args(What))
    for name in ("use-case", "version", "verdict", "environment", "reason", "link"):
        parser.add_argument(f"--{name}", default="", required=name == "use-case")
    notify(News(**vars(parser.parse_args(arguments))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
