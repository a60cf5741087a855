"""A passage of an unlabelled corpus."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Passage:
    """A document, or a part of one."""

    id: str  # HP:0001250, abstracts.jsonl:12, abstracts.jsonl:12#2 (its second passage)
    text: str
