"""Balance: in a block, no closed label leads the rarest one of its task by more than a little."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

MAX_LEAD = 2  # ours: rows by which a label may lead; a block asks for some six rows of each task type


class LabelBalance:
    """Counts the labels of one block's kept rows."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()

    def check(self, task_type: str, label: str, options: Sequence[str]) -> str:
        """Why one more row with this label is too many, or an empty string; a row that passes is counted."""
        rarest = min(self._counts[task_type, option] for option in options)
        if self._counts[task_type, label] - rarest >= MAX_LEAD:
            return f"label {label} leads"
        self._counts[task_type, label] += 1
        return ""
