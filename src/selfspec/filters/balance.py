"""Balance: in a block, no closed label leads the rarest label of its task type by more than a little."""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

from selfspec.filters.protocol import Candidate, Phase

MAX_LEAD = 2  # [O]: examples by which a label may lead; a block has about six candidates of each task type


class LabelBalance:
    """Drops an answer whose label leads the rarest label of its task type in the block by `MAX_LEAD`."""

    phase: ClassVar[Phase] = "answer"

    def __init__(self) -> None:
        self._counts: Counter[tuple[int, str, str]] = Counter()  # (block, task type, label) of what passed

    def applies(self, candidate: Candidate) -> bool:
        """Answers that are one of the options."""
        return candidate.kind == "label" and candidate.output in candidate.draft.options

    def check(self, candidate: Candidate) -> str:
        """Return the reason for dropping the candidate, or an empty string."""
        rarest = min(self._count(candidate, option) for option in candidate.draft.options)
        is_ahead = self._count(candidate, candidate.output) - rarest >= MAX_LEAD
        return f"label {candidate.output} leads" if is_ahead else ""

    def keep(self, candidate: Candidate) -> None:
        """Count the label of a candidate that passed."""
        self._counts[candidate.block, candidate.draft.task_type, candidate.output] += 1

    def _count(self, candidate: Candidate, label: str) -> int:
        return self._counts[candidate.block, candidate.draft.task_type, label]
