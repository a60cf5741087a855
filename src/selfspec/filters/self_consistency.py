"""Self-consistency: a closed label that a majority of sampled answers gives.

Source: Self-Consistency (arXiv 2203.11171); as a filter of synthetic examples [O].
"""

from __future__ import annotations

from collections import Counter
from typing import ClassVar, Literal

from selfspec.data.records import CLOSED_KINDS
from selfspec.filters.labels import canonical_label
from selfspec.filters.protocol import Candidate, Phase


class SelfConsistency:
    """Replaces a closed answer by the majority of sampled ones, and drops it where there is no majority.

    Args:
        majority: Smallest share of the samples. A sample that is none of the options counts against every label.
    """

    phase: ClassVar[Phase] = "answer"
    model_output: ClassVar[Literal["votes"]] = "votes"

    def __init__(self, majority: float) -> None:
        self.majority = majority

    def applies(self, candidate: Candidate) -> bool:
        """Closed tasks only."""
        return candidate.kind in CLOSED_KINDS

    def check(self, candidate: Candidate) -> str:
        """Return the reason for dropping the candidate, or an empty string."""
        options, samples = candidate.draft.options, candidate.samples
        votes = Counter(canonical_label(text.strip(), options, candidate.kind) for text in samples)
        del votes[""]
        label, count = max(votes.items(), key=lambda vote: vote[1], default=("", 0))
        if not samples or count / len(samples) < self.majority:
            return "no majority"
        candidate.output = label or candidate.output
        return ""
