"""How the error of a step in a pod is told where the run was started."""

import pytest

pytest.importorskip("zenml", reason="needs the extra pipelines")

from zenml.models import ExceptionInfo

from stacks.ending import raised


@pytest.mark.parametrize(
    ("source", "message", "told", "code"),
    [
        ("assay.errors.ExpectationsFailed", "min_per_class: 3 < 9", "min_per_class: 3 < 9", 3),
        ("assay.promised.PromiseBroken", "gpu_count asks for 1", "gpu_count asks for 1", 2),
        ("builtins.ValueError", "two\nlines", "ValueError: two lines", 2),
        (None, "no source", "no source", 2),
    ],
)
def test_an_error_of_ours_is_told_as_it_was_and_another_with_its_name(
    source: str | None, message: str, told: str, code: int
) -> None:
    error = raised(ExceptionInfo(traceback="…", source=source, message=message))
    assert (str(error), error.exit_code) == (told, code)


def test_an_error_without_a_message_is_told_by_the_end_of_its_traceback() -> None:
    info = ExceptionInfo(traceback="Traceback …\n  File …\nMemoryError\n", source="builtins.MemoryError")
    assert str(raised(info)) == "MemoryError: MemoryError"
