import io
import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay import digests
from assay.errors import BundleError
from assay.models.abstention import Abstention
from assay.models.bundle import CONTENTS, FILES, MAX_META_BYTES, Bundle, BundleMeta, Lineage, Parity, write_run
from assay.preprocess import Geometry

LINEAGE = Lineage(
    git_commit="c0ffee",
    git_dirty=False,
    data_digest="d" * 64,
    split_digest="e" * 64,
    config_digest="f" * 64,
    versions={"python": "3.11.0"},
)


def meta(**changes: Any) -> BundleMeta:
    values: dict[str, Any] = {
        "name": "demo",
        "labels": ("crack", "sound"),
        "geometry": Geometry(4),
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.2, 0.2),
        "temperature": 1.25,
        "opset": 20,
        "parity": Parity(max_abs_difference=1e-6, top1_agreement=1.0, images=3),
        "lineage": LINEAGE,
    }
    return BundleMeta(**{**values, **changes})


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def contents(**changes: bytes) -> dict[str, bytes]:
    files = {
        "model.onnx": b"a model",
        "weights.safetensors": b"weights",
        "card.md": b"# demo\n",
        "golden_inputs.npy": npy(np.zeros((2, 4, 4, 3), np.uint8)),
        "golden_outputs.npy": npy(np.full((2, 2), 0.5, np.float32)),
    }
    return files | {name.replace("__", "."): content for name, content in changes.items()}


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle.create(tmp_path / "bundle", meta(), contents())


def test_loads_what_was_created(bundle: Bundle) -> None:
    loaded = Bundle.load(bundle.folder)
    assert loaded == bundle
    assert loaded.meta == meta()
    assert {name: loaded.read(name) for name in CONTENTS} == contents()


def test_the_same_inputs_give_the_same_bytes(bundle: Bundle, tmp_path: Path) -> None:
    again = Bundle.create(tmp_path / "again", meta(), contents())
    assert {name: again.read(name) for name in FILES} == {name: bundle.read(name) for name in FILES}
    assert again.digest == bundle.digest


def test_digest_is_over_all_files_but_the_run(bundle: Bundle) -> None:
    write_run(bundle.folder, {"mlflow": "r1"})
    assert Bundle.load(bundle.folder).digest == bundle.digest == digests.of_files(bundle.folder, FILES)


def test_another_identity_than_expected_is_refused(bundle: Bundle) -> None:
    assert Bundle.load(bundle.folder, expected_digest=bundle.digest) == bundle
    with pytest.raises(BundleError, match=f"is bundle {bundle.digest}, expected {'0' * 64}"):
        Bundle.load(bundle.folder, expected_digest="0" * 64)


@given(st.data())
def test_a_byte_that_changed_is_found_and_its_file_named(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = Bundle.create(tmp_path_factory.mktemp("flip") / "bundle", meta(), contents()).folder
    path = folder / data.draw(st.sampled_from(sorted(FILES)))
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    with pytest.raises(BundleError, match=path.name):
        Bundle.load(folder)


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize("kept", [0, -1])
def test_a_truncated_file_is_named(bundle: Bundle, name: str, kept: int) -> None:
    path = bundle.folder / name
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(BundleError, match=name):
        Bundle.load(bundle.folder)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_missing_file_is_named(bundle: Bundle, name: str) -> None:
    (bundle.folder / name).unlink()
    with pytest.raises(BundleError, match=f"{name} missing"):
        Bundle.load(bundle.folder)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="nowhere: No such file"):
        Bundle.load(tmp_path / "nowhere")


def test_a_file_too_many_is_named(bundle: Bundle) -> None:
    (bundle.folder / "model.pkl").write_bytes(b"")
    with pytest.raises(BundleError, match=r"model\.pkl does not belong"):
        Bundle.load(bundle.folder)


