import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assay.config import Challenges
from assay.data.dataset import Dataset, from_arrays
from assay.errors import BundleError, ConfigError, DataError
from assay.evaluation.challenges import CHALLENGES as CHALLENGES_SCHEMA
from assay.evaluation.evidence import (
    ATTRIBUTES,
    CANDIDATE,
    CHALLENGES,
    CHAMPION,
    META,
    Champion,
    Evidence,
    EvidenceMeta,
    gather,
)
from assay.evaluation.predictions import PREDICTIONS
from assay.evaluation.slices import ATTRIBUTES as ATTRIBUTES_SCHEMA
from assay.models.abstention import Abstention
from assay.models.bundle import FILES, Bundle

from toybundle import LABELS, SIZE, model, pixels, toy_bundle


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    labels = [LABELS[i % 3] for i in range(12)]
    return from_arrays(pixels(12), labels, tmp_path / "shards", splits=["train"] * 2 + ["test"] * 10)


@pytest.fixture
def candidate(tmp_path: Path) -> Bundle:
    return toy_bundle(tmp_path / "candidate")


def champion(tmp_path: Path) -> Champion:
    weaker = model(scale=0.05).SerializeToString()
    return Champion("3", toy_bundle(tmp_path / "champion", proto=weaker, card=b"another"))


def gathered(tmp_path: Path, candidate: Bundle, dataset: Dataset, rival: Champion | None = None) -> Evidence:
    return gather(candidate, rival, dataset, "colours", tmp_path / "evidence")


def test_both_are_run_on_the_same_images(tmp_path: Path, candidate: Bundle, dataset: Dataset) -> None:
    rival = champion(tmp_path)
    evidence = gathered(tmp_path, candidate, dataset, rival)
    assert evidence.champion is not None
    assert evidence.candidate["uri"].to_pylist() == dataset.subset("test").table["uri"].to_pylist()
    assert evidence.champion["uri"].equals(evidence.candidate["uri"])
    assert not evidence.champion["p"].equals(evidence.candidate["p"])
    assert evidence.meta.model_dump() == {
        "use_case": "colours",
        "candidate_digest": candidate.digest,
        "champion_digest": rival.bundle.digest if rival.bundle else None,
        "champion_version": "3",
        "champion_fault": None,
        "split_digest": dataset.split_digest,
        "data_digest": dataset.digest,
        "labels": LABELS,
        "bundle_bytes": sum((candidate.folder / name).stat().st_size for name in FILES),
        "latency_ms": (),
        "parity": 0.0,
        "abstention": None,
    }


def test_no_champion_is_no_fault(tmp_path: Path, candidate: Bundle, dataset: Dataset) -> None:
    evidence = gathered(tmp_path, candidate, dataset)
    assert evidence.champion is None
    assert (evidence.meta.champion_digest, evidence.meta.champion_version, evidence.meta.champion_fault) == (None,) * 3


def test_a_champion_that_could_not_be_fetched_is_a_fault(tmp_path: Path, candidate: Bundle, dataset: Dataset) -> None:
    evidence = gathered(tmp_path, candidate, dataset, Champion("3", None, "model.onnx: altered"))
    assert (evidence.champion, evidence.meta.champion_fault) == (None, "model.onnx: altered")


def test_a_champion_of_another_geometry_is_a_fault(tmp_path: Path, candidate: Bundle, dataset: Dataset) -> None:
    rival = Champion("3", toy_bundle(tmp_path / "champion", size=2 * SIZE))
    evidence = gathered(tmp_path, candidate, dataset, rival)
    assert evidence.champion is None
    assert evidence.meta.champion_fault == "it takes 8 px squash, the split is stored at 4 px squash"


@pytest.mark.parametrize(
    ("labels", "fault"),
    [
        (("blue", "green", "rust"), "it knows 'rust', which the data lacks and does not know 'red'"),
        (("red", "green", "blue"), "it has the labels in another order than the data"),
    ],
)
def test_a_champion_of_other_labels_is_a_fault(
    tmp_path: Path, candidate: Bundle, dataset: Dataset, labels: tuple[str, ...], fault: str
) -> None:
    evidence = gathered(tmp_path, candidate, dataset, Champion("3", toy_bundle(tmp_path / "champion", labels=labels)))
    assert (evidence.champion, evidence.meta.champion_fault) == (None, fault)


def test_a_champion_that_does_not_run_is_a_fault(tmp_path: Path, candidate: Bundle, dataset: Dataset) -> None:
    rival = Champion("3", toy_bundle(tmp_path / "champion", proto=b"no model"))
    evidence = gathered(tmp_path, candidate, dataset, rival)
    assert evidence.champion is None
    assert "cannot load it" in (evidence.meta.champion_fault or "")


