from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from assay import registry
from assay.errors import BundleError
from assay.models.bundle import META
from assay.registry import Version
from serving.model import load
from serving.settings import Settings, SettingsError

from toybundle import LABELS, expected, pixels, toy_bundle

OTHER = "0" * 64


def test_a_folder_is_loaded_and_named_by_its_digest(tmp_path: Path) -> None:
    digest = toy_bundle(tmp_path / "b", card=b"# Card \xff").digest
    predictor, info = load(Settings(bundle=str(tmp_path / "b"), digest=digest, runtime="onnxruntime"))
    assert info.identity == {"name": "colours", "version": digest[:12], "digest": digest}
    assert (info.labels, info.card) == (LABELS, "# Card \ufffd")
    assert info.runtime == f"onnxruntime {onnxruntime.__version__}, fp32"
    np.testing.assert_allclose(predictor.probabilities(pixels(2)), expected(pixels(2)), atol=1e-5)


def test_a_version_can_be_given_to_a_folder(tmp_path: Path) -> None:
    toy_bundle(tmp_path / "b")
    assert load(Settings(bundle=str(tmp_path / "b"), version="7"))[1].version == "7"


def test_a_model_comes_from_the_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = toy_bundle(tmp_path / "b")
    found = Version("colours", "3", bundle.digest, "PROMOTE", ("champion",), "run")
    monkeypatch.setattr(registry, "find", {"colours@champion": found}.get)
    monkeypatch.setattr(registry, "fetch", {found: bundle}.get)
    info = load(Settings(model="colours@champion"))[1]
    assert info.identity == {"name": "colours", "version": "3", "digest": bundle.digest}
    with pytest.raises(BundleError, match="expected 0000"):
        load(Settings(model="colours@champion", digest=OTHER))


def test_without_a_model_there_is_no_service() -> None:
    with pytest.raises(SettingsError, match="set ASSAY_SERVE_BUNDLE to a folder or ASSAY_SERVE_MODEL"):
        load(Settings())


def test_another_bundle_than_was_asked_for_is_refused(tmp_path: Path) -> None:
    toy_bundle(tmp_path / "b")
    with pytest.raises(BundleError, match="expected 0000"):
        load(Settings(bundle=str(tmp_path / "b"), digest=OTHER))


@pytest.mark.parametrize("golden", [expected(pixels(3)) + np.float32(1e-3), np.full((3, 3), np.nan, np.float32)])
def test_a_bundle_that_is_not_reproduced_here_is_refused(tmp_path: Path, golden: np.ndarray) -> None:
    toy_bundle(tmp_path / "b", golden=golden)
    with pytest.raises(BundleError, match="golden outputs differ"):
        load(Settings(bundle=str(tmp_path / "b")))


@pytest.mark.parametrize("labels", [("blue", "green"), ("a", "b", "c", "d"), ("a", "b", " ")])
def test_a_wrong_list_of_labels_is_refused(tmp_path: Path, labels: tuple[str, ...]) -> None:
    toy_bundle(tmp_path / "b", labels=labels)
    with pytest.raises(BundleError, match=r"inputs and outputs|none blank"):
        load(Settings(bundle=str(tmp_path / "b")))


def test_a_single_label_is_refused(tmp_path: Path) -> None:
    toy_bundle(tmp_path / "b", labels=("only",))
    with pytest.raises(BundleError, match="at least two"):
        load(Settings(bundle=str(tmp_path / "b")))


def test_an_emptied_list_of_labels_is_refused(tmp_path: Path) -> None:
    folder = toy_bundle(tmp_path / "b").folder
    text = (folder / META).read_text()
    cut = text.replace(text[text.index('"labels": [') : text.index("]", text.index('"labels": [')) + 1], '"labels": []')
    assert cut != text
    (folder / META).write_text(cut)
    with pytest.raises(BundleError, match="labels"):
        load(Settings(bundle=str(folder)))
