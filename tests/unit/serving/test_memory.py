"""Decoding takes the memory that was foreseen, and no more of it at once than there is."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from assay.preprocess import Geometry
from serving import headers, intake, memory
from serving.engine import Abandoned
from serving.memory import Room, fitted, free
from serving.problems import Problem
from serving.settings import Settings, SettingsError

from badinput import png
from pictures import encoded, picture

if TYPE_CHECKING:
    from tests.unit.serving.conftest import Serve

WIDE, HIGH = 2000, 1500


# What a decoding takes ------------------------------------------------------------------------------------------------


def grain(channels: int) -> np.ndarray:
    """Noise, repeated so that it can be written quickly: uint8 [HIGH, WIDE, channels]."""
    rows = np.random.default_rng(0).integers(0, 256, (20, WIDE, channels), dtype=np.uint8)
    return np.tile(rows, (HIGH // 20, 1, 1))


def of_mode(mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(grain(2).view(np.uint16)[..., 0])
    if mode in ("1", "P"):
        return Image.fromarray(grain(1)[..., 0]).convert(mode)
    return Image.frombytes(mode, (WIDE, HIGH), grain(len(mode)).tobytes())


def file(kind: str) -> bytes:
    """`FORMAT mode`, and perhaps `progressive`, `lossless` or `transparent`."""
    format_name, mode, *words = kind.split()
    options: dict[str, object] = {word: True for word in words if word != "transparent"}
    if "transparent" in words:
        options["transparency"] = (1, 2, 3) if mode == "RGB" else 3 if mode != "1" else 1
    fast: dict[str, dict[str, object]] = {
        "PNG": {"compress_level": 1},
        "WEBP": {"method": 0, "quality": 0 if "lossless" in words else 30},
        "JPEG": {"subsampling": 0},
    }
    return encoded(of_mode(mode), format_name, **fast.get(format_name, {}), **options)


KINDS = [
    *(f"PNG {mode}" for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    *(f"PNG {mode} transparent" for mode in ("1", "L", "P", "RGB", "I;16")),
    *(f"JPEG {mode}{how}" for mode in ("L", "RGB", "CMYK") for how in ("", " progressive")),
    *("WEBP RGB", "WEBP RGBA", "WEBP RGB lossless", "WEBP RGBA lossless", "BMP 1", "BMP L", "BMP RGB", "BMP RGBA"),
]

MEASURE = """
import os, sys
from io import BytesIO
from pathlib import Path
from PIL import Image
from assay.preprocess import Geometry, inspect

def resident(name):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))

def small(format_name):
    buffer = BytesIO()
    Image.new("RGB", (9, 9)).save(buffer, format_name)
    inspect(buffer.getvalue(), Geometry(9))

for line in sys.stdin:
    path, format_name, size, fit = line.split()
    small(format_name)
    if child := os.fork():  # each in a process that has not yet taken any memory for pictures
        os.waitpid(child, 0)
        continue
    data = Path(path).read_bytes()
    Path("/proc/self/clear_refs").write_text("5")
    before, code = resident("VmRSS:"), resident("RssFile:")
    inspect(data, Geometry(int(size), fit))
    # Without the code that it was the first to run: how much of it is mapped at once is the kernel's affair.
    print(resident("VmHWM:") - before - (resident("RssFile:") - code), flush=True)
    os._exit(0)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak of a moment")
def test_what_a_decoding_takes_is_foreseen(tmp_path: Path) -> None:
    geometries = cycle([Geometry(64, "crop"), Geometry(224), Geometry(384, "pad")])
    cases = [(kind, file(kind), geometry) for kind, geometry in zip(KINDS, geometries, strict=False)]
    lines = []
    for number, (kind, data, geometry) in enumerate(cases):
        (tmp_path / str(number)).write_bytes(data)
        lines.append(f"{tmp_path / str(number)} {kind.split()[0]} {geometry.size} {geometry.fit}")
    command = [sys.executable, "-c", MEASURE]
    told = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, check=True).stdout
    slack = 1_000_000  # of the interpreter and the allocator
    for (kind, data, geometry), taken in zip(cases, map(int, told.split()), strict=True):
        foreseen = headers.cost(data, geometry.size)
        assert taken <= foreseen.total + slack, (kind, geometry)
        if geometry.fit != "pad" or not kind.startswith("JPEG"):  # which is reduced further where there is a margin
            assert foreseen.total <= 1.3 * taken + foreseen.fixed + slack, (kind, geometry)


