import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from starlette.routing import Route
from starlette.testclient import TestClient

from serving import openapi, page, problems
from serving.settings import Settings

from badinput import refused
from pictures import encoded, picture

if TYPE_CHECKING:
    from tests.unit.serving.conftest import Serve

JPEG = encoded(picture(2))


@pytest.fixture
def document(client: TestClient) -> dict[str, Any]:
    told: dict[str, Any] = client.get("/openapi.json").json()
    return told


def test_the_document_has_exactly_the_routes_there_are(client: TestClient, document: dict[str, Any]) -> None:
    routes = {r.path: r.methods or set() for r in client.app.routes if isinstance(r, Route)}  # type: ignore[attr-defined]
    ours = set(routes) - {route.path for route in page.routes()}
    assert set(document["paths"]) == ours
    for path in ours:
        assert {method.upper() for method in document["paths"][path]} == routes[path] - {"HEAD"}


def codes(document: dict[str, Any], path: str, method: str) -> set[tuple[int, str]]:
    """Status and code of each failure that the document tells."""
    failures = {
        status: told for status, told in document["paths"][path][method]["responses"].items() if status != "200"
    }
    return {
        (int(status), code)
        for status, told in failures.items()
        for code in told["content"]["application/json"]["schema"]["allOf"][1]["properties"]["error"]["properties"][
            "code"
        ]["enum"]
    }


def test_the_document_has_the_codes_that_a_prediction_can_have(document: dict[str, Any]) -> None:
    told = codes(document, "/v1/predict", "post")
    assert told == {(kind.status, kind.code) for kind in openapi.PREDICT_PROBLEMS}
    of_files = {(status, code) for _, status, code in refused().values()}
    elsewhere = {
        *((400, "bad_query"), (400, "bad_multipart"), (408, "slow_body"), (413, "too_large"), (413, "too_many_images")),
        *((415, "unsupported_media_type"), (503, "busy"), (503, "draining"), (504, "timeout")),
    }
    assert told == of_files | elsewhere  # each of which another test has an example of


def test_readiness_tells_why_not(document: dict[str, Any]) -> None:
    assert codes(document, "/v1/ready", "get") == {(503, "busy"), (503, "draining")}
    assert document["paths"]["/v1/ready"]["get"]["responses"]["503"]["headers"].keys() == {"Retry-After"}


def test_an_answer_has_the_fields_that_the_document_tells(client: TestClient, document: dict[str, Any]) -> None:
    answer = client.post("/v1/predict?explain=1", content=JPEG).json()
    check(document, answer, "Prediction", optional={"heatmap"})
    check(document, client.get("/v1/model").json(), "Model")
    check(document, client.post("/v1/predict").json(), "Error")


def check(document: dict[str, Any], value: dict[str, Any], name: str, optional: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    schema = document["components"]["schemas"][name]
    assert set(value) == set(schema["properties"])
    assert set(schema["required"]) == set(value) - optional


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    text = json.dumps(document)
    named = {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]}
    assert named == set(document["components"]["schemas"])


def test_the_limits_are_those_of_the_service(serve: "Serve") -> None:
    document = serve(max_pixels=1234, top_k=3).get("/openapi.json").json()
    operation = document["paths"]["/v1/predict"]["post"]
    assert "1,234 pixels" in operation["description"]
    assert operation["parameters"][0]["schema"]["default"] == 3


def test_the_docs_load_nothing(client: TestClient) -> None:
    answer = client.get("/docs")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "src=" not in answer.text
    assert "://" not in answer.text
    for path in openapi.document(Settings(), ["a", "b"])["paths"]:
        assert path in answer.text


def test_codes_are_unique_and_in_order() -> None:
    assert len({kind.code for kind in problems.KINDS}) == len(problems.KINDS)
    assert [kind.status for kind in problems.KINDS] == sorted(kind.status for kind in problems.KINDS)


def test_the_readme_tells_every_code() -> None:
    rows = [f"| {kind.status} | `{kind.code}` | {kind.meaning} |" for kind in problems.KINDS]
    text = Path(problems.__file__).with_name("README.md").read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if line.startswith(("| 4", "| 5"))] == rows
