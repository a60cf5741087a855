"""Answers: empty, truncated, a label outside the options, not grounded in the input, an echo, a repeated clause."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

from selfspec.config.schema import DomainConfig
from selfspec.data.records import CLOSED_KINDS, Seed
from selfspec.data.text import longest_common_run, words
from selfspec.filters.grounding import check_grounding, extractive_task_types
from selfspec.filters.labels import canonical_label
from selfspec.filters.protocol import Candidate, Phase

MAX_REPEATS = 3  # [O]: an answer with the same clause so many times is dropped
ECHO_WORDS = 8  # [O]: a shorter answer may well repeat words of its prompt
ECHO_SHARE = 0.8  # [O]: of a free text's words that are one run of words of the input

_CLAUSE_END = re.compile(r"[;,!?\n]+|\.(?=\s|$)")


class Answer:
    """Drops answers that cannot be right for their kind of task, and spells labels as their options.

    Args:
        seeds: All seeds of the domain: they show of which task types the answers are part of the inputs.
        domain: Kinds of answers.
    """

    phase: ClassVar[Phase] = "answer"
    needs: ClassVar = ("seeds", "domain")

    def __init__(self, seeds: Sequence[Seed], domain: DomainConfig) -> None:
        kinds = {name: task.kind for name, task in domain.tasks.items()}
        self._extractive = extractive_task_types(seeds, kinds)

    def check(self, candidate: Candidate) -> str:
        """Return the reason for dropping the candidate, or an empty string; a label takes its option's spelling."""
        output, draft, kind = candidate.output, candidate.draft, candidate.kind
        if not output:
            return "empty"
        if not candidate.output_finished:
            return "truncated"
        if kind in CLOSED_KINDS:
            label = canonical_label(output, draft.options, kind)
            candidate.output = label or output
            return "" if label else "label outside the options"
        if reason := check_grounding(output, draft, kind, draft.task_type in self._extractive):
            return reason
        if _is_echo(candidate):
            return "echo"
        return "repeated clause" if _repeats_a_clause(output) else ""


def _is_echo(candidate: Candidate) -> bool:
    """Whether an answer repeats its instruction, its input (free text only) or the answer of a few-shot example."""
    output, text = words(candidate.output), words(candidate.draft.input)
    is_free_text = candidate.kind == "text"
    if output == words(candidate.draft.instruction) or (is_free_text and output == text):
        return True
    if len(output) < ECHO_WORDS:
        return False
    if any(longest_common_run(output, words(seed.output)) >= ECHO_WORDS for seed in candidate.output_seeds):
        return True
    return is_free_text and longest_common_run(output, text) >= ECHO_SHARE * len(output)


def _repeats_a_clause(output: str) -> bool:
    clauses = Counter(" ".join(words(clause)) for clause in _CLAUSE_END.split(output))
    return any(count >= MAX_REPEATS for clause, count in clauses.items() if clause)
