"""The service against its own OpenAPI document: schemathesis makes the requests, and judges every answer by it."""

from typing import TYPE_CHECKING

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import positive_data_acceptance

from badinput import refused, unusual

if TYPE_CHECKING:
    from tests.unit.serving.conftest import Serve

FILES = [*(data for data, _, _ in refused().values() if len(data) < 10_000), *unusual().values()]
BODIES = st.one_of(st.sampled_from(FILES), st.binary(max_size=100))
STATUSES = {200, 400, 413, 415, 422}
"""That the bodies and queries below lead to; the others are about time and load."""


@pytest.fixture
def document(serve: "Serve") -> schemathesis.BaseSchema:
    for media_type in ("image/jpeg", "image/png", "image/webp", "image/bmp", "application/octet-stream"):
        schemathesis.openapi.media_type(media_type, BODIES)
    return schemathesis.openapi.from_asgi("/openapi.json", serve(timeout_s=60).app)


def statuses(operation: schemathesis.APIOperation, mode: schemathesis.GenerationMode, examples: int) -> set[int]:
    """Of the answers to so many requests, each of which is what the document says it may be."""
    seen: set[int] = set()

    @settings(max_examples=examples, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(operation.as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case) -> None:
        # That whatever has the right type is accepted is more than a document can promise of images.
        answer = case.call_and_validate(excluded_checks=[positive_data_acceptance])
        seen.add(answer.status_code)

    ask()
    return seen


def test_every_answer_is_as_the_document_says(document: schemathesis.BaseSchema) -> None:
    operations = {found.ok().path: found.ok() for found in document.get_all_operations()}
    predict = operations.pop("/v1/predict")
    assert statuses(predict, schemathesis.GenerationMode.POSITIVE, 600) == STATUSES
    for operation in operations.values():
        assert statuses(operation, schemathesis.GenerationMode.POSITIVE, 5) == {200}


def test_what_the_document_does_not_allow_is_refused_as_it_says(document: schemathesis.BaseSchema) -> None:
    predict = document["/v1/predict"]["POST"]
    assert statuses(predict, schemathesis.GenerationMode.NEGATIVE, 60) <= STATUSES - {200}