def test_a_camera_s_jpeg_is_cheap_and_one_that_must_be_kept_whole_is_not() -> None:
    photo = Image.effect_noise((3000, 2000), 80).convert("RGB")
    plain, progressive = (headers.cost(encoded(photo, progressive=way), 64).bytes_a_pixel for way in (False, True))
    assert plain < 0.2
    assert progressive > 6


def test_scans_of_one_component_each_are_kept_whole() -> None:
    data = encoded(picture(1))
    scan = data.index(b"\xff\xda")
    apart = data[:scan] + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" + data[scan + 14 :]
    assert headers.cost(apart, 4).bytes_a_pixel >= headers.cost(data, 4).bytes_a_pixel + 6


@pytest.mark.parametrize("data", [b"", b"text", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x10\0\0\0WEBP", b"BM"])
def test_what_cannot_be_opened_takes_nothing(data: bytes) -> None:
    assert headers.cost(data, 224).total == 0


# Room for it ----------------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(total=st.integers(1, 50), costs=st.lists(st.integers(0, 50), max_size=12), threads=st.integers(1, 5))
def test_no_more_is_ever_taken_than_there_is(total: int, costs: list[int], threads: int) -> None:
    room, seen, taken, lock = Room(total), [0], [0], threading.Lock()
    waiting = [cost for cost in costs if cost <= total]

    def work() -> None:
        while True:
            with lock:
                if not waiting:
                    return
                cost = waiting.pop()
            with room.hold(cost, lambda: None):
                with lock:
                    taken[0] += cost
                    seen.append(taken[0])
                time.sleep(0.0002)
                with lock:
                    taken[0] -= cost

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for one in workers:
        one.start()
    for one in workers:
        one.join(20)
    assert max(seen) <= total
    assert (room.taken, len(seen) - 1) == (0, sum(cost <= total for cost in costs))


def holding(room: Room, cost: int, check: Callable[[], None] = lambda: None) -> tuple[threading.Thread, list[str]]:
    """A thread that has asked for room, and what has become of it."""
    told: list[str] = []

    def work() -> None:
        try:
            with room.hold(cost, check):
                told.append("held")
        except Abandoned:
            told.append("abandoned")

    thread = threading.Thread(target=work)
    thread.start()
    return thread, told


def wait_in_turn(room: Room, count: int) -> None:
    """Until so many wait for room."""
    end = time.monotonic() + 20
    while len(room._turns) < count:
        assert time.monotonic() < end
        time.sleep(0.001)


def test_who_needs_much_is_not_passed_by_who_needs_little() -> None:
    room = Room(10)
    with room.hold(6, lambda: None):
        much, of_much = holding(room, 8)
        wait_in_turn(room, 1)
        little, of_little = holding(room, 1)
        wait_in_turn(room, 2)
        time.sleep(2 * memory._LOOK_S)
        assert (of_much, of_little) == ([], [])
    for thread in (much, little):
        thread.join(20)
    assert (of_much, of_little) == (["held"], ["held"])


def test_who_is_not_waited_for_any_more_makes_way() -> None:
    gone = threading.Event()

    def check() -> None:
        if gone.is_set():
            raise Abandoned

    room = Room(10)
    with room.hold(6, lambda: None):
        much, of_much = holding(room, 8, check)
        wait_in_turn(room, 1)
        little, of_little = holding(room, 1)
        gone.set()
        for thread in (much, little):
            thread.join(20)
        assert (of_much, of_little, room.taken) == (["abandoned"], ["held"], 6)


def test_what_fails_gives_its_room_back() -> None:
    room = Room(10**7)
    with pytest.raises(Problem, match="broken"):
        intake.read(encoded(picture(1), "PNG")[:-40], Geometry(4), Settings(), room, lambda: None)
    assert room.taken == 0


def test_real_pictures_at_once_stay_within_it(serve: "Serve", monkeypatch: pytest.MonkeyPatch) -> None:
    body, budget, at_once, most, lock = (
        encoded(Image.new("RGB", (900, 900)), "PNG"),
        12_000_000,
        [0],
        [0],
        threading.Lock(),
    )
    plain = intake.inspect

    def watched(*arguments: object) -> object:
        with lock:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
        time.sleep(0.02)
        try:
            return plain(*arguments)  # type: ignore[arg-type]
        finally:
            with lock:
                at_once[0] -= 1

    monkeypatch.setattr(intake, "inspect", watched)
    client, told = serve(concurrency=6, decode_bytes=budget), []
    clients = [
        threading.Thread(target=lambda: told.append(client.post("/v1/predict", content=body).status_code))
        for _ in range(12)
    ]
    for one in clients:
        one.start()
    for one in clients:
        one.join(60)
    assert told == [200] * 12
    assert most[0] == budget // headers.cost(body, 4).total == 2


def test_what_never_fits_is_refused_with_the_limit_that_holds_here(serve: "Serve") -> None:
    client = serve(decode_bytes=3_000_000)
    error = client.post("/v1/predict", content=png(2000, 2000)).json()["error"]
    assert (error["code"], error["limit"]) == ("too_many_pixels", (1_000_000 - 48 * 16) // 2)
    assert client.post("/v1/predict", content=encoded(Image.new("1", (700, 700)), "PNG")).status_code == 200
    assert client.get("/v1/model").json()["limits"]["decode_bytes"] == 3_000_000


# How much there is ----------------------------------------------------------------------------------------------------


def machine(folder: Path, kilobytes: int = 16_000_000) -> Path:
    (folder / "meminfo").write_text(f"MemTotal:       {kilobytes} kB\nHugePages_Total:       0\nDirect\n")
    return folder / "meminfo"


@pytest.mark.parametrize("version", [1, 2])
def test_the_limit_of_the_container_counts(tmp_path: Path, version: int) -> None:
    folder = tmp_path / "memory" if version == 1 else tmp_path
    folder.mkdir(exist_ok=True)
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    for name, text in zip(names, ("512000000\n", "200000000\n"), strict=True):
        (folder / name).write_text(text)
    (folder / "memory.stat").write_text("anon 1\ninactive_file 30000000\nactive_file 5000000\n")
    assert free(tmp_path, machine(tmp_path)) == 512_000_000 - 200_000_000 + 35_000_000


@pytest.mark.parametrize("limit", ["max", "9223372036854771712", None])
def test_without_a_limit_the_machine_s_memory_counts(tmp_path: Path, limit: str | None) -> None:
    if limit:
        (tmp_path / "memory.max").write_text(limit)
    assert free(tmp_path, machine(tmp_path)) == 16_000_000 * 1024


def test_where_nothing_is_told_there_is_some(tmp_path: Path) -> None:
    assert free(tmp_path, tmp_path / "nowhere") == 2**31


@given(free=st.integers(0, 2**40), body=st.integers(1, 10**9), held=st.integers(1, 10**10))
def test_what_is_given_out_fits(free: int, body: int, held: int) -> None:
    given_settings = Settings(max_body_bytes=body, max_held_bytes=max(held, body))
    try:
        made = fitted(given_settings, free)
    except SettingsError:
        assert free < 8 / 5 * (2 * body + memory.LEAST + 8)
        return
    assert body <= made.max_held_bytes <= given_settings.max_held_bytes
    assert made.decode_bytes >= memory.LEAST
    assert made.decode_bytes + made.max_held_bytes + body <= free


def test_what_is_set_is_heeded() -> None:
    assert fitted(Settings(decode_bytes=5), 0).decode_bytes == 5
