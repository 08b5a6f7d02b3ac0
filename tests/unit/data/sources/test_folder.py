"""A folder of class folders becomes samples; what cannot be one is refused at reading, with its reason."""

import os
import pickle
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from assay import preprocess
from assay.data.sources import Sample, fingerprint, open_source
from assay.errors import DataError


def write(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def uris(root: Path) -> list[str]:
    return [sample.uri for sample in open_source(str(root)).list()]


def reason(root: Path, uri: str) -> str:
    source = open_source(str(root))
    (sample,) = (sample for sample in source.list() if sample.uri == uri)
    with pytest.raises(DataError) as caught:
        source.read(sample)
    return str(caught.value)


def test_label_is_the_first_folder_however_deep_the_file(tmp_path: Path) -> None:
    root = write(tmp_path / "d", "b/2.jpg", "a/1.jpg", "b/deep/er/3.jpg")
    samples = open_source(str(root)).list()
    assert [(s.uri, s.label, s.group) for s in samples] == [
        ("a/1.jpg", "a", None),
        ("b/2.jpg", "b", None),
        ("b/deep/er/3.jpg", "b", None),
    ]


def test_reads_back_what_was_written(tmp_path: Path) -> None:
    root = write(tmp_path / "d", "a/1.jpg", "b/ü 裂.jpg")
    source = open_source(str(root))
    assert [source.read(sample) for sample in source.list()] == [b"a/1.jpg", "b/ü 裂.jpg".encode()]


def test_file_uri_names_the_same_folder(tmp_path: Path) -> None:
    root = write(tmp_path / "with space", "a/1.jpg")
    assert open_source(f"file://{str(root).replace(' ', '%20')}").list() == open_source(str(root)).list()


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "d", "a/1.jpg")
    assert uris(Path("~/d")) == ["a/1.jpg"]


def test_hidden_files_and_leftovers_of_desktops_are_no_data(tmp_path: Path) -> None:
    junk = ("a/.hidden", ".git/x", "__MACOSX/a/1.jpg", "a/Thumbs.db", "a/desktop.ini", "a/.deep/x.jpg", "notes.txt")
    assert uris(write(tmp_path / "d", "a/1.jpg", *junk)) == ["a/1.jpg"]


def test_unknown_suffixes_are_listed_for_their_content_decides(tmp_path: Path) -> None:
    assert uris(write(tmp_path / "d", "a/1", "a/2.xyz")) == ["a/1", "a/2.xyz"]


def test_undecodable_names_are_readable_and_read(tmp_path: Path) -> None:
    root = write(tmp_path / "d", "a/1.jpg")
    Path(os.fsdecode(os.fsencode(root) + b"/\xff")).mkdir()
    Path(os.fsdecode(os.fsencode(root) + b"/\xff/\xfe.jpg")).write_bytes(b"odd")
    source = open_source(str(root))
    odd = source.list()[0]
    assert (odd.uri, odd.label) == (r"\xff/\xfe.jpg", r"\xff")
    assert pickle.loads(pickle.dumps(source)).read(odd) == b"odd"


def test_two_names_that_read_alike_are_refused(tmp_path: Path) -> None:
    root = write(tmp_path / "d", r"a/\xff.jpg")
    Path(os.fsdecode(os.fsencode(root) + b"/a/\xff.jpg")).write_bytes(b"odd")
    with pytest.raises(DataError, match="two files read as"):
        uris(root)


def test_links_inside_are_followed(tmp_path: Path) -> None:
    root = write(tmp_path / "d", "a/1.jpg", ".store/x.jpg", "b/2.jpg")
    (root / "a/link.jpg").symlink_to("1.jpg")
    (root / "b/more").symlink_to("../.store")
    source = open_source(str(root))
    contents = {sample.uri: source.read(sample) for sample in source.list()}
    assert contents == {
        "a/1.jpg": b"a/1.jpg",
        "a/link.jpg": b"a/1.jpg",
        "b/2.jpg": b"b/2.jpg",
        "b/more/x.jpg": b".store/x.jpg",
    }


def test_a_folder_is_listed_once_and_cycles_end(tmp_path: Path) -> None:
    root = write(tmp_path / "d", "a/1.jpg")
    (root / "a/loop").symlink_to("..")
    (root / "b").symlink_to("a")
    assert uris(root) == ["a/1.jpg", "a/loop/", "b/"]
    assert reason(root, "a/loop/") == "a symbolic link to a folder that is listed already"


def test_links_out_are_refused_and_never_read(tmp_path: Path) -> None:
    root, outside = write(tmp_path / "d", "a/1.jpg"), write(tmp_path / "d_outside", "x/secret.jpg")
    (root / "a/file.jpg").symlink_to(outside / "x/secret.jpg")
    (root / "a/folder").symlink_to(outside / "x")
    (root / "whole_class").symlink_to(outside / "x")
    assert uris(root) == ["a/1.jpg", "a/file.jpg", "a/folder/", "whole_class/"]
    assert {reason(root, uri) for uri in uris(root)[1:]} == {"a symbolic link out of the folder"}


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    write(tmp_path / "d", "a/1.jpg")
    (tmp_path / "link").symlink_to("d")
    source = open_source(str(tmp_path / "link"))
    assert [source.read(sample) for sample in source.list()] == [b"a/1.jpg"]