def test_a_candidate_of_other_labels_stops(tmp_path: Path, dataset: Dataset) -> None:
    stranger = toy_bundle(tmp_path / "candidate", labels=("blue", "green", "rust"))
    with pytest.raises(BundleError, match="export it from this data set"):
        gathered(tmp_path, stranger, dataset)


@pytest.mark.parametrize("with_champion", [False, True])
def test_loads_what_was_saved(tmp_path: Path, candidate: Bundle, dataset: Dataset, with_champion: bool) -> None:
    evidence = gathered(tmp_path, candidate, dataset, champion(tmp_path) if with_champion else None)
    loaded = Evidence.load(evidence.folder)
    assert loaded.meta == evidence.meta
    assert loaded.candidate.equals(evidence.candidate)
    assert loaded.champion == evidence.champion
    assert loaded.digest == evidence.digest


def test_saving_again_forgets_the_champion_of_before(tmp_path: Path, candidate: Bundle, dataset: Dataset) -> None:
    gathered(tmp_path, candidate, dataset, champion(tmp_path))
    evidence = gathered(tmp_path, candidate, dataset)
    assert Evidence.load(evidence.folder).champion is None
    assert sorted(path.name for path in evidence.folder.iterdir()) == [ATTRIBUTES, CANDIDATE, META]


def test_two_runs_give_one_digest(tmp_path: Path, candidate: Bundle, dataset: Dataset) -> None:
    first, second = (gathered(tmp_path, candidate, dataset) for _ in range(2))
    assert not first.candidate["latency_ms"].equals(second.candidate["latency_ms"])
    assert first.digest == second.digest


def small(**columns: list[object]) -> Evidence:
    values = {"uri": ["a", "b"], "sha256": ["0", "1"], "label": ["x", "y"], "group": ["g", "h"]}
    rest = {"p": [[0.9, 0.1], [0.2, 0.8]], "predicted": ["x", "y"], "latency_ms": [1.0, 1.0]}
    table = pa.table({**values, **rest, **columns}, schema=PREDICTIONS)
    meta = {"use_case": "u", "candidate_digest": "c", "split_digest": "s", "data_digest": "d", "labels": ("x", "y")}
    return Evidence(Path("nowhere"), table, None, EvidenceMeta.model_validate(meta))


@pytest.mark.parametrize(
    "columns",
    [
        {"uri": ["a", "c"]},
        {"uri": ["ab", ""]},
        {"label": ["x", None]},
        {"p": [[0.9, 0.1], [0.3, 0.7]]},
        {"p": [[0.9, 0.1, 0.2], [0.8]]},
        {"p": [[0.9, 0.1, 0.2, 0.8], None]},
        {"p": [[0.9, 0.1, 0.2, 0.8], []]},
    ],
)
def test_any_other_value_gives_another_digest(columns: dict[str, list[object]]) -> None:
    assert small(**columns).digest != small().digest


def test_how_a_table_is_cut_into_chunks_does_not_show() -> None:
    whole = small()
    cut = pa.concat_tables([whole.candidate.slice(0, 1), whole.candidate.slice(1)])
    assert Evidence(whole.folder, cut, None, whole.meta).digest == whole.digest


def test_altered_predictions_are_found(tmp_path: Path, candidate: Bundle, dataset: Dataset) -> None:
    folder = gathered(tmp_path, candidate, dataset).folder
    table = pq.read_table(folder / CANDIDATE)
    flattering = table.set_column(table.schema.get_field_index("label"), "label", table["predicted"])
    pq.write_table(flattering, folder / CANDIDATE)
    with pytest.raises(DataError, match="altered"):
        Evidence.load(folder)


def test_altered_meta_data_is_found(tmp_path: Path, candidate: Bundle, dataset: Dataset) -> None:
    folder = gathered(tmp_path, candidate, dataset).folder
    document = json.loads((folder / META).read_text())
    document["meta"]["candidate_digest"] = "0" * 64
    (folder / META).write_text(json.dumps(document))
    with pytest.raises(DataError, match="altered"):
        Evidence.load(folder)


