"""Sentences under the score tables: what guessing scores, which measures changed, what limits the scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selfspec.data.text import count_noun
from selfspec.reporting.cells import MODEL_NAMES, excludes_zero, find_score, format_cell, format_number

# The format gain, the knowledge gain, and a measure that neither format nor a bias to one label can raise.
COMPARED_MEASURES = ("format", "label_accuracy", "option_auc")


def build_notes(report: Mapping[str, Any], seed: int) -> list[str]:
    """Build the notes of a run, one sentence each.

    Args:
        report: What `results.json` holds, but for the notes.
        seed: The experiment's seed.
    """
    return [
        *_guessing_notes(report["closed_labels"]),
        *_comparison_notes(report),
        *_round_notes(report["rounds"]),
        *_judge_notes(report["funnel"]),
        *_overlap_notes(report["overlap"]),
        *_shot_notes(report["fewer_shots"]),
        *_length_notes(report["too_long"]),
        f"Random draws come from seed {seed}; runs with the same seed share them wherever they can.",
    ]


def _guessing_notes(closed_labels: Mapping[str, Mapping[str, float]]) -> list[str]:
    tasks = closed_labels.values()
    if not tasks:
        return []
    chance = sum(task["chance"] for task in tasks) / len(tasks)
    most_frequent = sum(task["most_frequent"] for task in tasks) / len(tasks)
    num_questions = sum(task["count"] for task in tasks)
    return [
        f"Closed labels ({num_questions:.0f} questions): guessing scores {format_number(chance)}, always giving the "
        f"most frequent answer {format_number(most_frequent)}; an AUC of .500 means no knowledge."
    ]


def _comparison_notes(report: Mapping[str, Any]) -> list[str]:
    notes = []
    for shots in sorted({row["shots"] for row in report["differences"]}):
        columns = {"model": "specialized", "minus": "base", "shots": shots, "task": "all"}
        changes = [
            f"{report['measures'][measure]} {_describe_change(difference)}"
            for measure in COMPARED_MEASURES
            if (difference := find_score(report["differences"], measure=measure, **columns))
        ]
        if changes:
            notes.append(f"{shots} shots, specialized compared with base: {'; '.join(changes)}.")
    return notes


def _describe_change(difference: Mapping[str, Any]) -> str:
    if not excludes_zero(difference):
        return f"shows no clear change, {format_cell(difference, signed=True)}"
    if difference["low"] > 0:
        return f"rose by {format_cell(difference)}"
    decrease = {"value": -difference["value"], "low": -difference["high"], "high": -difference["low"]}
    return f"fell by {format_cell(decrease)}"


def _round_notes(rounds: Mapping[str, Any]) -> list[str]:
    losses = [f"{loss:.3f}" for loss in rounds["losses"] if loss is not None]
    if len(losses) < 2:
        return []
    kept = f"round {rounds['kept']} is kept"
    return [f"Loss on the held-out seeds after each round: {', '.join(losses)} nats per token; {kept}."]


def _judge_notes(funnel: Mapping[str, Any]) -> list[str]:
    if not (judge := funnel.get("judge")):
        return []
    auc = f"The judge separates correct seeds from corrupted ones with an AUC of {format_number(judge['auc'])}"
    return [f"{auc}." if judge["filters"] else f"{auc}, which is too low for a filter: it dropped nothing."]


def _overlap_notes(overlap: Mapping[str, Any]) -> list[str]:
    if not overlap["overlapping"]:
        return []
    counts = [
        f"{count} share {num_words} consecutive words (or all of their words, if they have fewer) with {source}"
        for source, by_length in overlap["counts"].items()
        for num_words, count in by_length.items()
        if count
    ]
    where = "; report.html has the scores without them" if "without_overlapping" in overlap else ""
    return [f"Of {overlap['questions']} questions, {'; '.join(counts)}{where}."]


def _length_notes(num_too_long: int) -> list[str]:
    if not num_too_long:
        return []
    are, count = ("is", "counts") if num_too_long == 1 else ("are", "count")
    return [f"{count_noun(num_too_long, 'question')} {are} longer than the context and {count} as wrong."]


def _shot_notes(fewer_shots: Mapping[str, int]) -> list[str]:
    if not fewer_shots:
        return []
    counts = ", ".join(f"{count} answers of {MODEL_NAMES.get(model, model)}" for model, count in fewer_shots.items())
    return [f"The context window was too short for all shots, so fewer were used for {counts}."]