def test_broken_links_and_pipes_are_refused(tmp_path: Path) -> None:
    root = write(tmp_path / "d", "a/1.jpg")
    (root / "a/broken.jpg").symlink_to("nowhere")
    os.mkfifo(root / "a/pipe.jpg")
    assert reason(root, "a/broken.jpg") == "a broken symbolic link"
    assert reason(root, "a/pipe.jpg") == "no regular file"


def test_a_file_gone_since_the_listing_is_one_bad_file(tmp_path: Path) -> None:
    root = write(tmp_path / "d", "a/1.jpg")
    source = open_source(str(root))
    (sample,) = source.list()
    (root / "a/1.jpg").unlink()
    with pytest.raises(DataError, match=r"^cannot be read: No such file or directory$"):
        source.read(sample)


def test_a_file_too_large_for_a_picture_is_refused(tmp_path: Path) -> None:
    root = write(tmp_path / "d", "a/1.jpg")
    os.truncate(root / "a/1.jpg", (1 << 30) + 1)
    assert "more than the 1,073,741,824" in reason(root, "a/1.jpg")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "no files in class folders"),
        (("1.jpg", "2.PNG"), r"2 pictures lie \('1.jpg', …\) in no class folder; make one folder for each class"),
        (("1.jpg", "a/2.jpg"), r"1 picture lies \('1.jpg'\) beside the class folders"),
        (("notes.txt",), "no files in class folders"),
    ],
)
def test_wrong_layouts_say_what_to_do(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    (tmp_path / "d").mkdir()
    with pytest.raises(DataError, match=message):
        uris(write(tmp_path / "d", *names))


@pytest.mark.parametrize("uri", ["", "no/such/folder"])
def test_missing_path_names_the_setting(uri: str) -> None:
    with pytest.raises(DataError, match=r"no such folder or file; `data\.source` says"):
        open_source(uri)


@pytest.mark.parametrize("uri", ["http://x/y.zip", "https://x/y", "ftp://x/y", "gs://b/p"])
def test_other_schemes_are_refused(uri: str) -> None:
    with pytest.raises(DataError, match="is not supported; give a path, s3://"):
        open_source(uri)


@given(st.sampled_from(["", "file://", "s3://", "synthetic://", "synthetic://concrete?"]), st.text(max_size=30))
@example("file://", "[")
@example("synthetic://", "[")
@example("", "~nobody-of-this-name/x")
@example("", "a\0b")
@example("", "x" * 5000)
def test_any_text_is_a_source_or_a_mistake(scheme: str, rest: str) -> None:
    with suppress(DataError):
        assert open_source(scheme + rest).uri == scheme + rest


def test_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="no such folder or file"):
        open_source(str(tmp_path / "pipe"))


def test_a_file_uri_of_another_host_is_refused() -> None:
    with pytest.raises(DataError, match="three slashes"):
        open_source("file://data/images")


def test_fingerprint_changes_with_content_and_names_only(tmp_path: Path) -> None:
    root = write(tmp_path / "d", "a/1.jpg", "b/2.jpg")
    before = fingerprint(str(root))
    (root / "notes.txt").write_text("not data")
    assert fingerprint(str(root)) == before
    (root / "a/1.jpg").write_bytes(b"longer than before")
    changed = fingerprint(str(root))
    (root / "b/2.jpg").rename(root / "b/3.jpg")
    assert len({before, changed, fingerprint(str(root))}) == 3


def test_fingerprint_does_not_depend_on_where_the_folder_lies(tmp_path: Path) -> None:
    before = fingerprint(str(write(tmp_path / "d", "a/1.jpg", "b/2.jpg")))
    (tmp_path / "d").rename(tmp_path / "elsewhere")
    assert fingerprint(str(tmp_path / "elsewhere")) == before


def test_stamp_changes_when_a_file_is_rewritten_at_equal_size(tmp_path: Path) -> None:
    root = write(tmp_path / "d", "a/1.jpg")
    (before,) = open_source(str(root)).list()
    os.utime(root / "a/1.jpg", ns=(1, 1))
    (after,) = open_source(str(root)).list()
    assert before.stamp != after.stamp


def test_hostile_folder_has_just_the_faults_it_says(hostile_folder: Path, hostile_faults: Mapping[str, str]) -> None:
    source = open_source(str(hostile_folder))
    found = {sample.uri: fault(source.read, sample) for sample in source.list()}
    assert {uri for uri, reason in found.items() if reason} == set(hostile_faults)
    assert all(found[uri].startswith(start) for uri, start in hostile_faults.items())
    assert len(found) == 24 + len(hostile_faults) + 15


def fault(read: object, sample: Sample) -> str:
    try:
        preprocess.decode(read(sample), preprocess.Geometry(32))  # type: ignore[operator]
    except (DataError, preprocess.Unreadable) as error:
        return str(error)
    return ""
