"""The S3 source against a real server: what it lists and reads, and one clear line for whatever is wrong."""

import itertools
import multiprocessing
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from assay.data.sources import Sample, Source, Unavailable, fingerprint, open_source
from assay.data.sources import s3 as s3_module
from assay.errors import AssayError, DataError

if TYPE_CHECKING:
    from team import S3Server

TREE = {"a/1.jpg": b"one", "a/deep/2.jpg": b"two", "b/ü 裂 #1%20+?.jpg": b"three"}

NUMBERS = itertools.count()


@pytest.fixture
def place(s3: "S3Server") -> str:
    """The address of a fresh prefix with `TREE` below its `data/`."""
    place = f"s3://images/{next(NUMBERS)}"
    put(s3, place, {f"data/{key}": content for key, content in TREE.items()})
    return place


def put(s3: "S3Server", place: str, objects: dict[str, bytes]) -> None:
    s3.put("images", {f"{place.removeprefix('s3://images/')}/{key}": content for key, content in objects.items()})


def contents(source: Source) -> dict[str, bytes]:
    return {sample.uri: source.read(sample) for sample in source.list()}


def message(uri: str, kind: type[AssayError]) -> str:
    with pytest.raises(kind) as caught:
        open_source(uri).list()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", ["data", "data/"])
def test_gives_what_was_stored(place: str, suffix: str) -> None:
    assert contents(open_source(f"{place}/{suffix}")) == TREE


def test_a_whole_bucket(s3: "S3Server") -> None:
    s3.make_bucket("whole")
    s3.put("whole", TREE)
    assert contents(open_source("s3://whole")) == TREE


def test_same_samples_as_a_folder_but_for_stamps(place: str, tmp_path: Path) -> None:
    for name, content in TREE.items():
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / name).write_bytes(content)
    there, here = (open_source(uri).list() for uri in (f"{place}/data", str(tmp_path / "d")))
    assert [(s.uri, s.label, s.group) for s in there] == [(s.uri, s.label, s.group) for s in here]


def test_a_prefix_is_a_folder_not_a_beginning(s3: "S3Server", place: str) -> None:
    put(s3, place, {"database/a/x.jpg": b"x"})
    assert len(open_source(f"{place}/data").list()) == 3


def test_junk_is_left_out(s3: "S3Server", place: str) -> None:
    put(s3, place, {"data/README.md": b"", "data/a/.DS_Store": b"", "data/__MACOSX/x.jpg": b""})
    assert len(open_source(f"{place}/data").list()) == 3


def test_listing_goes_on_after_the_first_page(s3: "S3Server", place: str) -> None:
    put(s3, place, {f"many/a/{index:04d}.jpg": b"x" for index in range(1010)})
    assert len(open_source(f"{place}/many").list()) == 1010


def test_fingerprint_changes_with_content(s3: "S3Server", place: str) -> None:
    before = fingerprint(f"{place}/data")
    assert fingerprint(f"{place}/data") == before
    put(s3, place, {"data/a/1.jpg": b"0ne"})
    assert fingerprint(f"{place}/data") != before


def test_reads_in_spawned_processes(place: str) -> None:
    source = open_source(f"{place}/data")
    samples = source.list()
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(source.read, samples) == list(TREE.values())
    source.close()
    assert source.read(samples[0]) == b"one"


def test_list_in_the_store_names_its_neighbours(s3: "S3Server", place: str) -> None:
    put(s3, place, {"data/list.csv": "uri,label,group\na/1.jpg,x,g\nb/ü 裂 #1%20+?.jpg,y,\nnone.jpg,y,\n".encode()})
    source = open_source(f"{place}/data/list.csv")
    first, second, missing = source.list()
    assert [(s.uri, s.label, s.group) for s in (first, second)] == [
        ("a/1.jpg", "x", "g"),
        ("b/ü 裂 #1%20+?.jpg", "y", None),
    ]
    assert [source.read(sample) for sample in (first, second)] == [b"one", b"three"]
    with pytest.raises(DataError, match=r"^no such object$"):
        source.read(missing)


