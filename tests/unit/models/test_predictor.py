import io
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from assay.errors import BundleError
from assay.models.abstention import Abstention
from assay.models.predictor import MAX_BATCH, Predictor, session
from assay.preprocess import Geometry, Unreadable, decode

from toybundle import LABELS, SIZE, expected, model, pixels, toy_bundle


@pytest.fixture
def predictor(tmp_path: Path) -> Predictor:
    return Predictor(toy_bundle(tmp_path / "bundle", model().SerializeToString()), threads=1)


@pytest.mark.parametrize("n", [0, 1, MAX_BATCH, MAX_BATCH + 1, 2 * MAX_BATCH + 5])
def test_probabilities_of_any_number_of_images(predictor: Predictor, n: int) -> None:
    probabilities = predictor.probabilities(pixels(n))
    assert probabilities.dtype == np.float32
    assert probabilities.shape == (n, 3)
    np.testing.assert_allclose(probabilities, expected(pixels(n)), atol=1e-5)


def test_never_more_than_a_batch_at_once(predictor: Predictor) -> None:
    seen = []

    def infer(images: np.ndarray) -> np.ndarray:
        seen.append(len(images))
        return np.zeros((len(images), 3), np.float32)

    assert len(predictor.computed_by(infer).probabilities(pixels(2 * MAX_BATCH + 5))) == 2 * MAX_BATCH + 5
    assert seen == [MAX_BATCH, MAX_BATCH, 5]
    predictor.probabilities(pixels(1))  # which computes as before
    assert len(seen) == 3


@pytest.mark.parametrize(
    "wrong",
    [pixels(1)[0], pixels(1).astype(np.float32), pixels(1)[..., :1], np.zeros((1, 3, SIZE, SIZE), np.uint8)],
    ids=["one image", "floats", "grey", "channels first"],
)
def test_pixels_of_another_shape_or_type_are_refused(predictor: Predictor, wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"must be uint8 \[n, 4, 4, 3\], given"):
        predictor.probabilities(wrong)


def test_classify_decodes_with_the_geometry_of_the_bundle(tmp_path: Path) -> None:
    predictor = Predictor(toy_bundle(tmp_path / "bundle", model().SerializeToString(), geometry=Geometry(SIZE, "crop")))
    image = Image.new("RGB", (40, 10), "red")
    image.paste("blue", (15, 0, 25, 10))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    prediction = predictor.classify(buffer.getvalue())
    row = predictor.probabilities(decode(buffer.getvalue(), Geometry(SIZE, "crop"))[np.newaxis])[0]
    assert prediction.label == "blue"
    assert prediction.probabilities == dict(zip(LABELS, row.tolist(), strict=True))


@pytest.mark.parametrize(("threshold", "abstained"), [(0.0, True), (0.5, False), (1.0, True)])
def test_abstains_unless_one_label_reaches_the_threshold(tmp_path: Path, threshold: float, abstained: bool) -> None:
    fitted = Abstention(coverage=0.9, threshold=threshold)
    predictor = Predictor(toy_bundle(tmp_path / "bundle", model(scale=0.01).SerializeToString(), abstention=fitted))
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    prediction = predictor.classify(buffer.getvalue())
    assert (prediction.label, prediction.abstained) == ("red", abstained)


def test_a_bundle_without_a_threshold_always_answers(predictor: Predictor) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "grey").save(buffer, "PNG")
    assert not predictor.classify(buffer.getvalue()).abstained


def test_what_is_no_image_is_unreadable(predictor: Predictor) -> None:
    with pytest.raises(Unreadable, match="no image"):
        predictor.classify(b"<svg/>")


def test_golden_outputs_are_reproduced(predictor: Predictor) -> None:
    predictor.check_golden()


@pytest.mark.parametrize("golden", [expected(pixels(3)) + np.float32(2e-4), np.full((3, 3), np.nan, np.float32)])
def test_golden_outputs_that_differ_are_refused(tmp_path: Path, golden: np.ndarray) -> None:
    predictor = Predictor(toy_bundle(tmp_path / "bundle", model().SerializeToString(), golden))
    with pytest.raises(BundleError, match="golden outputs differ"):
        predictor.check_golden()


def test_an_output_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    predictor = Predictor(toy_bundle(tmp_path / "bundle", model(scale=np.inf).SerializeToString()))
    with pytest.raises(BundleError, match="not numbers"):
        predictor.probabilities(pixels(1))


@pytest.mark.parametrize(
    "other", [model(classes=4), model(size=8), model(batch=1)], ids=["more classes", "larger images", "one at a time"]
)
def test_a_model_that_is_not_what_bundle_json_says_is_refused(tmp_path: Path, other: onnx.ModelProto) -> None:
    with pytest.raises(BundleError, match=r"model\.onnx: inputs and outputs are .* must be"):
        Predictor(toy_bundle(tmp_path / "bundle", other.SerializeToString()))


def test_a_bundle_that_decodes_images_another_way_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="decoded by version 999"):
        Predictor(toy_bundle(tmp_path / "bundle", model().SerializeToString(), preprocess=999))


@pytest.mark.parametrize("content", [b"", b"no model", model().SerializeToString()[:-9]], ids=["empty", "text", "cut"])
def test_a_model_that_cannot_be_loaded_is_refused(content: bytes) -> None:
    with pytest.raises(BundleError, match=r"model\.onnx: .*ONNX Runtime"):
        session(content)


def test_operators_of_its_own_are_refused() -> None:
    proto = model()
    proto.graph.node[2].domain = "com.example"
    proto.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(BundleError, match=r"com\.example"):
        session(proto.SerializeToString())


@pytest.mark.parametrize("location", ["w.bin", "../{name}/w.bin", "{folder}/w.bin"], ids=["here", "above", "absolute"])
def test_weights_in_other_files_are_refused(tmp_path: Path, location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    proto = model()
    tensor = proto.graph.initializer[1]
    (tmp_path / "w.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location.format(name=tmp_path.name, folder=tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match="External data path"):
        session(proto.SerializeToString())


def test_a_model_that_was_exchanged_after_loading_is_refused(tmp_path: Path) -> None:
    loaded = toy_bundle(tmp_path / "bundle", model().SerializeToString())
    (loaded.folder / "model.onnx").write_bytes(model(scale=0.2).SerializeToString())
    with pytest.raises(BundleError, match="changed since"):
        Predictor(loaded)


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BundleError):
        session(b"no model")
    proto = model()
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(3), "unused"))  # the runtime warns of it
    session(proto.SerializeToString())
    assert capfd.readouterr() == ("", "")
