"""A CSV or Parquet list names pictures, labels and groups; every mistake in it is told with its line."""

import io
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.data.sources import Sample, fingerprint, open_source
from assay.data.sources.listing import _csv_rows, _parquet_rows, _Row
from assay.errors import DataError

PICTURES = {"one.jpg": b"1", "deep/two.jpg": b"22", "ü 裂.jpg": b"333"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in PICTURES.items():
        (tmp_path / "list" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "list" / name).write_bytes(content)
    return tmp_path / "list"


def csv_list(folder: Path, text: str | bytes) -> str:
    (folder / "list.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(folder / "list.csv")


def parquet_list(folder: Path, **columns: object) -> str:
    pq.write_table(pa.table(columns), folder / "list.parquet")
    return str(folder / "list.parquet")


def message(uri: str) -> str:
    with pytest.raises(DataError) as caught:
        open_source(uri).list()
    assert str(caught.value).startswith(f"{uri}: ")
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{uri}: ")


def reason(uri: str) -> str:
    source = open_source(uri)
    with pytest.raises(DataError) as caught:
        source.read(source.list()[0])
    return str(caught.value)


def test_csv(folder: Path) -> None:
    uri = csv_list(folder, "uri,label,group\none.jpg,crack,wall 1\ndeep/two.jpg,intact,\n")
    source = open_source(uri)
    samples = source.list()
    assert [(s.uri, s.label, s.group) for s in samples] == [
        ("deep/two.jpg", "intact", None),
        ("one.jpg", "crack", "wall 1"),
    ]
    assert [source.read(sample) for sample in samples] == [b"22", b"1"]


@pytest.mark.parametrize(
    "text",
    [
        "label,uri\r\ncrack,one.jpg\r\n",
        "\ufeffuri,label\none.jpg,crack",
        'more,uri,label\nx,"one.jpg","crack"\n\n',
        'uri,label,note\none.jpg,crack,"two\nlines"\n',
    ],
)
def test_csv_as_programs_write_it(folder: Path, text: str) -> None:
    assert [(s.uri, s.label, s.group) for s in open_source(csv_list(folder, text)).list()] == [
        ("one.jpg", "crack", None)
    ]


def test_parquet_gives_what_csv_gives(folder: Path) -> None:
    rows = csv_list(folder, "uri,label,group\none.jpg,a,g\nü 裂.jpg,b,\n")
    table = parquet_list(folder, uri=["ü 裂.jpg", "one.jpg"], label=["b", "a"], group=[None, "g"], more=[1.5, 2.5])
    assert open_source(table).list() == open_source(rows).list()
    assert fingerprint(table) == fingerprint(rows)


def test_parquet_types(folder: Path) -> None:
    uris = pa.array(["one.jpg", "deep/two.jpg"], pa.large_string()).dictionary_encode()
    samples = open_source(parquet_list(folder, uri=uris, label=pa.array([1, 0], pa.int8()))).list()
    assert [(sample.uri, sample.label) for sample in samples] == [("deep/two.jpg", "0"), ("one.jpg", "1")]


def test_absolute_paths_and_file_uris(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "else where.jpg"
    elsewhere.write_bytes(b"else")
    rows = f"{elsewhere},a\nfile://{str(elsewhere).replace(' ', '%20')},b\n"
    source = open_source(csv_list(folder, f"uri,label\n{rows}"))
    assert [source.read(sample) for sample in source.list()] == [b"else", b"else"]


def test_relative_uris_do_not_hang_on_the_working_directory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    csv_list(folder, "uri,label\none.jpg,a\n")
    monkeypatch.chdir(folder.parent)
    source = open_source("list/list.csv")
    assert source.read(source.list()[0]) == b"1"


def test_survives_the_way_into_another_process(folder: Path) -> None:
    source = open_source(csv_list(folder, "uri,label\none.jpg,a\n"))
    assert pickle.loads(pickle.dumps(source)).read(Sample("one.jpg", "a", None, "")) == b"1"


def test_a_missing_file_is_one_bad_file(folder: Path) -> None:
    uri = csv_list(folder, "uri,label\nnone.jpg,a\none.jpg,a\n")
    assert reason(uri) == "cannot be read: No such file or directory"


def test_stamp_follows_the_file(folder: Path) -> None:
    uri = csv_list(folder, "uri,label\nlate.jpg,a\n")
    before = fingerprint(uri)
    (folder / "late.jpg").write_bytes(b"x")
    assert fingerprint(uri) != before


def test_a_link_out_of_the_folder_is_one_bad_file(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "link.jpg").symlink_to(tmp_path / "secret")
    assert reason(csv_list(folder, "uri,label\nlink.jpg,a\n")) == "a symbolic link out of the folder"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "no column uri and no column label (found: none); name uri, label and maybe group"),
        ("uri,lable\na,b\n", "no column label (found: 'uri', 'lable'); name uri, label and maybe group"),
        ("uri;label\na;b\n", "no column uri and no column label (found: 'uri;label'); name uri, label and maybe group"),
        ("uri,label,uri\na,b,c\n", "two columns uri (found: 'uri', 'label', 'uri')"),
        ("uri,label\n", "lists no pictures"),
        ("uri,label\na.jpg,x\nb.jpg\n", "line 3: 1 fields, but the first line names 2 columns"),
        ("uri,label\na.jpg,x,y\n", "line 2: 3 fields, but the first line names 2 columns"),
        ("uri,label\na.jpg,x\nb.jpg,\n", "line 3: no label; every row needs a uri and a label"),
        ("uri,label\n ,x\n", "line 2: no uri; every row needs a uri and a label"),
        ("uri,label\na,x\nb,x\na,y\n", "line 4: 'a' stands in line 2 already; list each picture once"),
        ('uri,label\na,"x\n', "line 2: unexpected end of data"),
        (b"uri,label\na,x\n\xff,y\n", "line 3: not UTF-8; save the list as UTF-8"),
        ("uri,label\nhttp://x/a.jpg,x\n", "line 2: 'http://x/a.jpg' is neither a path, file:// nor s3://; download it"),
        ("uri,label\nb,x\n../a.jpg,x\n", "line 3: '../a.jpg' climbs out of the list's folder; give an absolute path"),
        ("uri,label\nx/../../a.jpg,x\n", "line 2: 'x/../../a.jpg' climbs out"),
        ("uri,label\na\0b,x\n", r"line 2: 'a\x00b' holds a null character"),
        ("uri,label\ns3://bucket,x\n", "line 2: 's3://bucket' names a bucket, but no object in it"),
        ("uri,label\nfile://host/a.jpg,x\n", "line 2: file://host/a.jpg: names the host 'host'"),
        ("uri,label\ns3://B!/a.jpg,x\n", "line 2: s3://B!/a.jpg: 'B!' is no bucket name; as in s3://"),
    ],
)
def test_mistakes_are_told_with_their_line(folder: Path, text: str | bytes, expected: str) -> None:
    assert message(csv_list(folder, text)).startswith(expected)


