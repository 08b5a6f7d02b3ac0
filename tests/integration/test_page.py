"""The page in a real browser: headless Chromium, driven over its DevTools protocol, against a small real server."""

import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from assay.preprocess import Geometry, Unreadable, decode
from serving.app import create_app
from serving.heatmap import heatmap, overlay
from serving.metrics import Metrics
from serving.model import load
from serving.observation import Observer
from serving.page import routes
from serving.settings import Settings

from pictures import encoded
from toybundle import toy_bundle

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")]

PATIENCE_S = 30
LABELS = ("crack", "intact", "joint", "stain", "<b>wet</b>", "paint")
LIMIT = 200_000


# The server -----------------------------------------------------------------------------------------------------------


def probabilities(pictures: np.ndarray) -> np.ndarray:
    """The darker the darkest place, the more a crack; what is left is shared by the rest, most to `intact`."""
    crack = 1 / (1 + np.exp(pictures.min(axis=(1, 2, 3)) / 8.0 - 8))
    rest = np.array([0.9, 0.05, 0.03, 0.015, 0.005])
    return np.concatenate([crack[:, None], (1 - crack)[:, None] * rest], axis=1).astype(np.float32)


@dataclass
class Toy:
    """What the API answers, and what it has been asked."""

    fit: Any = "squash"
    busy: int = 0
    """How many requests are still to be turned away."""
    broken: bool = False
    """Whether it answers with something that is no JSON."""
    silent: bool = False
    """Whether it says nothing of its model."""
    asked: list[str] = field(default_factory=list)
    """Content type and query of each request."""
    at_once: int = 0
    most_at_once: int = 0
    address: str = ""

    def routes(self) -> list[Route]:
        model, predict = Route("/v1/model", self.model), Route("/v1/predict", self.predict, methods=["POST"])
        return [*routes(), model, predict]

    def model(self, request: Request) -> Response:
        if self.silent:
            return JSONResponse({"error": {"code": "draining", "message": "the service is shutting down"}}, 503)
        limits = {"max_body_bytes": LIMIT}
        identity = {"name": "surfaces", "version": "7", "digest": "0123456789abcdef" * 4}
        return JSONResponse({**identity, "labels": LABELS, "geometry": {"size": 64, "fit": self.fit}, "limits": limits})

    async def predict(self, request: Request) -> Response:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.asked.append(f"{request.headers['content-type']}?{request.url.query}")
        try:
            return self._answer(await request.body(), "explain=true" in request.url.query)
        except Unreadable as error:
            return JSONResponse({"error": {"code": "unsupported_image", "message": error.reason}}, 415)
        finally:
            self.at_once -= 1

    def _answer(self, data: bytes, explain: bool) -> Response:
        if self.broken:
            return Response("<h1>Bad gateway</h1>", 502)
        if self.busy:
            self.busy -= 1
            problem = {"code": "busy", "message": "64 requests are waiting, no more may"}
            return JSONResponse({"error": problem}, 503, {"Retry-After": "0"})
        pixels = decode(data, Geometry(64, self.fit))
        row = probabilities(pixels[np.newaxis])[0]
        best = int(row.argmax())
        answer: dict[str, Any] = {
            "label": LABELS[best],
            "probabilities": dict(zip(LABELS, row.tolist(), strict=True)),
            "abstained": bool((row >= 0.7).sum() != 1),
            "threshold": 0.7,
            "model": {"name": "surfaces", "version": "7", "digest": "0123456789abcdef" * 4},
            "milliseconds": {"decode": 1.25, "inference": 12.5, "explain": 1200.0, "total": 1234.0},
        }
        if explain:
            png = overlay(pixels, heatmap(probabilities, pixels, best))
            answer["heatmap"] = f"data:image/png;base64,{base64.b64encode(png).decode()}"
        return JSONResponse(answer)


