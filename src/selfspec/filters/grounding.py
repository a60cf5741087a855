"""Grounding: an answer that must come from its task's input, or follow from its numbers, does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from selfspec.data.records import ENTITY, NO_ANSWER, SEPARATOR, Draft, Seed
from selfspec.data.text import words
from selfspec.filters.numbers import check_number

EXTRACTIVE_SHARE = 0.9  # [O]: of a task type's seeds, whose answers are part of their inputs


def extractive_task_types(seeds: Sequence[Seed], kinds: Mapping[str, str]) -> set[str]:
    """Task types whose answers must be part of their inputs, as those of nearly all of their seeds are.

    Args:
        seeds: All seeds of the domain.
        kinds: Task type -> kind of its answers; only short answers and lists can be extractive.
    """
    by_type: dict[str, list[bool]] = {}
    for seed in seeds:
        if (kind := kinds[seed.task_type]) in ("short", "list"):
            parts = [seed.output] if kind == "short" else seed.output.split(SEPARATOR)
            by_type.setdefault(seed.task_type, []).append(all(_occurs_in(part, seed.input) for part in parts))
    return {name for name, matches in by_type.items() if sum(matches) >= EXTRACTIVE_SHARE * len(matches)}


def check_grounding(output: str, draft: Draft, kind: str, is_extractive: bool) -> str:
    """Return the reason why the input does not support the answer, or an empty string.

    Args:
        output: The answer.
        draft: Its task.
        kind: Of the answer.
        is_extractive: Whether a short answer, or each item of a list, must be part of the input.
    """
    if kind == "number":
        return check_number(f"{draft.instruction}\n{draft.input}", output)
    if kind == "short":
        return "" if not is_extractive or _occurs_in(output, draft.input) else "span not in the input"
    if kind == "list":
        return _check_list(output, draft.input, is_extractive)
    if kind == "entities" and output != NO_ANSWER:
        return _check_entities(output, draft.input)
    return ""


def _check_list(output: str, text: str, is_extractive: bool) -> str:
    items = [part for part in output.split(SEPARATOR.strip()) if part.strip()]
    if len(items) < 2 or "\n" in output:
        return "no list"
    return "" if not is_extractive or all(_occurs_in(item, text) for item in items) else "item not in the input"


def _check_entities(output: str, text: str) -> str:
    matches = [ENTITY.fullmatch(part) for part in output.split(SEPARATOR.strip())]
    if not all(matches):
        return "no mention (type)"
    return "" if all(match and match[1] in text for match in matches) else "entity not in the input"


def _occurs_in(part: str, text: str) -> bool:
    """Whether the words of `part` are a run of the words of `text`."""
    run = " ".join(words(part))
    return bool(run) and f" {run} " in f" {' '.join(words(text))} "
