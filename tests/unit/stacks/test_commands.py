"""`assay stack` and `assay schedule`, as far as they go without a server."""

import pytest
from click.testing import CliRunner

pytest.importorskip("zenml", reason="needs the extra pipelines")

from stacks.commands import schedule, stack
from stacks.errors import StackError


@pytest.mark.parametrize(("group", "commands"), [(stack, "apply doctor list"), (schedule, "add list remove")])
def test_each_command_explains_itself_with_an_example(group: object, commands: str) -> None:
    for command in commands.split():
        told = CliRunner().invoke(group, [command, "--help"])  # type: ignore[arg-type]
        assert told.exit_code == 0
        if command != "list":
            assert "Examples:" in told.output


def test_what_is_wrong_is_told_before_anything_is_asked_of_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZENML_STORE_URL", "http://127.0.0.1:9")
    for group, words, told in (
        (stack, ["apply", "kubflow"], "no stack 'kubflow'"),
        (schedule, ["add", "configs/demo.yaml", "--cron", "daily"], "five fields"),
    ):
        result = CliRunner().invoke(group, words)
        assert isinstance(result.exception, StackError)
        assert told in str(result.exception)
