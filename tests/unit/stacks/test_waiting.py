"""A run on Kubeflow outlasts a server that is gone for a while; whoever waits for it does, too."""

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("kfp", reason="needs the extra kubeflow")

from kfp_server_api.exceptions import ApiException

from stacks import kubeflow_orchestrator
from stacks.errors import StackError
from stacks.kubeflow_orchestrator import wait


class Client:
    """Says one thing after the other; a real server cannot be made to break a connection at a given call."""

    def __init__(self, *answers: str | Exception) -> None:
        self.answers = list(answers)

    def get_run(self, run: str) -> Any:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(run_id=run, state=answer, run_details=None)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubeflow_orchestrator, "POLL_S", 0.0)


def test_a_server_that_comes_back_is_waited_for() -> None:
    client = Client("RUNNING", ConnectionResetError("gone"), ApiException(503), "RUNNING", "SUCCEEDED")
    wait(client, "run-1", 60, None)  # type: ignore[arg-type]
    assert not client.answers


def test_one_that_does_not_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubeflow_orchestrator, "PATIENCE_S", -1.0)
    with pytest.raises(StackError, match=r"^the run run-1 goes on, and its servers do not answer: gone$"):
        wait(Client(ConnectionResetError("gone")), "run-1", 60, None)  # type: ignore[arg-type]


def test_a_run_that_failed_is_named_with_its_step() -> None:
    failed = SimpleNamespace(display_name="train", state="FAILED")
    details = SimpleNamespace(task_details=[SimpleNamespace(display_name="root", state="FAILED"), failed])
    client = SimpleNamespace(get_run=lambda run: SimpleNamespace(run_id=run, state="FAILED", run_details=details))
    with pytest.raises(StackError, match=r"^step train: its container ended without a word"):
        wait(client, "run-1", 60, None)  # type: ignore[arg-type]


def test_a_run_that_takes_too_long_is_left_to_itself() -> None:
    with pytest.raises(StackError, match=r"goes on after -1 s; settings\.orchestrator\.timeout"):
        wait(Client("RUNNING"), "run-1", -1, None)  # type: ignore[arg-type]
