"""Overlap between evaluation questions and the texts that a model has seen, and the scores without those questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from selfspec.data.records import Question
from selfspec.filters.contamination import NGRAM_SIZES, Contamination
from selfspec.reporting.results import Answers, compute_results


def overlap_report(
    seen_texts: Mapping[str, Sequence[str]],
    questions: Sequence[Question],
    answers: Mapping[str, Answers],
    resamples: int,
    metrics: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """Count the questions that share 8 or 13 consecutive words with the seen texts, and score the others.

    Args:
        seen_texts: Texts in prompts or training data, by source: seeds, examples, passages.
        questions: The questions that were answered.
        answers: Rows of the stage `scores`, by model.
        resamples: Number of bootstrap resamples.
        metrics: As in `compute_results`.

    Returns:
        `questions`, their number; `overlapping`, ids of those that overlap; `counts`, their number by source and
        length; `without_overlapping`, the results on the others, if some questions overlap and some do not.
    """
    texts = [(question.id, question.input or question.instruction) for question in questions]
    counts: dict[str, dict[str, int]] = {source: {} for source in seen_texts}
    overlapping: set[str] = set()
    for num_words in sorted(NGRAM_SIZES):
        contamination = Contamination(texts, num_words)
        for source, seen in seen_texts.items():
            ids = contamination.overlapping(seen)
            counts[source][str(num_words)] = len(ids)
            overlapping |= ids
    report: dict[str, Any] = {"questions": len(questions), "overlapping": sorted(overlapping), "counts": counts}
    others = {question.id: question for question in questions if question.id not in overlapping}
    if overlapping and others:
        other_answers = {model: [row for row in rows if row["id"] in others] for model, rows in answers.items()}
        report["without_overlapping"] = compute_results(other_answers, list(others.values()), resamples, metrics)
    return report
