from itertools import count
from pathlib import Path

import pytest

from assay.data.dataset import Subset, from_arrays
from assay.evaluation.latency import WARM_UP, latency
from assay.models.bundle import Bundle
from assay.models.predictor import Predictor

from toybundle import pixels, toy_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return toy_bundle(tmp_path / "bundle")


def split(folder: Path, n: int, name: str = "test") -> Subset:
    return from_arrays(pixels(n), ["red"] * n, folder, splits=["train", *["test"] * (n - 1)]).subset(name)


def test_one_image_at_a_time_on_one_thread(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Spy(Predictor):
        def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
            super().__init__(bundle, threads)
            seen.append(("threads", threads))

        def probabilities(self, images):  # noqa: ANN001, ANN202
            seen.append(("images", len(images)))
            return super().probabilities(images)

    monkeypatch.setattr("assay.evaluation.latency.Predictor", Spy)
    latency(bundle, split(tmp_path, 4), 5)
    assert seen == [("threads", 1), *[("images", 1)] * (WARM_UP + 5)]


def test_milliseconds_after_the_warm_up(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = count(step=0.0123456)
    monkeypatch.setattr("assay.evaluation.latency.time.perf_counter", lambda: next(clock))
    assert latency(bundle, split(tmp_path, 4), 7)[-1] == pytest.approx(12.346, abs=0.0011)


@pytest.mark.parametrize("n", [0, 1, 7])
def test_as_many_as_were_asked_for(tmp_path: Path, bundle: Bundle, n: int) -> None:
    assert len(latency(bundle, split(tmp_path, 4), n)) == n


def test_an_empty_split_gives_nothing(tmp_path: Path, bundle: Bundle) -> None:
    assert latency(bundle, split(tmp_path, 3, "validation"), 5) == ()
