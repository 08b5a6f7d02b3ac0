"""The stacks' YAMLs: sound, without credentials, and their variables told all at once."""

import re
from pathlib import Path

import pytest
import yaml

from stacks import files
from stacks.errors import StackError
from stacks.files import load, names

NEEDED = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret-value",
    "MLFLOW_TRACKING_USERNAME": "user",
    "MLFLOW_TRACKING_PASSWORD": "password-value",
    "MLFLOW_TRACKING_URI": "https://mlflow.example.com",
    "ASSAY_BUCKET": "assay",
    "ASSAY_LEDGER": "s3://assay/ledger",
    "ASSAY_REGISTRY": "registry.example.com/assay",
    "KUBERNETES_CONTEXT": "team",
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KUBEFLOW_HOST", "ASSAY_S3_ENDPOINT", "AWS_REGION", "ASSAY_ANY_TAG", "ASSAY_WAIT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in NEEDED.items():
        monkeypatch.setenv(name, value)


def test_the_shipped_stacks_are_sound(environment: None) -> None:
    assert names() == ["kubeflow", "kubernetes", "local"]
    for name in names():
        stack = load(name)
        assert stack.name == name
        assert {"orchestrator", "artifact_store"} <= set(stack.components)


def test_what_is_left_empty_is_left_out(environment: None) -> None:
    configuration = load("kubeflow").components["orchestrator"].configuration
    assert "kubeflow_hostname" not in configuration
    assert "AWS_ENDPOINT_URL" not in load("kubeflow").environment
    assert load("kubeflow").components["artifact_store"].configuration["client_kwargs"] == {"region_name": "us-east-1"}


def test_all_variables_that_are_not_set_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NEEDED:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(StackError) as error:
        load("kubernetes")
    for name in NEEDED:
        assert name in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["kubeflow", "kubernetes"])
def test_no_credential_stands_in_a_file(name: str) -> None:
    text = (files.FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    for key, value in yaml.safe_load(text)["secrets"].items():
        for secret in value.values():
            assert re.fullmatch(r"\$\{[A-Z_]+\}", secret), key


def test_an_unknown_stack_and_a_stack_that_is_none_are_told(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="no stack 'kubflow'; there are: kubeflow, kubernetes, local"):
        load("kubflow")
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: [", encoding="utf-8")
    with pytest.raises(StackError, match=r"broken\.yaml: cannot be read"):
        load(str(broken))
    broken.write_text("name: x\ncomponents: {}\ncomponent: {a: b}\n", encoding="utf-8")
    with pytest.raises(StackError, match=r"stack\.component: unknown setting"):
        load(str(broken))
