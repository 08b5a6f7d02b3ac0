import base64
import io
import json
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from assay.data.measure import measure
from assay.models.predictor import Predictor
from serving.heatmap import pictures
from serving.model import ModelInfo

from badinput import unusual
from pictures import encoded, picture
from toybundle import LABELS

if TYPE_CHECKING:
    from tests.unit.serving.conftest import Record, Serve

JPEG = encoded(picture(2))


def test_an_image_is_answered(client: TestClient, loaded: tuple[Predictor, ModelInfo]) -> None:
    answer = client.post("/v1/predict", content=JPEG)
    assert answer.status_code == 200
    told = answer.json()
    assert list(told) == ["label", "probabilities", "abstained", "threshold", "model", "milliseconds"]
    assert told["threshold"] == 0.6
    assert told["model"] == loaded[1].identity
    assert 0 < told["milliseconds"]["decode"] + told["milliseconds"]["inference"] <= told["milliseconds"]["total"]
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("name", unusual())
def test_the_answer_is_exactly_that_of_the_predictor(
    name: str, client: TestClient, loaded: tuple[Predictor, ModelInfo]
) -> None:
    expected = loaded[0].classify(unusual()[name])
    told = client.post("/v1/predict", content=unusual()[name]).json()
    assert (told["label"], told["abstained"]) == (expected.label, expected.abstained)
    assert told["probabilities"] == expected.probabilities


def test_abstention_is_told(client: TestClient, loaded: tuple[Predictor, ModelInfo]) -> None:
    grey = encoded(Image.new("RGB", (8, 8), "grey"), "PNG")
    assert loaded[0].classify(grey).abstained
    assert client.post("/v1/predict", content=grey).json()["abstained"]


def test_the_highest_probabilities_come_first(client: TestClient) -> None:
    told = client.post("/v1/predict?top_k=2", content=JPEG).json()["probabilities"]
    assert len(told) == 2
    assert list(told.values()) == sorted(told.values(), reverse=True)


def test_how_many_probabilities_are_told_can_be_set(serve: "Serve") -> None:
    client = serve(top_k=1)
    assert len(client.post("/v1/predict", content=JPEG).json()["probabilities"]) == 1
    assert len(client.post("/v1/predict?top_k=99", content=JPEG).json()["probabilities"]) == len(LABELS)


@pytest.mark.parametrize(
    "query", ["top_k=0", "top_k=-1", "top_k=x", "top_k=", "top_k=1e3", "top_k=٣", "explain=maybe", "url=http://x"]
)
def test_a_wrong_query_is_refused(client: TestClient, query: str) -> None:
    answer = client.post(f"/v1/predict?{query}", content=JPEG)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_query")


def test_several_images_are_answered_in_their_order(client: TestClient) -> None:
    blue, red = (encoded(Image.new("RGB", (8, 8), colour), "PNG") for colour in ("blue", "red"))
    answer = client.post("/v1/predict", files=[("a", ("x", blue)), ("a", ("x", red)), ("b", ("y", blue))])
    assert [one["label"] for one in answer.json()["predictions"]] == ["blue", "red", "blue"]


def test_a_form_with_one_image_is_answered_as_the_image(client: TestClient) -> None:
    answer = client.post("/v1/predict", files={"any": ("n" * 300, JPEG, "text/plain")}).json()
    plain = client.post("/v1/predict", content=JPEG).json()
    assert {**answer, "milliseconds": 0} == {**plain, "milliseconds": 0}


def test_of_several_the_wrong_one_is_named(client: TestClient) -> None:
    files = [("f", ("a", JPEG)), ("f", ("b", JPEG[:300]))]
    error = client.post("/v1/predict", files=files).json()["error"]
    assert error == {"code": "unreadable_image", "message": "image 2: broken or truncated JPEG"}


def test_an_explanation_is_a_picture_of_what_the_model_saw(client: TestClient) -> None:
    told = client.post("/v1/predict?explain=true", content=JPEG).json()
    assert list(told["milliseconds"]) == ["decode", "inference", "explain", "total"]
    kind, _, data = told["heatmap"].partition(",")
    assert kind == "data:image/png;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (4, 4)


@pytest.mark.parametrize(("images", "least", "most"), [(1, pictures(4), pictures(4)), (2, pictures(2), pictures(4))])
def test_an_explanation_of_a_slow_model_is_coarser_and_in_time(
    serve: "Serve", monkeypatch: pytest.MonkeyPatch, images: int, least: int, most: int
) -> None:
    asked, plain = [0], Predictor.probabilities

    def slow(self: Predictor, pixels: np.ndarray) -> np.ndarray:
        asked[0] += len(pixels)
        time.sleep(0.05 * len(pixels))
        return plain(self, pixels)

    monkeypatch.setattr(Predictor, "probabilities", slow)
    files = [("f", (str(number), JPEG)) for number in range(images)]
    assert serve(timeout_s=5).post("/v1/predict?explain=true", files=files).status_code == 200
    assert images * (1 + least) <= asked[0] <= images * (1 + most)


