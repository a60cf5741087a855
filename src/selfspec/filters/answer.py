"""Answers: empty, truncated, an echo, a label outside the options, what is not in the input, a repeated clause."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from selfspec.data.records import ENTITY, SEPARATOR, Draft, Seed
from selfspec.data.text import longest_common_run, words
from selfspec.filters.numbers import check_number

_CLAUSE = re.compile(r"[;,!?\n]+|\.(?=\s|$)")


EXTRACTIVE_SHARE = 0.9  # ours: the share of seeds whose answers stand in their inputs


MAX_REPEATS = 3  # ours: the same clause three times


ECHO_WORDS = 8  # ours: shorter answers may rightly stand in the input


def extractive_task_types(seeds: Sequence[Seed], kinds: Mapping[str, str]) -> set[str]:
    """Task types whose short answers or list items stand in their inputs, as nearly all of the seeds' do."""
    types: dict[str, list[bool]] = {}
    for seed in seeds:
        if (kind := kinds[seed.task_type]) in ("short", "list"):
            parts = [seed.output] if kind == "short" else seed.output.split(SEPARATOR)
            types.setdefault(seed.task_type, []).append(all(_occurs_in(part, seed.input) for part in parts))
    return {name for name, found in types.items() if sum(found) >= EXTRACTIVE_SHARE * len(found)}


def check_answer(  # noqa: PLR0911 (a ladder of reasons)
    draft: Draft, kind: str, text: str, finished: bool, shown: Sequence[Seed], spans: bool = False
) -> tuple[str, str]:
    """(the answer as it is kept, why it is dropped or an empty string).

    Args:
        draft: The task.
        kind: Of its answers.
        text: What the model replied.
        finished: Whether it ended by itself.
        shown: Seeds that its prompt showed.
        spans: Whether a short answer, or each item of a list, must stand in the input.
    """
    output = text.strip()
    if not output:
        return output, "empty"
    if not finished:
        return output, "truncated"
    if kind in ("label", "labels"):
        spelled = canonical_label(output, draft.options, kind)
        return (spelled, "") if spelled else (output, "label outside the options")
    if reason := _unsupported_reason(output, draft, kind, spans):
        return output, reason
    if _echoes(output, draft, kind, shown):
        return output, "echo"
    clauses = Counter(" ".join(words(clause)) for clause in _CLAUSE.split(output))
    if any(count >= MAX_REPEATS for clause, count in clauses.items() if clause):
        return output, "repeated clause"
    return output, ""


def canonical_label(output: str, options: Sequence[str], kind: str) -> str:
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


def _unsupported_reason(output: str, draft: Draft, kind: str, spans: bool) -> str:  # noqa: PLR0911 (the same)
    """Why an answer that must come from its input does not, or an empty string."""
    if kind == "number":
        return check_number(f"{draft.instruction}\n{draft.input}", output)
    if kind == "short" and spans:
        return "" if _occurs_in(output, draft.input) else "span not in the input"
    if kind == "list":
        items = [part for part in output.split(SEPARATOR.strip()) if part.strip()]
        if len(items) < 2 or "\n" in output:
            return "no list"
        return "" if not spans or all(_occurs_in(item, draft.input) for item in items) else "item not in the input"
    if kind == "entities" and output != "none":
        found = [ENTITY.fullmatch(part) for part in output.split(SEPARATOR.strip())]
        if not all(found):
            return "no mention (type)"
        return "" if all(match and match[1] in draft.input for match in found) else "entity not in the input"
    return ""


def _occurs_in(part: str, text: str) -> bool:
    """Whether the words of `part` stand in a row in `text`."""
    mine = " ".join(words(part))
    return bool(mine) and f" {mine} " in f" {' '.join(words(text))} "


def _echoes(output: str, draft: Draft, kind: str, shown: Sequence[Seed]) -> bool:
    mine = words(output)
    if mine == words(draft.instruction) or (kind == "text" and mine == words(draft.input)):
        return True
    if len(mine) < ECHO_WORDS:
        return False
    if any(longest_common_run(mine, words(seed.output)) >= ECHO_WORDS for seed in shown):
        return True
    return kind == "text" and longest_common_run(mine, words(draft.input)) >= 0.8 * len(mine)
