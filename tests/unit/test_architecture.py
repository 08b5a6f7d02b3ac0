"""The boundaries of the house, held by reading the imports of every file."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import assay

SRC = Path(assay.__file__).parent
ROOT = SRC.parents[1]
ORCHESTRATION = {"zenml", "bentoml", "kubernetes", "kfp"}
SERVING_NEEDS = ["assay.preprocess", "assay.models.bundle", "assay.models.predictor", "assay.cli", "assay.config"]
HEAVY = ["torch", "timm", "albumentations", "pandas", "great_expectations", "matplotlib", "mlflow", "zenml", "sklearn"]


def imports(path: Path) -> set[str]:
    """Top-level packages that a file imports, in any scope."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


LIBRARY = sorted(SRC.rglob("*.py"))


def test_the_library_is_found() -> None:
    assert len(LIBRARY) > 20


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.relative_to(SRC).as_posix())
def test_the_library_knows_no_orchestrator(path: Path) -> None:
    assert not imports(path) & ORCHESTRATION


def test_only_the_registry_speaks_to_mlflow() -> None:
    assert [path.name for path in LIBRARY if "mlflow" in imports(path)] == ["registry.py"]


def test_nothing_is_pickled() -> None:
    assert not [path.name for path in LIBRARY if imports(path) & {"pickle", "joblib", "dill", "cloudpickle", "shelve"}]


@pytest.mark.parametrize("module", SERVING_NEEDS)
def test_what_the_service_imports_is_light(module: str) -> None:
    code = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", sorted((ROOT / "steps").glob("*.py")), ids=lambda path: path.name)
def test_a_step_is_thin(path: Path) -> None:
    functions = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.FunctionDef)]
    lengths = {f.name: (f.body[-1].end_lineno or 0) - f.body[0].lineno + 1 for f in functions}
    assert max(lengths.values(), default=0) <= 25, lengths
