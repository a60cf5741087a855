"""Form: is this a task at all? Lengths as in Self-Instruct (an instruction of 3 to 150 words)."""

from __future__ import annotations

from collections.abc import Mapping

from selfspec.config import TaskType
from selfspec.filters import words
from selfspec.prompts import Draft

INSTRUCTION_WORDS = (3, 150)
INPUT_WORDS = 5  # ours: every task type of a domain works on a text


def check(draft: Draft, finished: bool, tasks: Mapping[str, TaskType]) -> str:  # noqa: PLR0911 (a ladder)
    """Why the draft is no usable task, or an empty string."""
    if not finished:
        return "truncated"
    if not draft.task_type:
        return "unknown task type"
    shortest, longest = INSTRUCTION_WORDS
    count = len(words(draft.instruction))
    if count < shortest:
        return "instruction too short"
    if count > longest:
        return "instruction too long"
    if len(words(draft.input)) < INPUT_WORDS:
        return "input too short"
    closed = tasks[draft.task_type].kind in ("label", "labels")
    if closed and len({option.casefold() for option in draft.options}) < max(2, len(draft.options)):
        return "options missing or repeated"
    if not closed and draft.options:
        return "options for an open task"
    return ""
