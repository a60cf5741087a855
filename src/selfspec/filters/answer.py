"""Answers: empty, truncated, an echo, a label outside the options, a repeated clause."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from selfspec.filters import longest_run, words
from selfspec.prompts import Draft
from selfspec.records import SEPARATOR, Seed

_CLAUSE = re.compile(r"[;,!?\n]+|\.(?=\s|$)")
REPEATS = 3  # ours: the same clause three times
ECHO_WORDS = 8  # ours: shorter answers may rightly stand in the input


def check(draft: Draft, kind: str, text: str, finished: bool, shown: Sequence[Seed]) -> tuple[str, str]:
    """(the answer as it is kept, why it is dropped or an empty string)."""
    output = text.strip()
    if not output:
        return output, "empty"
    if not finished:
        return output, "truncated"
    if kind in ("label", "labels"):
        spelled = spell(output, draft.options, kind)
        return (spelled, "") if spelled else (output, "label outside the options")
    if _echoes(output, draft, kind, shown):
        return output, "echo"
    clauses = Counter(" ".join(words(clause)) for clause in _CLAUSE.split(output))
    if any(count >= REPEATS for clause, count in clauses.items() if clause):
        return output, "repeated clause"
    return output, ""


def spell(output: str, options: Sequence[str], kind: str) -> str:
    """A closed answer in its options' spelling, or an empty string when it is none of them."""
    spelling = {" ".join(words(option)): option for option in options}
    parts = [output] if kind == "label" else re.split(r"[;,]", output)
    names = [" ".join(words(part)) for part in parts]
    if kind == "labels" and names == ["none"]:
        return "none"
    if not all(name in spelling for name in names):
        return ""
    chosen = {spelling[name] for name in names}
    return SEPARATOR.join(option for option in options if option in chosen)


def _echoes(output: str, draft: Draft, kind: str, shown: Sequence[Seed]) -> bool:
    mine = words(output)
    if mine == words(draft.instruction) or (kind == "text" and mine == words(draft.input)):
        return True
    if len(mine) < ECHO_WORDS:
        return False
    if any(longest_run(mine, words(seed.output)) >= ECHO_WORDS for seed in shown):
        return True
    return kind == "text" and longest_run(mine, words(draft.input)) >= 0.8 * len(mine)