@pytest.mark.parametrize("name", ["card.md", "run.json"])
def test_a_symbolic_link_is_refused(bundle: Bundle, name: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"# demo\n")
    (bundle.folder / name).unlink(missing_ok=True)
    (bundle.folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=f"{name}: not a regular file"):
        Bundle.load(bundle.folder)


def rewritten(bundle: Bundle, change: Any) -> Path:
    """The folder, its bundle.json changed and sealed again by one who knows how."""
    path = bundle.folder / "bundle.json"
    document = json.loads(path.read_bytes())
    del document["seal"]
    change(document)
    document["seal"] = digests.of_json(document)
    path.write_text(json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    return bundle.folder


def test_a_bundle_that_was_sealed_without_abstention_is_whole(bundle: Bundle, tmp_path: Path) -> None:
    assert b"abstention" not in bundle.read("bundle.json")
    shy = Bundle.create(tmp_path / "shy", meta(abstention=Abstention(coverage=0.9, threshold=0.7)), contents())
    assert Bundle.load(shy.folder).meta.abstention == Abstention(coverage=0.9, threshold=0.7)
    assert shy.digest != bundle.digest


def test_rewriting_without_change_is_still_the_bundle(bundle: Bundle) -> None:
    assert Bundle.load(rewritten(bundle, lambda document: None)) == bundle


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format 2, this Assay reads 1"),
        ({"labels": []}, "meta.labels"),
        ({"labels": ["a", "a"]}, "a label stands twice"),
        ({"labels": ["a", ""]}, "meta.labels.1"),
        ({"std": [0.0, 1.0, 1.0]}, "meta.std.0"),
        ({"temperature": 0}, "meta.temperature"),
        ({"thresholds": {"dent": 0.5}}, "dent.*no labels"),
        ({"geometry": {"size": 0, "fit": "crop"}}, "geometry.size"),
        ({"geometry": {"size": 4, "fit": "stretch"}}, "meta.geometry.fit"),
        ({"geometry": {"size": 4, "fit": "crop", "colour": 1}}, "meta.geometry.colour"),
        ({"surprise": 1}, "meta.surprise"),
        ({"abstention": {"coverage": 0.9, "threshold": 1.5}}, "meta.abstention.threshold"),
        ({"abstention": None}, "altered or damaged"),
        ({"opset": "20"}, "altered or damaged"),
    ],
)
def test_meta_that_makes_no_sense_is_refused(bundle: Bundle, change: dict[str, Any], message: str) -> None:
    folder = rewritten(bundle, lambda document: document["meta"].update(change))
    with pytest.raises(BundleError, match=message):
        Bundle.load(folder)


@pytest.mark.parametrize("name", ["../elsewhere", "run.json"])
def test_bundle_json_lists_the_files_of_a_bundle_and_no_others(bundle: Bundle, name: str) -> None:
    folder = rewritten(bundle, lambda document: document["files"].update({name: "0" * 64}))
    with pytest.raises(BundleError, match=r"bundle\.json: altered"):
        Bundle.load(folder)


