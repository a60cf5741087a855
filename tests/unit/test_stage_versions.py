"""Every stage's version is recorded with a hash of its sources, so that no source changes without a decision.

After a change of the sources, decide whether the same inputs can now give another output. If so, raise the version
where the stage or pool is declared. Then, in both cases, update the record: `python tests/unit/test_stage_versions.py`.
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
MODELS = ["engines/transformers.py", "engines/transformers_loader.py", "engines/contrastive.py", "models/load.py"]
DRAFT_FILTERS = [f"filters/{name}.py" for name in ("form", "echo", "duplicate", "novelty", "contamination")]
CANDIDATES = ["generation/candidates.py"]
ROOTS = {
    "index": ["stages/index.py"],
    "examples": ["stages/examples.py", *MODELS],
    "round_examples": ["stages/round_examples.py", *MODELS],
    "adapter": ["stages/adapter.py"],
    "scores": ["stages/scores.py", *MODELS],
    "harness": ["stages/harness.py"],
    # A pool holds the rows that passed the filters before it, so these filters are sources of it.
    "instructions": ["generation/instructions.py", *MODELS],
    "responses": ["generation/responses.py", *CANDIDATES, *MODELS, *DRAFT_FILTERS],
    "votes": ["generation/votes.py", *CANDIDATES, "filters/answer.py", *MODELS],
    "judgements": ["generation/judgements.py", *CANDIDATES, "filters/self_consistency.py", *MODELS],
}
# Packages that run stages or report on them: they do not change an output.
EXCLUDED = {"cli", "config", "errors.py", "launch", "loggers", "pipeline", "reporting", "runtime", "__init__.py"}


def imported_files(*roots: str) -> set[Path]:
    """The roots and the files of this package that they import, directly or not."""
    files, todo = set[Path](), [SOURCES / root for root in roots]
    while todo:
        path = todo.pop()
        is_excluded = path.relative_to(SOURCES).parts[0] in EXCLUDED and path.name != "random_streams.py"
        if path in files or is_excluded:
            continue
        files.add(path)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("selfspec"):
                base = SOURCES.joinpath(*str(node.module).split(".")[1:])
                names = [base.with_suffix(".py"), base / "__init__.py", *(base / f"{a.name}.py" for a in node.names)]
                todo += [name for name in names if name.exists() and name != SOURCES / "__init__.py"]
    return files


def source_hash(stage: str) -> str:
    """A hash of a stage's code that ignores comments, docstrings and layout."""
    digest = hashlib.sha256()
    for path in sorted(imported_files(*ROOTS[stage])):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
                node.body = node.body[1:]
        digest.update(f"{path.relative_to(SOURCES)}\0{ast.dump(tree)}".encode())
    return digest.hexdigest()[:24]


def current_record() -> dict[str, dict[str, object]]:
    versions = {name: each.version for name, each in (*STAGES.items(), *((pool.name, pool) for pool in POOLS))}
    return {stage: {"version": versions[stage], "sources": source_hash(stage)} for stage in ROOTS}


@pytest.mark.parametrize("stage", ROOTS)
def test_sources_and_version_change_together(stage: str) -> None:
    recorded, current = json.loads(RECORD.read_text())[stage], current_record()[stage]
    assert current == recorded, f"{stage}: {__doc__}"


def test_every_stage_and_pool_is_recorded_with_the_sources_that_it_uses() -> None:
    assert set(ROOTS) == {*STAGES, *(pool.name for pool in POOLS)}
    used = {
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
    for stage, names in used.items():
        files = {str(path.relative_to(SOURCES)) for path in imported_files(*ROOTS[stage])}
        assert set(names) <= files, stage


if __name__ == "__main__":
    RECORD.write_text(json.dumps(current_record(), indent=1) + "\n")
