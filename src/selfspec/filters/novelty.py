"""Novelty: ROUGE-L F1 with a seed or an accepted task, over instruction + input, may not exceed a threshold.

ROUGE-L F1 of two word lists equals `Indel.normalized_similarity`, apart from rounding. So rapidfuzz finds the texts
that reach the threshold or nearly do, and the formula of rouge_score decides among them: the decisions are exactly
those of rouge_score, and much faster.
Source: Self-Instruct (arXiv 2212.10560, section 2.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from rapidfuzz.distance import Indel, LCSseq
from rapidfuzz.process import cdist

from selfspec.data.records import Seed
from selfspec.data.text import words
from selfspec.filters.protocol import Candidate, Phase

ROUNDING = 1e-6  # by which the two ways to compute ROUGE-L may differ, with a margin


class Novelty:
    """Drops a task that resembles a seed or an earlier task that passed.

    Each word is stored as one character, so that texts are compared as strings.

    Args:
        seeds: Count as earlier tasks.
        threshold: Largest ROUGE-L F1 of a task that passes.
    """

    phase: ClassVar[Phase] = "task"
    needs: ClassVar = ("seeds",)

    def __init__(self, seeds: Sequence[Seed], threshold: float) -> None:
        self.threshold = threshold
        self._characters: dict[str, str] = {}  # word -> character
        self._texts: list[str] = []
        self._ids: list[str] = []
        for seed in seeds:
            self._remember(self._encode(seed.instruction, seed.input), seed.id)

    def check(self, candidate: Candidate) -> str:
        """Return the reason for dropping the candidate, or an empty string."""
        text = self._encode(candidate.draft.instruction, candidate.draft.input)
        (similarities,) = cdist(
            [text],
            self._texts,
            scorer=Indel.normalized_similarity,
            score_cutoff=self.threshold - ROUNDING,
            dtype=np.float64,
        )
        for place in similarities.nonzero()[0]:
            if rouge_l(text, self._texts[place]) > self.threshold:
                return f"near {self._ids[place]}"
        return ""

    def keep(self, candidate: Candidate) -> None:
        """Later candidates must differ from this one."""
        self._remember(self._encode(candidate.draft.instruction, candidate.draft.input), candidate.id)

    @staticmethod
    def summarize(_reason: str) -> str:
        """The reason without the id that it names."""
        return "near duplicate"

    def _remember(self, text: str, name: str) -> None:
        self._texts.append(text)
        self._ids.append(name)

    def _encode(self, instruction: str, text: str) -> str:
        known = self._characters
        return "".join(known.setdefault(word, chr(len(known) + 1)) for word in words(f"{instruction} {text}"))


def rouge_l(one: str, other: str) -> float:
    """ROUGE-L F1 of two encoded texts, computed as rouge_score does."""
    if not one or not other:
        return 0.0
    common: int = LCSseq.similarity(one, other)
    precision, recall = common / len(one), common / len(other)
    return 2 * precision * recall / (precision + recall) if common else 0.0