def test_parquet_mistakes_are_told_with_their_row(folder: Path) -> None:
    assert message(parquet_list(folder, uri=["a", "b"], label=["x", None])).startswith("row 2: no label")
    assert message(parquet_list(folder, uri=["a"], label=[1.5])) == "column label is of type double; it should be text"
    assert message(parquet_list(folder, url=["a"], label=["x"])).startswith("no column uri (found: 'url', 'label')")
    (folder / "list.parquet").write_bytes(b"PAR1 no")
    assert message(str(folder / "list.parquet")).startswith("no whole Parquet file (")


def test_parquet_rows_are_counted_over_the_whole_file(folder: Path) -> None:
    labels = [*["x"] * 70_000, None]
    uri = parquet_list(folder, uri=[str(number) for number in range(70_001)], label=labels)
    assert message(uri).startswith("row 70001: no label")


CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8)


@settings(max_examples=60)
@given(st.lists(st.tuples(CELLS, CELLS, st.none() | CELLS), max_size=8))
def test_csv_and_parquet_give_back_any_text(rows: list[tuple[str, str, str | None]]) -> None:
    import csv

    text, table = io.StringIO(newline=""), io.BytesIO()
    csv.writer(text).writerows([("uri", "label", "group"), *((u, label, group or "") for u, label, group in rows)])
    columns = list(zip(*rows, strict=True)) or [[], [], []]
    names = ("uri", "label", "group")
    pq.write_table(
        pa.table({name: pa.array(column, pa.string()) for name, column in zip(names, columns, strict=True)}), table
    )
    for found in (_csv_rows(text.getvalue().encode()), _parquet_rows(table.getvalue())):
        assert [tuple(row[1:]) for row in found] == rows


@settings(max_examples=200)
@given(st.sampled_from([b"", b"uri,label\n", b"uri,label,group\n"]), st.binary(max_size=60))
def test_any_bytes_are_rows_or_a_mistake(header: bytes, rest: bytes) -> None:
    try:
        outcome = [type(row) for row in _csv_rows(header + rest)]
    except DataError as error:
        outcome = str(error).splitlines()[1:]
    assert set(outcome) <= {_Row}
