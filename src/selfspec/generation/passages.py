"""Passages for a task's response prompt, from the index of the domain's corpus (paper: BM25; top 5 is inferred)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from selfspec.data.records import Task
from selfspec.generation.responses import FindPassages
from selfspec.retrieval.passage import Passage

if TYPE_CHECKING:
    from selfspec.retrieval.bm25 import Index


def passage_finder(index: Path | None, count: int) -> FindPassages:
    """What finds the best `count` passages for a task's input; none without an index."""

    @cache
    def opened() -> Index:
        from selfspec.retrieval.bm25 import Index

        assert index is not None
        return Index(index)

    def find(task: Task) -> Sequence[Passage]:
        return opened().search(task.input or task.instruction, count) if index else ()

    return find
