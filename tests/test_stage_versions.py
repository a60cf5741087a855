"""A stage's version is raised when what makes its output changes: a hash of its sources is held beside it.

After a change, look whether the same inputs can now give another output. If so, raise the number in `pipeline.py`;
then, in both cases, write the new hashes: `python tests/test_stage_versions.py`.
"""

from __future__ import annotations

import ast
import hashlib
import json
from pathlib import Path

import pytest

from selfspec import pipeline

SOURCES = Path(pipeline.__file__).parent
RECORD = Path(__file__).parent / "stage_versions.json"
MODEL = ["engines/transformers.py", "models/load.py"]
ROOTS = {
    "examples": ["stages/examples.py"],
    "adapter": ["stages/adapter.py"],
    "scores": ["stages/scores.py"],
    "instructions": ["generation/instructions.py", *MODEL],
    "responses": ["generation/responses.py", *MODEL, *(f"filters/{name}.py" for name in ("form", "echo", "novelty"))],
}
# What runs stages, and what tells of them, does not make their output.
AROUND = {"stage.py", "pipeline.py", "store.py", "errors.py", "reporting", "config.py", "__init__.py", "experiment.py"}


def closure(*roots: str) -> set[Path]:
    """The files of this package that `roots` import, directly or not."""
    found, todo = set[Path](), [SOURCES / root for root in roots]
    while todo:
        path = todo.pop()
        if path in found or path.relative_to(SOURCES).parts[0] in AROUND:
            continue
        found.add(path)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("selfspec"):
                base = SOURCES.joinpath(*str(node.module).split(".")[1:])
                names = [base.with_suffix(".py"), base / "__init__.py", *(base / f"{a.name}.py" for a in node.names)]
                todo += [name for name in names if name.exists() and name != SOURCES / "__init__.py"]
    return found


def source_hash(stage: str) -> str:
    """A hash of the code, whatever its comments, docstrings and layout."""
    total = hashlib.sha256()
    for path in sorted(closure(*ROOTS[stage])):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
                node.body = node.body[1:]
        total.update(f"{path.relative_to(SOURCES)}\0{ast.dump(tree)}".encode())
    return total.hexdigest()[:24]


def current() -> dict[str, dict[str, object]]:
    versions = {**pipeline.VERSIONS, **pipeline.POOL_VERSIONS}
    return {stage: {"version": versions[stage], "sources": source_hash(stage)} for stage in ROOTS}


@pytest.mark.parametrize("stage", ROOTS)
def test_sources_and_version_change_together(stage: str) -> None:
    recorded, now = json.loads(RECORD.read_text())[stage], current()[stage]
    assert now == recorded, f"{stage}: {__doc__}"


def test_every_stage_is_held() -> None:
    assert set(ROOTS) == {*pipeline.VERSIONS, *pipeline.POOL_VERSIONS}
    assert any(path.name == "novelty.py" for path in closure("stages/examples.py"))
    assert any(path.name == "packing.py" for path in closure("stages/adapter.py"))
    assert any(path.name == "prompts.py" for path in closure("stages/scores.py"))


if __name__ == "__main__":
    RECORD.write_text(json.dumps(current(), indent=1) + "\n")
