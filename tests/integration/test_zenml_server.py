"""ZenML's server refuses, is gone, or is another one: a person reads one line of it, and what to do."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from person import Person, person
from team import JWT_SECRET, PASSWORD, USER, free_ports, zenml_server

pytestmark = pytest.mark.long

DEMO = Path(__file__).parents[2] / "configs" / "demo.yaml"
OLDER = "0.1.0"

EXPIRED = """
import sys
from datetime import datetime, timedelta, timezone
from uuid import UUID
from zenml.zen_server.jwt import JWTToken
print(JWTToken(user_id=UUID(sys.argv[1])).encode(expires=datetime.now(timezone.utc) - timedelta(hours=1)))
"""


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that says of itself that it is older than we are."""
    with zenml_server(tmp_path_factory.mktemp("zenml"), version=OLDER) as url:
        yield url


@pytest.fixture
def somebody(older: str, tmp_path: Path) -> Person:
    return person(tmp_path, ZENML_STORE_URL=older, ZENML_STORE_USERNAME=USER, ZENML_STORE_PASSWORD=PASSWORD)


def test_a_token_that_has_expired(older: str, somebody: Person, tmp_path: Path) -> None:
    asked = somebody.good(module="from zenml.client import Client; print(Client().active_user.id)")
    told = refusal(tmp_path, ZENML_STORE_URL=older, ZENML_STORE_API_TOKEN=expired(asked.split()[-1], tmp_path))
    assert told == (
        f"assay: ZenML at {older} refuses the credentials, or they have expired: "
        f"renew ZENML_STORE_API_KEY, or `zenml login {older}`"
    )


def test_an_account_that_it_does_not_know(older: str, tmp_path: Path) -> None:
    credentials = {"ZENML_STORE_USERNAME": USER, "ZENML_STORE_PASSWORD": "wrong"}
    assert "refuses the credentials" in refusal(tmp_path, ZENML_STORE_URL=older, **credentials)


def test_nobody_is_there(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    told = refusal(tmp_path, ZENML_STORE_URL=url, ZENML_STORE_USERNAME=USER, ZENML_STORE_PASSWORD=PASSWORD)
    assert told.startswith(f"assay: ZenML at {url} does not answer: ")
    assert told.endswith("refused; start it, or mend ZENML_STORE_URL")


def test_the_doctor_finds_another_version(older: str, somebody: Person) -> None:
    done = somebody.run("stack", "doctor", "--json")
    server = next(finding for finding in json.loads(done.stdout)["findings"] if finding["what"] == "zenml")
    assert (done.returncode, server["state"]) == (1, "fault")
    assert f"{older}, {OLDER}; here it is " in server["detail"]


def test_a_run_on_another_version_says_so_first(older: str, somebody: Person) -> None:
    greeted = somebody.run(module="import pipelines.run as r; r.greet()")
    assert (greeted.returncode, greeted.stdout) == (0, "")
    assert f"zenml     {older} is {OLDER}, here it is " in greeted.stderr
    assert "use one version" in greeted.stderr


def expired(user: str, folder: Path) -> str:
    """A token that the server gave, if it had given it two hours ago."""
    environment = {**os.environ, "ZENML_SERVER": "true", "ZENML_SERVER_JWT_SECRET_KEY": JWT_SECRET}
    environment |= {"ZENML_CONFIG_PATH": str(folder / "server")}
    command = [sys.executable, "-c", EXPIRED, user]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()[-1]


def refusal(folder: Path, **environment: str) -> str:
    """What a training says that cannot begin."""
    (folder / "stranger").mkdir()
    return person(folder / "stranger", **environment).refused(DEMO)
