"""Archives give the same samples as the folder they were packed from, and nothing they say is trusted."""

import bz2
import gzip
import io
import lzma
import os
import pickle
import stat
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from assay.data.sources import archive, fingerprint, open_source
from assay.errors import DataError

TREE = {"Negative/00001.jpg": b"one", "Negative/deep/2.jpg": b"two" * 100, "Positive/ü 裂.jpg": b"three"}

COMPRESS: Mapping[str, Callable[[bytes], bytes]] = {
    "tar": bytes,
    "tar.gz": gzip.compress,
    "tar.bz2": bz2.compress,
    "tar.xz": lzma.compress,
}


def tarred(tree: Mapping[str, bytes], *special: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in tree.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for info in special:
            tar.addfile(info)
    return buffer.getvalue()


def zipped(tree: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as packed:
        for name, content in tree.items():
            packed.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture(params=["zip", *COMPRESS])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


Pack = Callable[[Mapping[str, bytes]], Path]


@pytest.fixture
def pack(kind: str, tmp_path: Path) -> Pack:
    """Packs a tree as the archive of the present kind."""

    def write(tree: Mapping[str, bytes]) -> Path:
        path = tmp_path / f"data.{kind}"
        path.write_bytes(zipped(tree) if kind == "zip" else COMPRESS[kind](tarred(tree)))
        return path

    return write


def contents(path: Path) -> dict[str, bytes]:
    source = open_source(str(path))
    try:
        return {sample.uri: source.read(sample) for sample in source.list()}
    finally:
        source.close()


def message(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        open_source(str(path)).list()
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- every kind of archive


def test_gives_what_was_packed(pack: Pack) -> None:
    assert contents(pack(TREE)) == TREE


def test_labels_are_the_class_folders(pack: Pack) -> None:
    samples = open_source(str(pack(TREE))).list()
    assert [sample.label for sample in samples] == ["Negative", "Negative", "Positive"]


def test_a_folder_around_the_class_folders_does_not_count(pack: Pack) -> None:
    wrapped = {f"Concrete Crack Images/{name}": content for name, content in TREE.items()}
    assert contents(pack({**wrapped, "Concrete Crack Images/README.txt": b"", "LICENSE": b""})) == TREE


def test_one_class_folder_is_no_wrapper(pack: Pack) -> None:
    assert list(contents(pack({"Positive/1.jpg": b"1", "Positive/more/2.jpg": b"2"}))) == [
        "Positive/1.jpg",
        "Positive/more/2.jpg",
    ]


def test_leading_dots_in_names_do_not_count(pack: Pack) -> None:
    assert contents(pack({f"./{name}": content for name, content in TREE.items()})) == TREE


def test_junk_is_left_out(pack: Pack) -> None:
    junk = {"__MACOSX/Positive/._1.jpg": b"", "Positive/.DS_Store": b"", "Positive/Thumbs.db": b""}
    assert contents(pack({**TREE, **junk})) == TREE


def test_equal_content_has_equal_stamps_in_every_kind(tmp_path: Path) -> None:
    stamps = set()
    for kind, compress in COMPRESS.items():
        (tmp_path / kind).write_bytes(compress(tarred(TREE)))
        stamps.add(fingerprint(str(tmp_path / kind)))
    (tmp_path / "zip").write_bytes(zipped(TREE))
    assert {fingerprint(str(tmp_path / "zip"))} == stamps


def test_stamps_of_what_was_there_stay_when_pictures_are_added(pack: Pack) -> None:
    before = {sample.uri: sample.stamp for sample in open_source(str(pack(TREE))).list()}
    after = {sample.uri: sample.stamp for sample in open_source(str(pack({"A/0.jpg": b"new", **TREE}))).list()}
    assert before.items() < after.items()


def test_works_in_another_process_without_listing_again(pack: Pack) -> None:
    source = open_source(str(pack(TREE)))
    samples = source.list()
    source.read(samples[0])
    copy = pickle.loads(pickle.dumps(source))
    assert [copy.read(sample) for sample in samples] == list(TREE.values())
    copy.close()
    assert copy.read(samples[0]) == b"one"
    copy.close()
    source.close()


@pytest.mark.parametrize("name", ["../evil/1.jpg", "a/../../evil.jpg", "/etc/evil.jpg", "__MACOSX/../../x"])
def test_paths_that_lead_out_condemn_the_archive(pack: Pack, tmp_path: Path, name: str) -> None:
    path = pack({**TREE, name: b"evil"})
    assert "which leads out of it; do not trust this archive" in message(path)
    assert not list(tmp_path.rglob("*evil*"))


def test_a_name_held_twice_is_refused(pack: Pack) -> None:
    assert "holds 'a/1.jpg' twice" in message(pack({"a/1.jpg": b"1", "./a/1.jpg": b"2"}))


def test_no_class_folders(pack: Pack) -> None:
    assert "no files in class folders" in message(pack({"README": b""}))
    assert "1 picture lies ('1.jpg') in no class folder" in message(pack({"1.jpg": b"x"}))


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_a_truncated_archive_is_refused_and_leaves_nothing(pack: Pack, assay_home: Path, share: float) -> None:
    noise = {f"{label}/{i}.jpg": os.urandom(3000) for label in "ab" for i in range(5)}
    path = pack(noise)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert "is no whole " in message(path)
    assert not list(assay_home.rglob("*.*"))


def test_a_bomb_is_refused(pack: Pack, monkeypatch: pytest.MonkeyPatch, assay_home: Path, kind: str) -> None:
    monkeypatch.setattr(archive, "FREE_BYTES", 1000)
    path = pack({"a/1.jpg": bytes(3_000_000)})
    if kind == "tar":
        assert len(contents(path)["a/1.jpg"]) == 3_000_000
    else:
        assert "no pictures can be packed so; give the unpacked folder" in message(path)
        assert not list(assay_home.rglob("*.*"))


def test_too_many_members_are_refused(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_MEMBERS", 2)
    assert "holds 3 files, more than the 2 allowed" in message(pack(TREE))


def test_too_large_a_member_is_one_bad_file(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(str(pack(TREE)))
    samples = source.list()
    monkeypatch.setattr("assay.data.sources.base.MAX_FILE_BYTES", 100)
    assert source.read(samples[0]) == b"one"
    with pytest.raises(DataError, match="300 bytes, more than the 100"):
        source.read(samples[1])
    source.close()


def test_what_is_no_archive(tmp_path: Path) -> None:
    for content in (b"", b"text", b"Rar!\x1a\x07\0"):
        (tmp_path / "data.zip").write_bytes(content)
        with pytest.raises(DataError, match="neither a folder, nor a zip or tar archive, nor a list"):
            open_source(str(tmp_path / "data.zip"))


def test_zstandard_is_named(tmp_path: Path) -> None:
    (tmp_path / "data.tar.zst").write_bytes(b"\x28\xb5\x2f\xfd rest")
    with pytest.raises(DataError, match="Zstandard is not supported; pack it as"):
        open_source(str(tmp_path / "data.tar.zst"))


@pytest.mark.parametrize("compression", COMPRESS)
def test_a_tar_broken_in_the_middle_is_refused(tmp_path: Path, compression: str) -> None:
    data = bytearray(tarred({f"{label}/{i}.jpg": os.urandom(600) for label in "ab" for i in range(5)}))
    data[1536 * 4 + 10] ^= 0xFF
    (tmp_path / "data").write_bytes(COMPRESS[compression](bytes(data)))
    assert "is no whole tar archive (no end, or a broken header)" in message(tmp_path / "data")


# ---- zip


def test_encrypted_zip_is_refused(tmp_path: Path) -> None:
    data = bytearray(zipped(TREE))
    central = data.index(b"PK\1\2")
    data[central + 8] |= 1
    (tmp_path / "data.zip").write_bytes(data)
    assert "is encrypted; unpack it with its password" in message(tmp_path / "data.zip")


def test_broken_member_of_a_zip_is_one_bad_file(tmp_path: Path) -> None:
    data = zipped(TREE, zipfile.ZIP_STORED)
    (tmp_path / "data.zip").write_bytes(data.replace(b"three", b"thrEE", 1))
    source = open_source(str(tmp_path / "data.zip"))
    *_, broken = source.list()
    with pytest.raises(DataError, match=r"^broken inside its archive$"):
        source.read(broken)
    source.close()


def test_a_zip_member_that_lies_about_its_size_is_read_within_bounds(tmp_path: Path) -> None:
    """A member that claims 10 bytes and unpacks to 20 million."""
    import tracemalloc

    data = bytearray(zipped({"a/1.jpg": bytes(20_000_000), "b/2.jpg": b"2"}))
    size = (20_000_000).to_bytes(4, "little")
    (tmp_path / "data.zip").write_bytes(data.replace(size, (10).to_bytes(4, "little")))
    source = open_source(str(tmp_path / "data.zip"))
    liar, _ = source.list()
    tracemalloc.start()
    with pytest.raises(DataError, match="broken inside its archive"):
        source.read(liar)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
    source.close()


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_unpack_without_bound_are_refused(tmp_path: Path, method: int) -> None:
    (tmp_path / "data.zip").write_bytes(zipped(TREE, method))
    source = open_source(str(tmp_path / "data.zip"))
    with pytest.raises(DataError, match="other than store or deflate"):
        source.read(source.list()[0])
    source.close()


def test_link_in_a_zip_is_one_bad_file(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as packed:
        info = zipfile.ZipInfo("a/link.jpg")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        packed.writestr(info, "/etc/passwd")
        packed.writestr("b/1.jpg", "1")
    source = open_source(str(tmp_path / "data.zip"))
    with pytest.raises(DataError, match=r"^a symbolic link in an archive$"):
        source.read(source.list()[0])
    source.close()


# ---- tar


def link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("compression", ["tar", "tar.gz"])
def test_links_and_devices_in_a_tar_are_bad_files_each(tmp_path: Path, compression: str) -> None:
    special = {
        "z/sym.jpg": (tarfile.SYMTYPE, "a link in an archive"),
        "z/hard.jpg": (tarfile.LNKTYPE, "a link in an archive"),
        "z/device.jpg": (tarfile.CHRTYPE, "no regular file in an archive"),
        "z/pipe.jpg": (tarfile.FIFOTYPE, "no regular file in an archive"),
    }
    packed = tarred(TREE, *(link(name, "/etc/passwd", kind) for name, (kind, _) in special.items()))
    (tmp_path / "data").write_bytes(COMPRESS[compression](packed))
    source = open_source(str(tmp_path / "data"))
    for sample in source.list()[3:]:
        with pytest.raises(DataError) as caught:
            source.read(sample)
        assert str(caught.value) == special[sample.uri][1]


def test_a_compressed_tar_is_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data.tar.gz"
    path.write_bytes(gzip.compress(tarred(TREE)))
    assert contents(path) == TREE
    monkeypatch.setattr(archive, "_walk_tar", None)
    assert contents(path) == TREE


def test_a_changed_tar_is_unpacked_again(tmp_path: Path) -> None:
    path = tmp_path / "data.tar.gz"
    path.write_bytes(gzip.compress(tarred(TREE)))
    contents(path)
    path.write_bytes(gzip.compress(tarred({**TREE, "Negative/00001.jpg": b"new"})))
    assert contents(path)["Negative/00001.jpg"] == b"new"


def test_no_name_from_a_tar_is_ever_made(tmp_path: Path, assay_home: Path) -> None:
    path = tmp_path / "data.tar.gz"
    path.write_bytes(gzip.compress(tarred(TREE)))
    contents(path)
    assert {file.name for file in assay_home.rglob("*") if file.is_file()} == {"content", "index.json"}


def test_an_uncompressed_tar_is_not_copied(tmp_path: Path, assay_home: Path) -> None:
    path = tmp_path / "data.tar"
    path.write_bytes(tarred({"a/1.jpg": os.urandom(500_000)}))
    contents(path)
    assert sum(file.stat().st_size for file in assay_home.rglob("*")) < 100_000


@pytest.mark.parametrize("name", ["content", "index.json"])
def test_half_of_what_was_unpacked_is_not_trusted(tmp_path: Path, assay_home: Path, name: str) -> None:
    path = tmp_path / "data.tar.gz"
    path.write_bytes(gzip.compress(tarred(TREE)))
    source = open_source(str(path))
    samples = source.list()
    (kept,) = assay_home.rglob(name)
    if name == "content":
        kept.write_bytes(kept.read_bytes().replace(b"one", b"0ne"))
    else:
        kept.unlink()
    outcomes = [outcome(open_source(str(path)), sample) for sample in samples]
    assert outcomes[0] == (b"one" if name == "index.json" else b"changed or broken inside its archive")
    assert outcomes[1:] == list(TREE.values())[1:]


def outcome(source: object, sample: object) -> bytes:
    try:
        return source.read(sample)  # type: ignore[attr-defined, no-any-return]
    except DataError as error:
        return str(error).partition(" since")[0].encode()


def test_a_full_disk_is_named_and_leaves_nothing(
    tmp_path: Path, assay_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "data.tar.gz"
    path.write_bytes(gzip.compress(tarred(TREE)))
    monkeypatch.setattr(archive, "_tar_member", full)
    assert f"cannot be indexed in {assay_home / 'archives'}: No space left on device" in message(path)
    assert not list((assay_home / "archives").iterdir())


def test_an_interrupt_leaves_nothing(tmp_path: Path, assay_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "data.tar.gz"
    path.write_bytes(gzip.compress(tarred(TREE)))
    monkeypatch.setattr(archive, "_tar_member", interrupted)
    with pytest.raises(KeyboardInterrupt):
        open_source(str(path)).list()
    assert not list((assay_home / "archives").iterdir())
    monkeypatch.undo()
    monkeypatch.setenv("ASSAY_HOME", str(assay_home))
    assert contents(path) == TREE


def test_whoever_unpacks_first_wins(tmp_path: Path, assay_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process finishes the same archive while this one is at it."""
    path = tmp_path / "data.tar.gz"
    path.write_bytes(gzip.compress(tarred(TREE)))
    walk = archive._walk_tar

    def overtaken(*arguments: object) -> object:
        monkeypatch.setattr(archive, "_walk_tar", walk)
        contents(path)
        return walk(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(archive, "_walk_tar", overtaken)
    assert contents(path) == TREE
    assert len(list((assay_home / "archives").iterdir())) == 1
