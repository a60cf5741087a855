"""Novelty: ROUGE-L F1 with a seed or a kept row over the threshold, over instruction + input, drops a row.

ROUGE-L F1 of two word lists is `Indel.normalized_similarity` of them, so rapidfuzz finds the candidates, and
rouge_score's own formula decides at the edge, where floats differ: exactly ROUGE-L's decisions, much faster.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rapidfuzz.distance import Indel, LCSseq
from rapidfuzz.process import cdist

from selfspec.data.records import Draft, Seed
from selfspec.data.text import words

EDGE = 1e-6


class Novelty:
    """Remembers the seeds and what was kept, each word as one character."""

    def __init__(self, seeds: Sequence[Seed], threshold: float) -> None:
        self.threshold = threshold
        self._characters: dict[str, str] = {}
        self._texts: list[str] = []
        self._names: list[str] = []
        for seed in seeds:
            self.keep(Draft(seed.task_type, seed.instruction, seed.input, seed.options), seed.id)

    def check(self, draft: Draft) -> str:
        """Why the draft is nothing new, or an empty string."""
        text = self._coded(draft)
        near = cdist(
            [text],
            self._texts,
            scorer=Indel.normalized_similarity,
            score_cutoff=self.threshold - EDGE,
            dtype=np.float64,
        )[0]
        for place in near.nonzero()[0]:
            if rouge_l(text, self._texts[place]) > self.threshold:
                return f"near {self._names[place]}"
        return ""

    def keep(self, draft: Draft, name: str) -> None:
        """Later rows must differ from this one."""
        self._texts.append(self._coded(draft))
        self._names.append(name)

    def _coded(self, draft: Draft) -> str:
        known = self._characters
        return "".join(
            known.setdefault(word, chr(len(known) + 1)) for word in words(f"{draft.instruction} {draft.input}")
        )


def rouge_l(one: str, other: str) -> float:
    """ROUGE-L F1 of two coded texts, computed as rouge_score does."""
    if not one or not other:
        return 0.0
    common: int = LCSseq.similarity(one, other)
    precision, recall = common / len(one), common / len(other)
    return 2 * precision * recall / (precision + recall) if common else 0.0
