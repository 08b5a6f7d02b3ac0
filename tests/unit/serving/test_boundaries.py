"""What the service may bring into its processes."""

import subprocess
import sys
from pathlib import Path

import pytest

import serving

PACKAGE = Path(serving.__file__).parent
TRAINING = [
    "torch",
    "timm",
    "albumentations",
    "pandas",
    "great_expectations",
    "matplotlib",
    "mlflow",
    "zenml",
    "sklearn",
]


def brought(module: str, suspects: list[str]) -> str:
    code = f"import sys, {module}; print([name for name in {suspects!r} if name in sys.modules])"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    ).stdout.strip()


@pytest.mark.parametrize("module", ["serving.app", "serving.model"])
def test_the_application_needs_neither_training_nor_bentoml(module: str) -> None:
    assert brought(module, [*TRAINING, "bentoml", "prometheus_client"]) == "[]"


def test_the_process_that_only_watches_loads_no_model() -> None:
    assert brought("serving.service", [*TRAINING, "onnxruntime", "prometheus_client", "PIL"]) == "[]"


def test_bentoml_is_known_to_one_module() -> None:
    assert [path.name for path in PACKAGE.rglob("*.py") if "import bentoml" in path.read_text()] == ["service.py"]


def test_nothing_is_unpickled() -> None:
    assert not [path.name for path in PACKAGE.rglob("*.py") if "import pickle" in path.read_text()]
