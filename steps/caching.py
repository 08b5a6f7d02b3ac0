"""What ZenML's step cache watches besides a step's own source: the library code that the step calls.

ZenML hashes the step function alone, so an edit in the library would go unnoticed and an old result be served.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import assay
from assay.digests import of_file, of_json

PACKAGE = Path(assay.__file__).parent


def code_digest(step_file: str) -> str:
    """Digest of the library files that a step's file imports, directly or through others, in any scope."""
    seen: set[Path] = set()
    pending = list(_imported(Path(step_file)))
    while pending:
        path = pending.pop()
        if path not in seen:
            seen.add(path)
            pending += _imported(path) if path.suffix == ".py" else ()
    return of_json(sorted((path.relative_to(PACKAGE).as_posix(), of_file(path)) for path in seen))


def _imported(path: Path) -> Iterator[Path]:
    for node in _run(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            yield from _files(name)


def _run(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those below `if TYPE_CHECKING:`, which never run."""
    yield node
    if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
        for child in ast.iter_child_nodes(node):
            yield from _run(child)


def _files(module: str) -> Iterator[Path]:
    """The file of a module of ours, and what importing it runs: the packages around it, with their templates."""
    package, *parts = module.split(".")
    if package != PACKAGE.name:
        return
    for depth in range(len(parts) + 1):
        place = PACKAGE.joinpath(*parts[:depth])
        if place.is_dir():
            yield from (p for p in place.iterdir() if p.is_file() and (p.name == "__init__.py" or p.suffix != ".py"))
        elif place.with_suffix(".py").is_file():
            yield place.with_suffix(".py")
