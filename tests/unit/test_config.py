"""The use case's YAML: what is right is read, what is wrong is one line that names the key."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from assay.config import SplitConfig, UseCase, load_use_case
from assay.errors import ConfigError

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
GOOD: dict[str, Any] = {"name": "mine", "data": {"source": "folder"}, "recipe": {"backbone": "resnet10t"}}


def write(folder: Path, use_case: Any) -> Path:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"parameters": {"use_case": use_case}}), encoding="utf-8")
    return path


def test_there_are_configs() -> None:
    assert {path.name for path in CONFIGS} >= {"demo.yaml", "surface_crack.yaml"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_config_is_read(path: Path) -> None:
    assert load_use_case(path).name == path.stem


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_what_is_read_survives_a_round_trip(path: Path) -> None:
    use_case = load_use_case(path)
    assert UseCase.model_validate(use_case.model_dump(mode="json")) == use_case


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": {"backbone": "resnet10t", "epoch": 3}}, "recipe.epoch: unknown key; did you mean 'epochs'?"),
        ({"policy": {"floors": {"recal": {}}}}, "policy.floors.recal: unknown key; did you mean 'recall'?"),
        ({"rceipe": {}}, "rceipe: unknown key; did you mean 'recipe'?"),
        ({"data": {"source": "x", "image_size": "big"}}, "data.image_size"),
        ({"data": {}}, "data.source: Field required"),
        ({"name": "Über"}, "name"),
        ({"split": {"train": 0.9, "validation": 0.2, "test": 0.1}}, "must sum to 1"),
        ({"split": {"train": 1.0, "validation": 0.0, "test": 0.0}}, "more than 0"),
        ({"recipe": {"backbone": "resnet10t", "learning_rate": float("nan")}}, "recipe.learning_rate"),
        ({"recipe": {"backbone": "resnet10t", "epochs": 0}}, "recipe.epochs"),
    ],
)
def test_a_wrong_key_or_value_is_named_in_one_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_use_case(write(tmp_path, GOOD | change))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "parameters:", "parameters: {use_case: 3}", "a: [", "\x00", "- 1"])
def test_a_file_that_is_no_use_case_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_use_case(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give the path of a use case"):
        load_use_case(tmp_path / "none.yaml")


def test_overrides_reach_nested_keys(tmp_path: Path) -> None:
    use_case = load_use_case(write(tmp_path, GOOD), {"recipe.epochs": 2, "policy.floors.recall": {"a": 0.5}})
    assert use_case.recipe.epochs == 2
    assert use_case.policy.floors.recall == {"a": 0.5}


def test_an_override_of_something_unknown_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'epochs'"):
        load_use_case(write(tmp_path, GOOD), {"recipe.epoks": 2})


@given(st.integers(1, 98), st.integers(1, 98))
def test_shares_that_sum_to_one_are_accepted(first: int, second: int) -> None:
    if first + second < 100:
        rest = 100 - first - second
        config = SplitConfig(train=first / 100, validation=second / 100, test=rest / 100)
        assert config.train == first / 100


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda c: st.dictionaries(st.text(), c)))
def test_any_document_is_a_use_case_or_a_config_error(tmp_path_factory: pytest.TempPathFactory, document: Any) -> None:
    path = write(tmp_path_factory.mktemp("any"), document)
    with pytest.raises(ConfigError):
        load_use_case(path)
