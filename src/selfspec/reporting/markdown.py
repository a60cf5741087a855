"""Tables in GitHub's Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Format a table; values become text, in which nothing ends the cell or opens a tag."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(_escape(value) for value in line)} |" for line in lines)


def _escape(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;")
