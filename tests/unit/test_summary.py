from pathlib import Path

from PIL import Image

from assay.models.abstention import Abstention
from assay.models.predictor import Predictor
from assay.summary import Submitted, classify, prediction_text, training_json, training_text

from pictures import encoded
from toybundle import toy_bundle


def shown(tmp_path: Path, threshold: float) -> tuple[dict[str, object], str]:
    bundle = toy_bundle(tmp_path / "bundle", abstention=Abstention(coverage=0.9, threshold=threshold))
    image = tmp_path / "red.png"
    image.write_bytes(encoded(Image.new("RGB", (9, 9), "red"), "PNG"))
    row = classify(Predictor(bundle), image, top=1)
    return row, prediction_text(row).removeprefix(str(image))


def test_an_answer_is_shown_plainly(tmp_path: Path) -> None:
    row, text = shown(tmp_path, 0.9)
    assert (row["label"], row["abstained"]) == ("red", False)
    assert text == "  red 100.0%"


def test_an_abstention_stands_before_the_guesses(tmp_path: Path) -> None:
    row, text = shown(tmp_path, 0.0)
    assert (row["label"], row["abstained"]) == ("red", True)
    assert text == "  abstained  red 100.0%"


def test_an_image_that_cannot_be_read_has_no_abstention(tmp_path: Path) -> None:
    row = classify(Predictor(toy_bundle(tmp_path / "bundle")), tmp_path / "none.png", top=1)
    assert prediction_text(row).endswith("not classified: No such file or directory")


def test_a_run_that_goes_on_elsewhere_is_named() -> None:
    run = Submitted("training-1")
    assert "training-1: goes on" in training_text(run)
    assert training_json(run) == {"run": "training-1"}
