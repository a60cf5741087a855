"""Overlap of what a model was tuned on with the questions it was asked, and its scores without those questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from selfspec.data.records import Question
from selfspec.filters.contamination import NGRAM_SIZES, Contamination
from selfspec.reporting.results import Answers, compute_results


def overlap_report(
    seen: Mapping[str, Sequence[str]],
    questions: Sequence[Question],
    answers: Mapping[str, Answers],
    resamples: int,
    metrics: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """How many questions share 8 or 13 words in a row with what was seen; scores of the others, if any do.

    Args:
        seen: Texts by where they are from: seeds, examples.
        questions: That were asked.
        answers: Of each model.
        resamples: Of the bootstrap.
        metrics: As `results` takes them.
    """
    texts = [(question.id, question.input or question.instruction) for question in questions]
    counts: dict[str, dict[str, int]] = {}
    touched: set[str] = set()
    for name, some in seen.items():
        for words in sorted(NGRAM_SIZES):
            found = Contamination(texts, words).overlapping(some)
            counts.setdefault(name, {})[str(words)] = len(found)
            touched |= found
    clean = [question for question in questions if question.id not in touched]
    told: dict[str, Any] = {"questions": len(questions), "touched": sorted(touched), "counts": counts}
    if touched and clean:
        ids = {question.id for question in clean}
        kept = {model: [row for row in rows if row["id"] in ids] for model, rows in answers.items()}
        told["clean"] = compute_results(kept, clean, resamples, metrics)
    return told
