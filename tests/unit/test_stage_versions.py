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

import selfspec
from selfspec.generation.pools import POOLS
from selfspec.stages.registry import STAGES

SOURCES = Path(selfspec.__file__).parent
RECORD = Path(__file__).parent / "stage_versions.json"
MODEL = ["engines/transformers.py", "engines/transformers_loader.py", "engines/contrastive.py", "models/load.py"]
DRAFTS = [f"filters/{name}.py" for name in ("form", "echo", "duplicate", "novelty", "contamination")]
LADDER = ["generation/candidates.py"]
ROOTS = {
    "index": ["stages/index.py"],
    "examples": ["stages/examples.py", *MODEL],
    "round_examples": ["stages/round_examples.py", *MODEL],
    "adapter": ["stages/adapter.py"],
    "scores": ["stages/scores.py", *MODEL],
    "harness": ["stages/harness.py"],
    # A pool is of the rows that passed the filters before it.
    "instructions": ["generation/instructions.py", *MODEL],
    "responses": ["generation/responses.py", *LADDER, *MODEL, *DRAFTS],
    "votes": ["generation/votes.py", *LADDER, "filters/answer.py", *MODEL],
    "judgements": ["generation/judgements.py", *LADDER, "filters/self_consistency.py", *MODEL],
}
# What runs stages, and what tells of them, does not make their output.
AROUND = {"cli", "config", "errors.py", "launch", "pipeline", "reporting", "runtime", "__init__.py"}


def closure(*roots: str) -> set[Path]:
    """The files of this package that `roots` import, directly or not."""
    found, todo = set[Path](), [SOURCES / root for root in roots]
    while todo:
        path = todo.pop()
        around = path.relative_to(SOURCES).parts[0] in AROUND and path.name != "random_streams.py"
        if path in found or around:
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
    versions = {name: each.version for name, each in (*STAGES.items(), *((pool.name, pool) for pool in POOLS))}
    return {stage: {"version": versions[stage], "sources": source_hash(stage)} for stage in ROOTS}


@pytest.mark.parametrize("stage", ROOTS)
def test_sources_and_version_change_together(stage: str) -> None:
    recorded, now = json.loads(RECORD.read_text())[stage], current()[stage]
    assert now == recorded, f"{stage}: {__doc__}"


def test_every_stage_is_held() -> None:
    assert set(ROOTS) == {*STAGES, *(pool.name for pool in POOLS)}
    held = {
        "index": [f"retrieval/{name}.py" for name in ("bm25", "embedded", "files", "hub", "hpo", "financetoolkit")],
        "examples": ["filters/novelty.py", "generation/votes.py", "retrieval/bm25.py", "engines/transformers.py"],
        "round_examples": [
            "engines/contrastive.py",
            "filters/novelty.py",
            "generation/judgements.py",
            "models/load.py",
        ],
        "adapter": ["tuning/packing.py", "prompts/templates.py"],
        "scores": ["prompts/templates.py", "engines/transformers.py"],
        "harness": ["evaluation/harness.py", "models/load.py"],
        "responses": ["prompts/templates.py", "retrieval/bm25.py"],
        "votes": ["filters/numbers.py"],
        "judgements": ["filters/judge.py"],
    }
    for stage, names in held.items():
        found = {str(path.relative_to(SOURCES)) for path in closure(*ROOTS[stage])}
        assert set(names) <= found, stage


if __name__ == "__main__":
    RECORD.write_text(json.dumps(current(), indent=1) + "\n")
