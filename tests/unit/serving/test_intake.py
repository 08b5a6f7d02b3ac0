from typing import TYPE_CHECKING

import pytest
from PIL import Image
from starlette.testclient import TestClient

from serving import intake

from badinput import refused
from pictures import encoded, picture

if TYPE_CHECKING:
    from tests.unit.serving.conftest import Serve

JPEG = encoded(picture(2))
FORM = "multipart/form-data; boundary=x"


def code(client: TestClient, content: bytes, content_type: str | None = None) -> tuple[int, str | None]:
    """Status and code of the answer; None for no error. A good image must be answered next."""
    headers = {} if content_type is None else {"Content-Type": content_type}
    answer = client.post("/v1/predict", content=content, headers=headers)
    assert client.post("/v1/predict", content=JPEG).status_code == 200
    return answer.status_code, answer.json().get("error", {}).get("code")


@pytest.mark.parametrize("name", refused())
def test_bad_input_is_refused_as_a_body_and_in_a_form(client: TestClient, name: str) -> None:
    data, status, expected = refused()[name]
    assert code(client, data) == (status, expected)
    form = client.post("/v1/predict", files=[("f", ("a.jpg", data, "image/jpeg"))])
    assert (form.status_code, form.json()["error"]["code"]) == (status, expected)


@pytest.mark.parametrize(
    "content_type", [None, "", "image/jpg", "image/png", "image/jpeg; x=y", "IMAGE/JPEG", *intake.RAW]
)
def test_an_image_is_told_by_its_content(client: TestClient, content_type: str | None) -> None:
    assert code(client, JPEG, content_type) == (200, None)


@pytest.mark.parametrize(
    "content_type",
    ["application/vnd.bentoml+pickle", "application/json", "text/plain", "multipart/mixed; boundary=x", "x" * 300, "/"],
)
def test_other_content_types_are_refused(client: TestClient, content_type: str) -> None:
    assert code(client, JPEG, content_type) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b""),
        ("multipart/form-data", b"--x--"),
        ("multipart/form-data; boundary=", b"--x--"),
        (f"multipart/form-data; boundary={'x' * 300}", b"--x--"),
        (FORM, b"no form"),
        (FORM, b"--y\r\n\r\n--y--"),
        (FORM, b"--x\r\nContent-Disposition: form-data\r\n\r\nx\r\n--x--\r\n"),
        (FORM, b'--x\r\nContent-Disposition: form-data; name="f"\r\n\r\nhttp://x\r\n--x--\r\n'),
        (FORM, b"--x\r\n" + b"A: b\r\n" * 100 + b"\r\n\r\n--x--\r\n"),
        (
            FORM + "; charset=idna",
            b'--x\r\nContent-Disposition: form-data; name="\xff."; filename="a"\r\n\r\n\r\n--x--',
        ),
    ],
)
def test_a_broken_form_is_refused(client: TestClient, content_type: str, body: bytes) -> None:
    status, told = code(client, body, content_type)
    assert (status, told) in [(400, "bad_multipart"), (400, "empty_body")]


@pytest.mark.parametrize("files", [1, 2])
def test_a_form_that_ends_too_soon_is_refused(client: TestClient, files: int) -> None:
    one = b'--x\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n' + JPEG
    assert code(client, b"\r\n".join([one] * files), FORM) == (400, "bad_multipart")


def test_a_form_without_files_is_empty(client: TestClient) -> None:
    assert code(client, b"--x--\r\n", FORM) == (400, "empty_body")


def test_a_field_that_is_no_file_is_refused_with_a_hint(client: TestClient) -> None:
    error = client.post("/v1/predict", files={"f": ("a", JPEG)}, data={"top_k": "1"}).json()["error"]
    assert error["code"] == "bad_multipart"
    assert "options belong in the query" in error["message"]


def test_files_of_a_form_are_counted(serve: "Serve") -> None:
    client = serve(max_images=2)
    files = [("f", (str(number), JPEG)) for number in range(4)]
    assert client.post("/v1/predict", files=files[:2]).status_code == 200
    error = client.post("/v1/predict", files=files).json()["error"]
    assert (error["code"], error["limit"]) == ("too_many_images", 2)


def test_a_large_file_in_a_form_stays_in_memory(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.SpooledTemporaryFile.rollover", lambda _: pytest.fail("written to disk"))
    data = encoded(Image.effect_noise((1200, 1200), 90), "BMP")
    assert len(data) > 2**20
    assert client.post("/v1/predict", files={"f": ("a", data)}).status_code == 200


@pytest.mark.parametrize("form", [False, True])
def test_bytes_are_counted_as_they_arrive(serve: "Serve", form: bool) -> None:
    client = serve(max_body_bytes=1000, max_held_bytes=1000)
    sent = {"files": {"f": ("a", bytes(2000))}} if form else {"content": bytes(2000)}
    error = client.post("/v1/predict", **sent).json()["error"]
    assert (error["code"], error["limit"]) == ("too_large", 1000)


def test_more_bytes_than_can_be_held_are_for_later(serve: "Serve") -> None:
    client = serve(max_held_bytes=1000)
    answers = [client.post("/v1/predict", content=bytes(size)) for size in (2000, 900)]
    assert [a.json()["error"]["code"] for a in answers] == ["busy", "unsupported_image"]


def test_pixels_are_counted_before_they_are_decoded(serve: "Serve", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _: pytest.fail("decoded"))
    error = serve(max_pixels=4095).post("/v1/predict", content=JPEG).json()["error"]
    assert (error["code"], error["limit"]) == ("too_many_pixels", 4095)


def test_animations_can_be_let_in(serve: "Serve") -> None:
    client = serve(max_frames=3)
    for name in ("animated png", "animated webp"):
        assert client.post("/v1/predict", content=refused()[name][0]).status_code == 200


def test_held_bytes_are_given_back() -> None:
    held = intake.Held(100)
    with held.request() as take:
        take(60)
        assert held.now == 60
    assert held.now == 0