def test_the_explanation_alone_can_be_had(client: TestClient) -> None:
    answer = client.post("/v1/predict?explain=1", content=JPEG, headers={"Accept": "image/png"})
    assert answer.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(answer.content)).size == (4, 4)


def test_without_an_explanation_a_picture_cannot_be_had(client: TestClient) -> None:
    answer = client.post("/v1/predict", content=JPEG, headers={"Accept": "image/png"})
    assert answer.headers["content-type"] == "application/json"


def test_the_model_is_described(client: TestClient, loaded: tuple[Predictor, ModelInfo]) -> None:
    told = client.get("/v1/model").json()
    assert (told["name"], told["digest"]) == ("colours", loaded[0].bundle.digest)
    assert told["labels"] == list(LABELS)
    assert told["geometry"] == {"size": 4, "fit": "squash"}
    assert told["abstention"] == {"coverage": 0.9, "threshold": 0.6}
    assert told["lineage"]["data_digest"] == "d"
    assert told["card"] == "# Colours\n"
    assert told["runtime"].startswith("onnxruntime 1.")
    assert told["limits"]["max_body_bytes"] == 20_000_000


def test_it_lives_and_is_ready_until_it_drains(client: TestClient, record: "Record") -> None:
    assert client.get("/v1/live").json() == {"live": True}
    assert client.get("/v1/ready").json() == {"ready": True}
    client.app.state.engine.drain()  # type: ignore[attr-defined]
    answers = [client.get("/v1/ready"), client.post("/v1/predict", content=JPEG)]
    assert [(a.status_code, a.json()["error"]["code"]) for a in answers] == [(503, "draining")] * 2
    assert answers[0].headers["retry-after"] == "1"
    assert client.get("/v1/live").status_code == 200
    assert record.of("ready") == [[True], [False]]


def test_metrics_are_shown(client: TestClient) -> None:
    answer = client.get("/v1/metrics")
    assert answer.text == "assay_queue_waiting 0\n"
    assert answer.headers["content-type"] == "text/plain; version=1.0.0; charset=utf-8"


@pytest.mark.parametrize("path", ["/nowhere", "/v1/predict/", "/v1", "/v1/predict/../../etc/passwd", "/%00"])
def test_an_unknown_path_is_told_as_json(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"), [("GET", "/v1/predict", {"POST"}), ("PUT", "/v1/model", {"GET", "HEAD"})]
)
def test_a_wrong_method_is_told_as_json(client: TestClient, method: str, path: str, allowed: set[str]) -> None:
    answer = client.request(method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")
    assert set(answer.headers["allow"].split(", ")) == allowed


def test_what_was_seen_and_said_is_counted(client: TestClient, record: "Record") -> None:
    told = client.post("/v1/predict", content=JPEG).json()
    assert record.of("stage") == [["decode"], ["inference"]]
    assert record.of("predicted") == [[told["label"], told["probabilities"][told["label"]], told["abstained"]]]
    (data, pixels, row, label, abstained, size), *others = record.of("observe")
    assert (data, label, abstained, size, others) == (JPEG, told["label"], told["abstained"], (64, 64), [])
    assert dict(zip(LABELS, row.tolist(), strict=True)) == told["probabilities"]
    measured = measure(np.asarray(pixels))
    assert record.of("pictured") == [[measured.brightness, measured.contrast, 64, 64]]


def test_every_answer_is_counted_under_a_known_route(client: TestClient, record: "Record") -> None:
    client.post("/v1/predict", content=JPEG)
    client.post("/v1/predict", files=[("f", ("a", JPEG)), ("f", ("b", JPEG))])
    client.post("/v1/predict", content=b"text")
    for path in ("/v1/model", "/v1/live", "/v1/metrics", "/docs", "/openapi.json", "/", "/x", "/y"):
        client.get(path)
    client.delete("/v1/model")
    counted = [["predict", 200], ["batch", 200], ["predict", 415], ["model", 200], ["health", 200], ["metrics", 200]]
    counted += [["docs", 200], ["docs", 200], ["page", 200], ["other", 404], ["other", 404], ["model", 405]]
    assert record.of("answered") == counted


def test_a_defect_is_told_and_logged_once(
    client: TestClient, record: "Record", monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(Predictor, "probabilities", fail)
    answer = client.post("/v1/predict", content=JPEG)
    assert answer.json() == {"error": {"code": "defect", "message": "a defect of the service"}}
    assert record.of("answered") == [["predict", 500]]
    assert [entry.getMessage() for entry in caplog.records if entry.name == "assay.serving"] == [
        "defect in POST predict"
    ]


def test_the_numbers_of_an_answer_are_json(client: TestClient) -> None:
    text = client.post("/v1/predict", content=JPEG).text
    assert json.loads(text, parse_constant=pytest.fail)