@pytest.fixture
def toy() -> Iterator[Toy]:
    """A server of its own for each test, on a free port."""
    toy = Toy()
    with running(Starlette(routes=toy.routes())) as toy.address:
        yield toy


@contextmanager
def running(app: Starlette) -> Iterator[str]:
    """The address of a server of this application on a free port, while the block runs."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", ws="none", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(PATIENCE_S)


def until(condition: Any) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {condition}"
        time.sleep(0.02)


# The browser ----------------------------------------------------------------------------------------------------------


class Browser:
    """A headless Chromium that speaks DevTools over two pipes: it ends itself when this process does."""

    def __init__(self, profile: Path) -> None:
        self.events: list[dict[str, Any]] = []
        self._numbers = itertools.count(1)
        self._buffer = b""
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        # Above 9, so that 3 and 4, where Chromium looks for them, do not overwrite one another.
        high = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (theirs_in, theirs_out)]
        place = f'exec "$@" 3<&{high[0]} 4>&{high[1]}'
        command = ["bash", "-c", place, "bash", str(CHROMIUM), *self._flags(profile)]
        with (profile / "log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, pass_fds=high, start_new_session=True)
        for end in (theirs_in, theirs_out, *high):
            os.close(end)

    @staticmethod
    def _flags(profile: Path) -> list[str]:
        quiet = ["background-networking", "component-update", "sync", "gpu", "quic", "dev-shm-usage"]
        flags = ["--headless", "--no-first-run", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        return [*flags, *(f"--disable-{name}" for name in quiet), *root, "about:blank"]

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its result; what else is told meanwhile is kept in `events`."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params, **({"sessionId": session} if session else {})}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != number:
            self.events.append(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return dict(answer["result"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            assert select.select([self._in], [], [], PATIENCE_S)[0], "Chromium does not answer"
            piece = os.read(self._in, 2**20)
            assert piece, "Chromium has ended"
            self._buffer += piece
        message, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(message))

    def close(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._in)
        os.close(self._out)


class Tab:
    """A tab without any memory of other tabs, which shows the page of one server."""

    def __init__(self, browser: Browser, address: str) -> None:
        self._browser, self.address = browser, address
        browser.events.clear()
        self._context = context = browser.call("Target.createBrowserContext")["browserContextId"]
        target = browser.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        self._session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **params)

    def close(self) -> None:
        self._browser.call("Target.disposeBrowserContext", browserContextId=self._context)

    def show(self, width: int = 1200, height: int = 900, scheme: str = "light", touch: bool = False) -> None:
        """Open the page in a window of this size."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch)
        self.call("Emulation.setTouchEmulationEnabled", enabled=touch)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url=f"{self.address}/")
        self.wait("document.readyState === 'complete' && !$('#about').textContent.startsWith('Drop')")

    def run(self, expression: str) -> Any:
        """The value of some JavaScript; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, expression: str) -> None:
        until(lambda: self.run(expression))

    def text(self, selector: str) -> str:
        text = self.run(f"document.querySelector({json.dumps(selector)}).innerText")
        return str(text).replace("\N{NO-BREAK SPACE}", " ")

    def seen(self, selector: str) -> bool:
        return bool(self.run(f"!!document.querySelector({json.dumps(selector)})?.checkVisibility()"))

    def choose(self, *paths: Path) -> None:
        """Give files to the page's file picker, and wait for what becomes of them."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector="#files")["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])
        self.settle()

    def settle(self) -> None:
        """Wait until there are cards, and each of them has an answer or an error."""
        self.wait(
            "document.querySelectorAll('.card').length && [...document.querySelectorAll('.card .state')]"
            ".every((state) => !state.checkVisibility())"
        )

    def press(self, key: str, code: int) -> None:
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def picture(self) -> bytes:
        """The whole page as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"])

    def told(self, method: str) -> list[dict[str, Any]]:
        self.run("new Promise((done) => setTimeout(done, 50))")
        return [event["params"] for event in self._browser.events if event.get("method") == method]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture
def tab(browser: Browser, toy: Toy) -> Iterator[Tab]:
    tab = Tab(browser, toy.address)
    yield tab
    tab.close()


# Pictures -------------------------------------------------------------------------------------------------------------


def surface(folder: Path, darkest: int, name: str = "wall.png", width: int = 120, height: int = 80) -> Path:
    """A grey picture with a square, a quarter from its left and top, as dark as is said: 0 a crack, 64 a doubt."""
    pixels = np.full((height, width, 3), 180, np.uint8)
    pixels[height // 4 : height // 2, width // 4 : width // 2] = darkest
    path = folder / name
    path.write_bytes(encoded(Image.fromarray(pixels), "PNG"))
    return path


# What is seen ---------------------------------------------------------------------------------------------------------


def test_a_picture_gets_its_class_its_bars_and_where_it_came_from(tab: Tab, toy: Toy, tmp_path: Path) -> None:
    tab.show()
    tab.choose(surface(tmp_path, 0))
    assert tab.text(".label") == "crack"
    assert tab.text(".share") == "> 99.9 %"
    assert tab.run("document.querySelectorAll('.bars li').length") == 5
    assert "wall.png" in tab.text(".file")
    assert tab.text(".facts dd:nth-of-type(1)") == "surfaces · version 7"
    assert tab.text(".facts dd:nth-of-type(2)") == "0123456789ab"
    assert tab.text(".facts dd:nth-of-type(3)").startswith("1.2 s: decoding 1.3 ms, model 13 ms, heat map 1.2 s")
    assert toy.asked == ["image/png?explain=true"]
    assert not tab.seen(".abstained")
    assert not tab.seen(".trouble")


def test_the_page_names_the_model_and_shows_how_programs_ask(tab: Tab, toy: Toy) -> None:
    tab.show()
    assert tab.text("#name") == "surfaces"
    assert "6 classes apart: crack, intact, joint, stain, <b>wet</b>, paint" in tab.text("#about")
    assert "up to 200 kB" in tab.text("#limits")
    assert f"'{toy.address}/v1/predict'" in tab.text("#curl")
    assert tab.run("document.querySelector('.links a').href") == f"{toy.address}/docs"


def test_a_model_that_abstains_is_said_to_and_why(tab: Tab, tmp_path: Path) -> None:
    tab.show()
    tab.choose(surface(tmp_path, 64))
    assert tab.seen(".abstained")
    assert tab.text(".label") == "No answer"
    assert tab.text(".share") == "perhaps crack, 50.0 %"
    assert "A person should look." in tab.text(".abstained")
    assert "No class reaches 70.0 %" in tab.text(".abstained")
    assert "gives no answer" in tab.run("document.querySelector('#spoken').textContent")


def test_the_heat_map_lies_on_the_picture_and_is_faded_with_the_keyboard(tab: Tab, tmp_path: Path) -> None:
    tab.show()
    tab.choose(surface(tmp_path, 0))
    tab.wait("document.querySelector('.heat').naturalWidth === 64")
    same = "(({x, y, width, height}) => [x, y, width, height].map(Math.round).join())"
    same += "(document.querySelector('%s').getBoundingClientRect())"
    assert tab.run(same % ".heat") == tab.run(same % ".photo")
    assert tab.run("getComputedStyle(document.querySelector('.heat')).opacity") == "0.7"
    tab.run("document.querySelector('.fade input').focus()")
    tab.press("Home", 36)
    assert tab.run("getComputedStyle(document.querySelector('.heat')).opacity") == "0"
    tab.press("ArrowRight", 39)
    assert tab.run("getComputedStyle(document.querySelector('.heat')).opacity") == "0.05"


@pytest.mark.parametrize(("fit", "expected"), [("crop", [187, 187, 47, 0]), ("pad", [280, 280, 0, -47])])
def test_the_heat_map_covers_what_the_model_sees(
    tab: Tab, toy: Toy, tmp_path: Path, fit: str, expected: list[int]
) -> None:
    toy.fit = fit
    tab.show()
    tab.choose(surface(tmp_path, 0))
    tab.wait("document.querySelector('.heat').naturalWidth === 64 && document.querySelector('.heat').style.width")
    box = "(() => { const [h, p] = ['.heat', '.photo'].map((s) => document.querySelector(s).getBoundingClientRect());"
    box += "return [h.width, h.height, h.x - p.x, h.y - p.y].map(Math.round) })()"
    assert tab.run(box) == expected


def test_without_the_heat_map_the_answer_is_asked_for_alone(tab: Tab, toy: Toy, tmp_path: Path) -> None:
    tab.show()
    tab.run("document.querySelector('#explain').click()")
    tab.choose(surface(tmp_path, 0))
    assert toy.asked == ["image/png?"]
    assert not tab.seen(".heat")
    assert not tab.seen(".fade")


def test_several_pictures_are_sent_one_after_the_other(tab: Tab, toy: Toy, tmp_path: Path) -> None:
    tab.show()
    tab.choose(*(surface(tmp_path, darkest, f"{darkest:03}.png") for darkest in (0, 64, 128, 180)))
    names = tab.run("[...document.querySelectorAll('.file')].map((name) => name.title)")
    assert names == ["000.png", "064.png", "128.png", "180.png"]
    assert tab.run("[...document.querySelectorAll('.label')].map((l) => l.textContent)")[2:] == ["intact", "intact"]
    assert (len(toy.asked), toy.most_at_once) == (4, 1)


def test_text_from_outside_is_shown_and_not_obeyed(tab: Tab, tmp_path: Path) -> None:
    tab.show()
    tab.choose(surface(tmp_path, 180, "<img src=x onerror=alert(1)>.png"))
    assert tab.text(".file").startswith("<img src=x onerror=alert(1)>.png")
    assert tab.text(".bars li:nth-child(4) .name") == "<b>wet</b>"
    assert tab.run("document.querySelectorAll('.card b').length") == 1


# What goes wrong ------------------------------------------------------------------------------------------------------


def test_an_error_is_a_sentence_beside_its_picture(tab: Tab, tmp_path: Path) -> None:
    letter = tmp_path / "letter.txt"
    letter.write_text("Dear model,")
    tab.show()
    tab.choose(surface(tmp_path, 0), letter)
    trouble = tab.text(".card:nth-child(2) .trouble p")
    assert trouble == "No image: neither JPEG, PNG, WebP, BMP, TIFF nor GIF by its content."
    assert not tab.seen(".card:nth-child(2) .again")
    assert tab.seen(".card:nth-child(2) .nophoto")
    assert tab.text(".card:nth-child(1) .label") == "crack"


def test_a_file_that_is_too_large_is_not_even_sent(tab: Tab, toy: Toy, tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    large.write_bytes(bytes(LIMIT + 1))
    tab.show()
    tab.choose(large)
    assert tab.text(".trouble p") == "This file has 200 kB, and the service takes at most 200 kB."
    assert toy.asked == []


def test_a_busy_service_is_asked_again(tab: Tab, toy: Toy, tmp_path: Path) -> None:
    toy.busy = 1
    tab.show()
    tab.choose(surface(tmp_path, 0))
    assert tab.text(".label") == "crack"
    assert len(toy.asked) == 2


def test_what_failed_can_be_tried_again(tab: Tab, toy: Toy, tmp_path: Path) -> None:
    toy.broken = True
    tab.show()
    tab.choose(surface(tmp_path, 0))
    assert tab.text(".trouble p") == "The service answered with status 502."
    toy.broken = False
    tab.run("document.querySelector('.again').click()")
    assert tab.run("document.activeElement.className") == "remove"
    tab.settle()
    assert tab.text(".label") == "crack"
    assert not tab.seen(".trouble")


def test_a_service_that_tells_nothing_of_its_model_is_asked_again(tab: Tab, toy: Toy, tmp_path: Path) -> None:
    toy.silent = True
    tab.show()
    assert tab.text("#about") == "The service is shutting down."
    toy.silent = False
    tab.choose(surface(tmp_path, 0))
    assert tab.text("#name") == "surfaces"
    assert tab.text(".label") == "crack"


# Ways in --------------------------------------------------------------------------------------------------------------

A_FILE = """(async () => {
  const canvas = document.createElement("canvas");
  canvas.getContext("2d").fillRect(0, 0, 40, 40);
  const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
  const data = new DataTransfer();
  data.items.add(new File([blob], "made.png", {type: "image/png"}));
  return data;
})()"""


FOCUSED = "(document.activeElement)"


@pytest.mark.parametrize(
    "event",
    [
        'new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true})',
        'new ClipboardEvent("paste", {clipboardData: data, bubbles: true})',
    ],
    ids=["dropped", "pasted"],
)
def test_a_picture_can_be_dropped_or_pasted_anywhere(tab: Tab, event: str) -> None:
    tab.show()
    tab.run(f"{A_FILE}.then((data) => {{ document.querySelector('footer').dispatchEvent({event}) }})")
    tab.settle()
    assert tab.text(".label") == "crack"
    assert "made.png" in tab.text(".file")


def test_a_picture_is_chosen_with_the_keyboard_alone(tab: Tab, tmp_path: Path) -> None:
    tab.show()
    tab.call("Page.setInterceptFileChooserDialog", enabled=True)
    tab.press("Tab", 9)
    assert tab.run("document.activeElement.id") == "choose"
    tab.press("Enter", 13)
    until(lambda: tab.told("Page.fileChooserOpened"))
    node = tab.told("Page.fileChooserOpened")[0]["backendNodeId"]
    tab.call("DOM.setFileInputFiles", backendNodeId=node, files=[str(surface(tmp_path, 0))])
    tab.settle()
    order = []
    for _ in range(5):
        tab.press("Tab", 9)
        order.append(tab.run("(({id, className, type, tagName}) => id || className || type || tagName)" + FOCUSED))
    assert order == ["explain", "clear", "range", "remove", "PRE"]


def test_the_camera_is_offered_where_there_is_a_finger(tab: Tab) -> None:
    tab.show()
    assert not tab.seen("#camera")
    tab.show(360, 740, touch=True)
    assert tab.seen("#camera")


def test_what_is_removed_is_gone_and_the_focus_is_not(tab: Tab, tmp_path: Path) -> None:
    tab.show()
    tab.choose(surface(tmp_path, 0, "one.png"), surface(tmp_path, 180, "two.png"))
    tab.run("document.querySelector('.remove').click()")
    assert "two.png" in tab.text(".file")
    assert tab.run("document.activeElement.getAttribute('aria-label')") == "Remove two.png"
    tab.run("document.querySelector('#clear').click()")
    assert not tab.seen("#results")
    assert tab.run("document.activeElement.id") == "choose"


# On every screen ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [360, 760, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_screen_and_can_be_read(tab: Tab, tmp_path: Path, width: int, scheme: str) -> None:
    tab.show(width, 740, scheme, touch=width == 360)
    (letter := tmp_path / f"{'long name ' * 20}.txt").write_text("no picture")
    tab.choose(surface(tmp_path, 0, f"{'x' * 200}.png", 900, 500), surface(tmp_path, 64), letter)
    assert tab.run("document.documentElement.scrollWidth") <= width
    assert tab.run(OUTSIDE) == []
    assert tab.run(HARD_TO_READ) == []


def test_light_and_dark_differ(tab: Tab) -> None:
    grounds = []
    for scheme in ("light", "dark"):
        tab.show(scheme=scheme)
        grounds.append(tab.run("getComputedStyle(document.body).backgroundColor"))
    assert grounds[0] != grounds[1]


OUTSIDE = """[...document.querySelectorAll("body *")].filter((e) => {
  const box = e.getBoundingClientRect();
  return e.checkVisibility() && box.width && (box.right > innerWidth + 0.5 || box.left < -0.5)
    && !e.closest(".stage") && !e.closest(".spoken");
}).map((e) => e.outerHTML.slice(0, 100))"""
"""Elements that stick out of the window."""

HARD_TO_READ = """(() => {
  const parse = (text) => {
    const numbers = text.match(/[\\d.]+/g).map(Number);
    const scale = text.startsWith("color(") ? 255 : 1;
    return [...numbers.slice(0, 3).map((n) => n * scale), numbers[3] ?? 1];
  };
  const luminance = (rgb) => rgb.slice(0, 3).map((n) => n / 255)
    .map((n) => n <= 0.04045 ? n / 12.92 : ((n + 0.055) / 1.055) ** 2.4)
    .reduce((sum, n, i) => sum + n * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour[3] === 1) return colour;
    }
    return [255, 255, 255, 1];
  };
  const texts = [...document.querySelectorAll("body *")].filter((e) => e.checkVisibility()
    && [...e.childNodes].some((n) => n.nodeType === Node.TEXT_NODE && n.data.trim()));
  return texts.map((e) => {
    const [one, other] = [luminance(parse(getComputedStyle(e).color)), luminance(ground(e))];
    return [(Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05), e.outerHTML.slice(0, 100)];
  }).filter(([contrast]) => contrast < 4.5);
})()"""
"""Texts whose contrast with what is behind them is less than WCAG 2.2 asks of small text (1.4.3)."""


def test_nothing_leaves_the_server_and_nothing_breaks_the_policy(tab: Tab, toy: Toy, tmp_path: Path) -> None:
    tab.show()
    tab.choose(surface(tmp_path, 0), surface(tmp_path, 64, "doubt.png"))
    urls = [event["request"]["url"] for event in tab.told("Network.requestWillBeSent")]
    assert len(urls) > 5
    assert [url for url in urls if not url.startswith((f"{toy.address}/", "data:", f"blob:{toy.address}/"))] == []
    assert tab.told("Runtime.exceptionThrown") == []
    assert [event["entry"]["text"] for event in tab.told("Log.entryAdded")] == []


# The real service -----------------------------------------------------------------------------------------------------


@pytest.fixture
def service(tmp_path: Path) -> Iterator[str]:
    """The address of the real application around a model that names the strongest colour."""
    toy_bundle(tmp_path / "bundle", size=32)
    settings = Settings(bundle=str(tmp_path / "bundle"), version="12")
    predictor, info = load(settings)
    observer = Observer.open("", 0, False, info)
    with running(create_app(predictor, settings, model=info, metrics=Metrics(info), observer=observer)) as address:
        yield address


def test_the_page_and_the_service_understand_each_other(browser: Browser, service: str, tmp_path: Path) -> None:
    half = np.zeros((60, 60, 3), np.uint8)
    half[:, :30, 0] = 255
    (tmp_path / "red.png").write_bytes(encoded(Image.fromarray(half), "PNG"))
    (tmp_path / "letter.txt").write_text("Dear model,")
    (tmp_path / "nothing.jpg").write_bytes(b"")
    tab = Tab(browser, service)
    tab.show()
    tab.choose(tmp_path / "red.png", tmp_path / "letter.txt", tmp_path / "nothing.jpg")
    assert "up to 20 MB" in tab.text("#limits")
    assert tab.text(".label") == "red"
    assert tab.text(".facts dd:nth-of-type(1)") == "colours · version 12"
    assert tab.seen(".heat")
    assert "JPEG, PNG, WebP" in tab.text(".card:nth-child(2) .trouble p")
    assert "empty" in tab.text(".card:nth-child(3) .trouble p")
    for path in ("docs", "openapi.json"):
        assert tab.run(f"fetch('{path}').then((answer) => answer.status)") == 200
    tab.close()