@pytest.mark.parametrize("name", [CANDIDATE, CHAMPION, META])
@pytest.mark.parametrize("damage", ["missing", "half"])
def test_what_is_missing_or_half_written_is_an_error(
    tmp_path: Path, candidate: Bundle, dataset: Dataset, name: str, damage: str
) -> None:
    path = gathered(tmp_path, candidate, dataset, champion(tmp_path)).folder / name
    half = path.read_bytes()[: path.stat().st_size // 2]
    path.unlink()
    path.write_bytes(half) if damage == "half" else None
    with pytest.raises(DataError, match=name):
        Evidence.load(path.parent)


def test_probabilities_of_the_tables_are_float32(tmp_path: Path, candidate: Bundle, dataset: Dataset) -> None:
    loaded = Evidence.load(gathered(tmp_path, candidate, dataset).folder)
    assert loaded.candidate.schema == PREDICTIONS
    assert loaded.candidate["p"].combine_chunks().flatten().to_numpy().dtype == np.float32


SHOWN = Challenges(corruptions=("brightness",), severities=(2,), behaviour=True, images=3, unfamiliar=9, latency=4)


@pytest.fixture
def challenged(tmp_path: Path, dataset: Dataset) -> Evidence:
    shy = toy_bundle(tmp_path / "shy", abstention=Abstention(coverage=0.9, threshold=0.25))
    return gather(shy, champion(tmp_path), dataset, "colours", tmp_path / "evidence", SHOWN)


def test_the_images_attributes_stand_in_the_order_of_the_predictions(challenged: Evidence) -> None:
    assert challenged.attributes is not None
    assert challenged.attributes.schema == ATTRIBUTES_SCHEMA
    assert challenged.attributes["uri"].equals(challenged.candidate["uri"])


def test_the_candidate_is_challenged_as_asked(challenged: Evidence) -> None:
    assert challenged.challenges is not None
    assert challenged.challenges.schema == CHALLENGES_SCHEMA
    assert challenged.challenges.num_rows == 3 + 6 * 3 + 9
    assert len(challenged.meta.latency_ms) == 4
    assert challenged.meta.abstention == Abstention(coverage=0.9, threshold=0.25)


def test_without_a_challenge_there_is_no_table(tmp_path: Path, candidate: Bundle, dataset: Dataset) -> None:
    assert gathered(tmp_path, candidate, dataset).challenges is None


def test_an_unknown_challenge_stops_before_anything_is_run(
    tmp_path: Path, candidate: Bundle, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("assay.evaluation.evidence.predict", lambda *_: pytest.fail("it was run"))
    with pytest.raises(ConfigError, match="no corruption is called 'hail'"):
        gather(candidate, None, dataset, "colours", tmp_path / "evidence", Challenges(corruptions=("hail",)))


def test_loads_every_table_that_was_saved(challenged: Evidence) -> None:
    loaded = Evidence.load(challenged.folder)
    assert loaded.digest == challenged.digest
    assert loaded.meta == challenged.meta
    assert loaded.attributes.to_pydict().keys() == challenged.attributes.to_pydict().keys()
    assert loaded.attributes["uri"].equals(challenged.attributes["uri"])
    assert loaded.challenges.equals(challenged.challenges)


@pytest.mark.parametrize(("name", "column"), [(ATTRIBUTES, "stroke_width"), (CHALLENGES, "predicted")])
def test_an_altered_table_is_found(challenged: Evidence, name: str, column: str) -> None:
    path = challenged.folder / name
    table = pq.read_table(path)
    values = pa.array(["blue"] * table.num_rows if column == "predicted" else [1.0] * table.num_rows)
    place = table.schema.get_field_index(column)
    pq.write_table(table.set_column(place, table.field(place), values.cast(table.field(place).type)), path)
    with pytest.raises(DataError, match="altered"):
        Evidence.load(challenged.folder)


@pytest.mark.parametrize("name", [CHAMPION, ATTRIBUTES, CHALLENGES])
@pytest.mark.parametrize("hidden", [False, True])
def test_a_table_that_was_taken_away_is_missed(challenged: Evidence, name: str, hidden: bool) -> None:
    (challenged.folder / name).unlink()
    document = json.loads((challenged.folder / META).read_text())
    document["beside"] = [other for other in document["beside"] if not (hidden and other == name)]
    (challenged.folder / META).write_text(json.dumps(document))
    with pytest.raises(DataError, match="altered" if hidden else name):
        Evidence.load(challenged.folder)


@pytest.mark.parametrize(
    "change",
    [
        {"bundle_bytes": 1},
        {"latency_ms": (0.1,)},
        {"parity": 0.5},
        {"abstention": Abstention(coverage=0.9, threshold=0.1)},
    ],
)
def test_what_the_gate_reads_is_in_the_digest(change: dict[str, object]) -> None:
    plain = small()
    other = Evidence(plain.folder, plain.candidate, None, plain.meta.model_copy(update=change))
    assert other.digest != plain.digest


def test_a_table_of_one_name_is_not_one_of_another() -> None:
    plain = small()
    table = pa.table({"uri": ["a", "b"]})
    one, other = (Evidence(plain.folder, plain.candidate, None, plain.meta, *t) for t in ((table, None), (None, table)))
    assert one.digest != other.digest


def test_a_table_that_was_made_before_is_forgotten(challenged: Evidence) -> None:
    Evidence(challenged.folder, challenged.candidate, None, challenged.meta).save()
    assert sorted(path.name for path in challenged.folder.iterdir()) == [CANDIDATE, META]
    assert Evidence.load(challenged.folder).challenges is None