@pytest.mark.parametrize(
    "content",
    [b"", b"null", b"[]", b'{"meta": null}', b'{"meta": {"format": 1}}', b"\xff", b"[" * 200_000, b"NaN", b"1" * 5000],
    ids=["empty", "null", "list", "no meta", "little", "not text", "deep", "NaN", "long number"],
)
def test_bundle_json_that_is_something_else_is_refused(bundle: Bundle, content: bytes) -> None:
    (bundle.folder / "bundle.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"bundle\.json"):
        Bundle.load(bundle.folder)


def test_a_huge_bundle_json_is_not_read(bundle: Bundle) -> None:
    os.truncate(bundle.folder / "bundle.json", MAX_META_BYTES + 1)
    with pytest.raises(BundleError, match="larger than"):
        Bundle.load(bundle.folder)


def test_read_notices_a_change_since_load(bundle: Bundle) -> None:
    (bundle.folder / "card.md").write_bytes(b"# other\n")
    with pytest.raises(BundleError, match=r"card\.md: changed since"):
        bundle.read("card.md")


def test_golden_arrays(bundle: Bundle) -> None:
    inputs, outputs = bundle.golden()
    assert inputs.dtype == np.uint8
    assert inputs.shape == (2, 4, 4, 3)
    assert outputs.tolist() == [[0.5, 0.5], [0.5, 0.5]]


@pytest.mark.parametrize(
    "changes",
    [
        {"golden_inputs__npy": npy(np.zeros((2, 4, 5, 3), np.uint8))},
        {"golden_inputs__npy": npy(np.zeros((2, 4, 4, 3), np.float32))},
        {"golden_inputs__npy": npy(np.zeros((3, 4, 4, 3), np.uint8))},
        {"golden_outputs__npy": npy(np.zeros((2, 3), np.float32))},
        {"golden_outputs__npy": b"no array"},
        {"golden_outputs__npy": b""},
        {"golden_inputs__npy": npy(np.array([{}], dtype=object))},
        {
            "golden_inputs__npy": npy(np.zeros((0, 4, 4, 3), np.uint8)),
            "golden_outputs__npy": npy(np.zeros((0, 2), "f4")),
        },
    ],
    ids=["shape", "type", "count", "classes", "no array", "empty", "pickle", "none"],
)
def test_golden_arrays_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, bytes]) -> None:
    bundle = Bundle.create(tmp_path / "bundle", meta(), contents(**changes))
    with pytest.raises(BundleError, match="golden"):
        bundle.golden()


def test_a_bundle_that_stands_there_is_replaced(bundle: Bundle) -> None:
    write_run(bundle.folder, {})
    other = Bundle.create(bundle.folder, meta(name="other"), contents())
    assert Bundle.load(bundle.folder).digest == other.digest != bundle.digest
    assert [path.name for path in bundle.folder.parent.iterdir()] == ["bundle"]


def test_what_is_no_bundle_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BundleError, match=r"notes\.txt, which is no part of a bundle"):
        Bundle.create(tmp_path, meta(), contents())
    with pytest.raises(BundleError, match="is no folder"):
        Bundle.create(tmp_path / "notes.txt", meta(), contents())
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_incomplete_bundle_is_not_written(tmp_path: Path) -> None:
    files = contents()
    del files["card.md"]
    with pytest.raises(BundleError, match="a bundle is made of"):
        Bundle.create(tmp_path / "bundle", meta(), files)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("broken", ["write_bytes", "replace"])
def test_a_failure_leaves_what_was_there(bundle: Bundle, broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, *arguments: object) -> None:
        if self.name in ("new", "card.md"):
            raise OSError(28, "No space left on device")
        original(self, *arguments)

    original = getattr(Path, broken)
    with monkeypatch.context() as patch:
        patch.setattr(Path, broken, full)
        with pytest.raises(BundleError, match="cannot be written: No space left"):
            Bundle.create(bundle.folder, meta(name="other"), contents())
    assert Bundle.load(bundle.folder) == bundle
    assert [path.name for path in bundle.folder.parent.iterdir()] == ["bundle"]


def test_run_json_holds_the_ids_and_the_time(bundle: Bundle) -> None:
    write_run(bundle.folder, {"mlflow": "r1"})
    run = json.loads((bundle.folder / "run.json").read_bytes())
    assert run.pop("created").endswith("+00:00")
    assert run == {"mlflow": "r1"}
    assert [path.name for path in bundle.folder.parent.iterdir()] == ["bundle"]


def test_run_json_of_no_bundle_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="No such file"):
        write_run(tmp_path / "nowhere", {})
    assert list(tmp_path.iterdir()) == []


def test_ten_thousand_long_labels_fit(tmp_path: Path) -> None:
    names = [f"{index:05d}{'ß' * random.Random(index).randrange(150)}" for index in range(10_000)]
    Bundle.create(tmp_path / "bundle", meta(labels=tuple(names)), contents())
    assert Bundle.load(tmp_path / "bundle").meta.labels == tuple(names)