def test_local_list_of_objects(s3: "S3Server", place: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(f"uri,label\n{place}/data/a/1.jpg,x\n")
    source = open_source(str(tmp_path / "list.csv"))
    assert list(contents(source).values()) == [b"one"]
    before = fingerprint(str(tmp_path / "list.csv"))
    put(s3, place, {"data/a/1.jpg": b"0ne"})
    assert fingerprint(str(tmp_path / "list.csv")) != before


def test_an_object_gone_since_the_listing_is_one_bad_file(place: str) -> None:
    with pytest.raises(DataError, match=r"^no such object$"):
        open_source(f"{place}/data").read(Sample("a/gone.jpg", "a", None, ""))


def test_an_object_too_large_for_a_picture_is_one_bad_file(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(f"{place}/data")
    monkeypatch.setattr("assay.data.sources.base.MAX_FILE_BYTES", 2)
    with pytest.raises(DataError, match="3 bytes, more than the 2"):
        source.read(source.list()[0])


def test_nothing_below_the_prefix(place: str) -> None:
    assert "nothing is stored below it" in message(f"{place}/none", DataError)


def test_no_class_folders(s3: "S3Server", place: str) -> None:
    put(s3, place, {"flat/1.jpg": b"x"})
    assert "1 picture lies ('1.jpg') in no class folder" in message(f"{place}/flat", DataError)


def test_missing_list(place: str) -> None:
    assert message(f"{place}/none.csv", DataError) == f"{place}/none.csv: no such object"


def test_missing_bucket(s3: "S3Server") -> None:
    expected = f"s3://nowhere/data: there is no bucket 'nowhere' at {s3.endpoint}"
    assert message("s3://nowhere/data", Unavailable) == expected


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [("AWS_SECRET_ACCESS_KEY", "wrong", "SignatureDoesNotMatch"), ("AWS_ACCESS_KEY_ID", "wrong", "InvalidAccessKeyId")],
)
def test_wrong_credentials(place: str, monkeypatch: pytest.MonkeyPatch, name: str, value: str, code: str) -> None:
    monkeypatch.setenv(name, value)
    assert f"the credentials are refused ({code}); check the AWS_… variables" in message(f"{place}", Unavailable)
    with pytest.raises(Unavailable, match="refused"):
        open_source(f"{place}/data").read(Sample("a/1.jpg", "a", None, ""))


def test_credentials_without_the_right_to_list(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "blind")
    assert message(f"{place}/data", DataError) == f"{place}/data: access denied by the object store"
    with pytest.raises(DataError, match=r"^access denied by the object store$"):
        open_source(f"{place}/data").read(Sample("a/1.jpg", "a", None, ""))


def test_no_credentials(place: str, monkeypatch: pytest.MonkeyPatch, closed_port: int) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"http://127.0.0.1:{closed_port}")
    assert "no credentials; set AWS_ACCESS_KEY_ID" in message(f"{place}", Unavailable)


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Accepts connections, and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


def test_unreachable_endpoint(s3: "S3Server", monkeypatch: pytest.MonkeyPatch, closed_port: int) -> None:
    endpoint = f"http://127.0.0.1:{closed_port}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    expected = f"s3://b-1/data: no answer from {endpoint} (HTTP error: error sending request); check AWS_ENDPOINT_URL"
    assert message("s3://b-1/data", Unavailable).startswith(expected)


def test_unknown_host(s3: "S3Server", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://no-such-host.invalid:9000")
    assert "no answer from http://no-such-host.invalid:9000" in message("s3://b-1/data", Unavailable)


def test_silent_endpoint(s3: "S3Server", monkeypatch: pytest.MonkeyPatch, silent_port: int) -> None:
    monkeypatch.setattr(s3_module, "SILENCE_S", 1)
    monkeypatch.setattr(s3_module, "RETRY_S", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent_port}")
    assert "no answer from http://127.0.0.1:" in message("s3://b-1/data", Unavailable)
