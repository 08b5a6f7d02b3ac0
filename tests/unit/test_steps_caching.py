"""The step cache watches the library that a step calls."""

from pathlib import Path

import pytest

from steps import caching

STEP = """
from typing import TYPE_CHECKING
from assay.data.scan import scan
if TYPE_CHECKING:
    import assay.typed

def step():
    from assay import late
"""


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library of a few files in place of ours."""
    package = tmp_path / "assay"
    files = {
        "__init__.py": "",
        "late.py": "",
        "unrelated.py": "",
        "typed.py": "",
        "deep.py": "",
        "data/__init__.py": "",
        "data/scan.py": "import assay.deep\n",
        "data/page.html.j2": "<p>",
    }
    for name, text in files.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    (tmp_path / "step.py").write_text(STEP)
    monkeypatch.setattr(caching, "PACKAGE", package)
    return package


@pytest.mark.parametrize("name", ["data/scan.py", "deep.py", "late.py", "data/__init__.py", "data/page.html.j2"])
def test_an_edit_of_what_is_called_changes_the_digest(library: Path, name: str) -> None:
    before = caching.code_digest(str(library.parent / "step.py"))
    with (library / name).open("a") as file:
        file.write("\n# edited\n" if name.endswith(".py") else "edited")
    assert caching.code_digest(str(library.parent / "step.py")) != before


def test_an_edit_elsewhere_does_not(library: Path) -> None:
    before = caching.code_digest(str(library.parent / "step.py"))
    (library / "unrelated.py").write_text("changed = True\n")
    (library / "typed.py").write_text("changed = True\n")
    assert caching.code_digest(str(library.parent / "step.py")) == before
