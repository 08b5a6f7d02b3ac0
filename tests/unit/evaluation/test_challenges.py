from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from assay.config import Challenges
from assay.data.dataset import Dataset, Subset, from_arrays
from assay.errors import BundleError, ConfigError
from assay.evaluation import challenges
from assay.evaluation.behaviour import BEHAVIOUR
from assay.evaluation.challenges import CHALLENGES, challenge
from assay.evaluation.corruptions import corrupt
from assay.evaluation.predictions import probabilities
from assay.evaluation.unfamiliar import KINDS
from assay.models.bundle import Bundle

from toybundle import LABELS, expected, pixels, toy_bundle

SIZE = 16
ASKED = Challenges(corruptions=("jpeg", "brightness"), severities=(5, 1), behaviour=True, images=3, unfamiliar=10)


def dataset(folder: Path, n: int) -> Dataset:
    labels = [LABELS[i % 3] for i in range(n)]
    return from_arrays(pixels(n, SIZE), labels, folder, splits=["train", *["test"] * (n - 1)])


@pytest.fixture
def test_split(tmp_path: Path) -> Subset:
    return dataset(tmp_path / "shards", 9).subset("test")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return toy_bundle(tmp_path / "bundle", size=SIZE)


def of(table: pa.Table, kind: str) -> pa.Table:
    return table.filter(pa.compute.field("kind") == kind)


def test_every_challenge_shows_every_chosen_image_once(bundle: Bundle, test_split: Subset) -> None:
    table = challenge(bundle, test_split, ASKED)
    smallest = sorted(zip(*(test_split.table[name].to_pylist() for name in ("sha256", "uri", "label")), strict=True))[
        :3
    ]
    assert table.schema == CHALLENGES
    asked = [("jpeg", 1), ("jpeg", 5), ("brightness", 1), ("brightness", 5), *((name, 0) for name in BEHAVIOUR)]
    altered = [row for row in table.to_pylist() if row["kind"] != "unfamiliar"]
    assert [(row["name"], row["severity"], row["uri"], row["label"]) for row in altered] == [
        (name, severity, uri, label) for name, severity in asked for _, uri, label in smallest
    ]


def test_the_answers_are_those_to_the_altered_pixels(bundle: Bundle, test_split: Subset) -> None:
    table = challenge(bundle, test_split, Challenges(corruptions=("jpeg",), severities=(3,), images=99))
    rows = [test_split.table["uri"].to_pylist().index(uri) for uri in table["uri"].to_pylist()]
    digests = test_split.table["sha256"].take(rows).to_pylist()
    p = expected(corrupt(test_split.read(np.array(rows)), digests, "jpeg", 3))
    assert probabilities(table, 3) == pytest.approx(p, abs=1e-5)
    assert table["predicted"].to_pylist() == [LABELS[i] for i in p.argmax(axis=1)]


def test_unfamiliar_images_have_names_of_their_own_and_no_label(bundle: Bundle, test_split: Subset) -> None:
    strange = of(challenge(bundle, test_split, ASKED), "unfamiliar")
    assert strange["name"].to_pylist() == [*KINDS, *KINDS][:10]
    assert len(set(strange["uri"].to_pylist())) == 10
    assert strange["label"].null_count == 10


def test_neither_batches_nor_other_challenges_change_an_answer(
    bundle: Bundle, test_split: Subset, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = challenge(bundle, test_split, ASKED)
    monkeypatch.setattr(challenges, "MAX_BATCH", 2)
    assert challenge(bundle, test_split, ASKED).equals(whole)
    alone = challenge(bundle, test_split, ASKED.model_copy(update={"behaviour": False, "corruptions": ("brightness",)}))
    rest = whole.filter((pa.compute.field("kind") != "behaviour") & (pa.compute.field("name") != "jpeg"))
    assert alone.equals(rest.combine_chunks())


def test_more_test_images_change_no_answer_to_those_that_stay(bundle: Bundle, tmp_path: Path) -> None:
    few, many = (dataset(tmp_path / str(n), n).subset("test") for n in (9, 9))
    part = Subset(many.table.slice(2, 4), dataset(tmp_path / "9", 9))
    everything = Challenges(corruptions=("gaussian_noise",), severities=(2,), images=99)
    found = {row["uri"]: row["p"] for row in challenge(bundle, few, everything).to_pylist()}
    assert {row["uri"]: row["p"] for row in challenge(bundle, part, everything).to_pylist()}.items() <= found.items()


def test_names_and_severities_that_stand_twice_are_done_once(bundle: Bundle, test_split: Subset) -> None:
    twice = Challenges(corruptions=("jpeg", "jpeg"), severities=(2, 2), images=1)
    assert challenge(bundle, test_split, twice).num_rows == 1


def test_nothing_asked_gives_an_empty_table(bundle: Bundle, test_split: Subset) -> None:
    assert challenge(bundle, test_split, Challenges()).equals(CHALLENGES.empty_table())


def test_an_empty_split_gives_an_empty_table(bundle: Bundle, tmp_path: Path) -> None:
    nothing = dataset(tmp_path, 3).subset("validation")
    assert challenge(bundle, nothing, ASKED).equals(CHALLENGES.empty_table())


def test_an_unknown_corruption_is_refused(bundle: Bundle, test_split: Subset) -> None:
    with pytest.raises(ConfigError, match="no corruption is called 'hail'"):
        challenge(bundle, test_split, Challenges(corruptions=("hail",)))


def test_images_of_another_geometry_are_refused(tmp_path: Path, test_split: Subset) -> None:
    with pytest.raises(BundleError, match="takes 8 px squash"):
        challenge(toy_bundle(tmp_path / "other", size=8), test_split, ASKED)
