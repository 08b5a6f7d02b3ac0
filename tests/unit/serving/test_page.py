"""The page's files: what is served, under which rules, and that nothing in them leads elsewhere."""

import re
from html.parser import HTMLParser

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from serving.page import TYPES, routes

PATHS = ["/", "/page/app.js", "/page/icon.svg", "/page/style.css"]


@pytest.fixture
def client() -> TestClient:
    return TestClient(Starlette(routes=routes()))


class Elements(HTMLParser):
    """Every element of a page, with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def attributes(self, name: str) -> list[str]:
        return [attributes[name] or "" for _, attributes in self.found if name in attributes]


def page(client: TestClient) -> Elements:
    return Elements(client.get("/").text)


@pytest.mark.parametrize("path", PATHS)
def test_every_file_is_served_under_the_policy(client: TestClient, path: str) -> None:
    answer = client.get(path)
    policy = answer.headers["content-security-policy"]
    assert answer.status_code == 200
    assert policy.startswith("default-src 'self'; img-src 'self' data: blob:; ")
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_each_file_has_its_type(client: TestClient) -> None:
    assert {client.get(path).headers["content-type"] for path in PATHS} == set(TYPES.values())


@pytest.mark.parametrize(
    "path", ["/page/", "/page/page.py", "/page/../page.py", "/page/..%2fpage.py", "/page/index.html"]
)
def test_nothing_else_is_served(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_only_reading_is_allowed(client: TestClient) -> None:
    assert client.head("/").status_code == 200
    assert client.post("/").status_code == 405


@pytest.mark.parametrize("tag", ["{}", "W/{}", '"other", {}'])
def test_a_file_that_the_browser_has_is_not_sent_again(client: TestClient, tag: str) -> None:
    etag = client.get("/page/app.js").headers["etag"]
    again = client.get("/page/app.js", headers={"If-None-Match": tag.format(etag)})
    assert (again.status_code, again.content) == (304, b"")


def test_another_version_of_a_file_is_sent(client: TestClient) -> None:
    assert client.get("/page/app.js", headers={"If-None-Match": '"other"'}).status_code == 200


def test_what_the_page_loads_and_links_is_relative_and_is_there(client: TestClient) -> None:
    elements = page(client)
    loaded = [address for address in [*elements.attributes("src"), *elements.attributes("href")] if address]
    assert not [address for address in loaded if ":" in address or address.startswith("/")]
    assert {"docs", "openapi.json", "v1/model"} == {address for address in loaded if not address.startswith("page/")}
    assert all(client.get(f"/{address}").status_code == 200 for address in loaded if address.startswith("page/"))


def test_the_page_works_below_a_path() -> None:
    mounted = TestClient(Starlette(routes=[Mount("/models/one", routes=routes())]))
    assert mounted.get("/models/one/").status_code == 200
    assert mounted.get("/models/one/page/app.js").status_code == 200


@pytest.mark.parametrize("path", PATHS)
def test_no_file_names_another_server(client: TestClient, path: str) -> None:
    addresses = set(re.findall(r"(?:https?:)?//[a-z0-9][\w.-]*\.[a-z]+[^\s\"']*", client.get(path).text))
    assert addresses <= {"http://www.w3.org/2000/svg"}


def test_the_page_needs_nothing_that_the_policy_forbids(client: TestClient) -> None:
    elements = page(client)
    assert not [tag for tag, _ in elements.found if tag == "style"]
    assert all(attributes.get("src") for tag, attributes in elements.found if tag == "script")
    assert not [name for _, attributes in elements.found for name in attributes if name == "style" or name[:2] == "on"]


def test_text_from_outside_never_becomes_markup(client: TestClient) -> None:
    script = client.get("/page/app.js").text
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", script)


def test_the_camera_can_be_asked_for_a_picture(client: TestClient) -> None:
    captures = [attributes for _, attributes in page(client).found if "capture" in attributes]
    assert [(a["type"], a["accept"], a["capture"]) for a in captures] == [("file", "image/*", "environment")]


def test_every_control_has_a_name(client: TestClient) -> None:
    html = client.get("/").text
    buttons = re.findall(r"<button([^>]*)>(.*?)</button>", html, re.DOTALL)
    assert buttons
    assert all(text.strip() for _, text in buttons)
    visible = re.findall(r"<input(?![^>]*\bhidden\b)[^>]*>", html)
    assert all(re.search(rf"<label[^>]*>(?:(?!</label>).)*{re.escape(control)}", html) for control in visible)
