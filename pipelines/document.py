"""A use case's YAML as ZenML's run configuration. ZenML leaves out, without a word, what it does not know."""

import inspect
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from zenml.config.pipeline_run_configuration import PipelineRunConfiguration
from zenml.steps import BaseStep

from assay.config import UseCase, use_case_document
from assay.errors import ConfigError
from pipelines import training


def run_document(config: Path, use_case: UseCase) -> dict[str, Any]:
    """The run configuration of a training.

    Args:
        config: the use case's YAML.
        use_case: what takes the place of the one in it.

    Raises:
        ConfigError: it has a key, a parameter or a step that there is not.
    """
    document = use_case_document(config)
    parameters = inspect.signature(training.training_pipeline.entrypoint).parameters
    steps = (value.name for value in vars(training).values() if isinstance(value, BaseStep))
    _known(config, "", document, PipelineRunConfiguration.model_fields)
    _known(config, "parameters.", document["parameters"], parameters)
    _known(config, "steps.", document.get("steps") or {}, steps)
    bootstrap = document["parameters"].get("bootstrap", False)
    if not isinstance(bootstrap, bool):
        raise ConfigError(f"{config}: parameters.bootstrap: true or false, not {bootstrap!r}")
    document["parameters"]["use_case"] = use_case.model_dump(mode="json")
    return document


def _known(config: Path, place: str, given: Any, known: Iterable[str]) -> None:
    if not isinstance(given, Mapping):
        raise ConfigError(f"{config}: {place.rstrip('.')}: must be a mapping, not {given!r}")
    names = sorted(known)
    for key in given:
        if key not in names:
            meant = get_close_matches(str(key), names, n=1)
            hint = f"is {place}{meant[0]} meant?" if meant else f"there are {', '.join(names)}"
            raise ConfigError(f"{config}: {place}{key}: there is no such key; {hint}")
