"""Golden images as files: what a service is told apart by."""

from pathlib import Path

import numpy as np
import pytest

from assay.errors import BundleError
from assay.models.predictor import Predictor
from assay.release import golden as golden_module
from assay.release.endpoint import Answer, Unreachable
from assay.release.golden import MAX_IMAGES, Golden, problem_of

from toybundle import expected, pixels, toy_bundle

SIZE = 16


class Saying:
    """An endpoint that gives one answer."""

    name = "it"

    def __init__(self, answer: Answer) -> None:
        self.answer = answer

    def send(self, method: str, path: str, body: bytes = b"", timeout_s: float = 30.0) -> Answer:
        return self.answer


def saying(text: str, status: int = 200) -> Saying:
    return Saying(Answer(status, text.encode()))


def test_a_golden_image_as_a_file_gives_the_golden_answer(tmp_path: Path) -> None:
    bundle = toy_bundle(tmp_path / "b", size=SIZE)
    golden = Golden.of(bundle)
    assert len(golden.examples) == 3
    for example, row in zip(golden.examples, expected(pixels(3, SIZE)), strict=True):
        said = Predictor(bundle).classify(example.image).probabilities
        np.testing.assert_allclose(list(said.values()), row, atol=1e-6)
        assert all(abs(said[label] - p) < 1e-6 for label, p in example.probabilities.items())


def test_what_is_kept_comes_back_and_what_was_changed_does_not(tmp_path: Path) -> None:
    golden = Golden.of(toy_bundle(tmp_path / "b", size=SIZE))
    kept = golden.encode()
    assert Golden.decode(kept, golden.digest) == golden
    with pytest.raises(BundleError, match="have digest"):
        Golden.decode(kept.replace(b"0.", b"1.", 1), golden.digest)


def test_as_many_are_kept_as_there_is_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = pixels(2 * MAX_IMAGES, SIZE)
    bundle = toy_bundle(tmp_path / "b", size=SIZE, golden=expected(many))
    monkeypatch.setattr(type(bundle), "golden", lambda _: (many, expected(many)))
    assert len(Golden.of(bundle).examples) == MAX_IMAGES
    one = len(golden_module._png(many[0])) * 4 // 3
    monkeypatch.setattr(golden_module, "MAX_BYTES", 3 * one)
    assert 2 <= len(Golden.of(bundle).examples) <= 3
    monkeypatch.setattr(golden_module, "MAX_BYTES", one // 2)
    with pytest.raises(BundleError, match="more than"):
        Golden.of(bundle)


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        (saying('{"error": {"message": "the queue is full"}}', 503), "answered 503: the queue is full"),
        (saying("<html>", 502), "answered 502: b'<html>'"),
        (saying('{"label": "red"}'), "an answer of another kind"),
        (saying('{"model": {"digest": "other"}, "probabilities": {}}'), "answered by bundle other"),
        (saying('{"model": null, "probabilities": {}}'), "an answer of another kind"),
    ],
)
def test_wrong_answers_are_named(tmp_path: Path, answer: Saying, wrong: str) -> None:
    golden = Golden.of(toy_bundle(tmp_path / "b", size=SIZE))
    assert wrong in str(problem_of(answer, golden.examples[0], golden.bundle_digest))


@pytest.mark.parametrize(("added", "fine"), [(0.0, True), (9e-4, True), (1.1e-3, False), (float("nan"), False)])
def test_probabilities_may_differ_by_rounding_alone(tmp_path: Path, added: float, fine: bool) -> None:
    golden = Golden.of(toy_bundle(tmp_path / "b", size=SIZE))
    example = golden.examples[0]
    label, *others = example.probabilities
    said = {label: example.probabilities[label] + added, **{other: example.probabilities[other] for other in others}}
    body = f'{{"model": {{"digest": "{golden.bundle_digest}"}}, "probabilities": {said}}}'.replace("'", '"')
    assert (problem_of(saying(body.replace("nan", "NaN")), example, golden.bundle_digest) is None) == fine


def test_what_is_no_json_is_not_the_service() -> None:
    with pytest.raises(Unreachable, match="something else than JSON"):
        Answer(200, b"[1, 2]").content()
