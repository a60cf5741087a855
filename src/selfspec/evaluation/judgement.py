"""Judging a reply by its task's kind: the primary metric, the form asked for, the label after a lenient parse.

A lenient parse is no guess: a reply that begins with a label has said it, and so has a first line that names just one.
One that names several has not (taking the first found anywhere rewards lists of all labels).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from selfspec.data.records import ENTITY, SEPARATOR, Question
from selfspec.data.text import words
from selfspec.evaluation.metrics import f1_from_counts, normalize_answer, rouge_l, token_f1
from selfspec.filters.labels import canonical_label

MAX_NEW_TOKENS = {
    "label": 16,
    "labels": 32,
    "short": 24,
    "number": 16,
    "list": 64,
    "entities": 96,
    "text": 96,
}


PRIMARY_METRICS = {  # the metric of each kind (METHOD, Evaluation)
    "label": "macro F1",
    "labels": "micro F1",
    "short": "exact match",
    "list": "mean list F1",
    "entities": "micro F1 of (entity, type)",
    "number": "within 0.01",
    "text": "ROUGE-L F1",
}


_NUMBER = re.compile(r"[-+]?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)")


SHORT_WORDS = 8  # a short answer has at most so many


@dataclass(frozen=True)
class Judgement:
    """What one reply is worth. Values are in [0, 1]; None where the measure has no meaning."""

    token_f1: float
    rouge_l: float
    compliant: float  # in the form that was asked for
    label_correct: float | None = None  # closed kinds, after the lenient parse
    primary: float | None = None  # this reply's share of the primary metric, where that is a mean
    counts: dict[str, tuple[int, int, int]] = field(default_factory=dict)  # else: right, wrong, missed by class
    by_label: dict[str, tuple[int, int, int]] = field(default_factory=dict)  # the same by label, of sets of labels
    lenient: float | None = None  # short answers: right is one of the first five that a reply lists


def judge_reply(question: Question, reply: str, finished: bool) -> Judgement:
    """Judge a reply (its text up to the end token or the limit)."""
    reply, kind = reply.strip(), question.kind
    shared: dict[str, Any] = {
        "token_f1": max(token_f1(reply, answer) for answer in question.answers),
        "rouge_l": max(rouge_l(reply, answer) for answer in question.answers),
        "compliant": float(finished and is_compliant(question, reply)),
    }
    gold = question.answers[0]
    if kind == "label":
        label = lenient_label(reply, question.options)
        by_class = {
            option: (
                int(option == label == gold),
                int(option == label != gold),
                int(option == gold != label),
            )
            for option in question.options
        }
        return Judgement(**shared, label_correct=float(label == gold), counts=by_class)
    if kind == "labels":
        mine, theirs = lenient_labels(reply, question.options), _parts(gold)
        said = bool(mine) or words(reply)[:1] == ["none"]  # silence is not "none"
        counts = {"": _overlap(Counter(mine), Counter(theirs))}
        by_label = {
            option: _overlap(Counter(mine & {option}), Counter(theirs & {option})) for option in question.options
        }
        correct = float(said and mine == theirs)
        return Judgement(**shared, label_correct=correct, counts=counts, by_label=by_label)
    if kind == "entities":
        return Judgement(**shared, counts={"": _overlap(parse_entities(reply), parse_entities(gold))})
    lenient = _lenient(question, reply) if kind == "short" else None
    return Judgement(**shared, primary=_primary_value(question, reply, shared["rouge_l"]), lenient=lenient)


def is_compliant(question: Question, reply: str) -> bool:
    """Whether the reply has the form asked for, right or wrong."""
    kind = question.kind
    one_line = bool(reply) and "\n" not in reply
    if kind in ("label", "labels"):
        return bool(canonical_label(reply, question.options, kind))
    if kind == "short":
        return one_line and len(words(reply)) <= SHORT_WORDS
    if kind == "number":
        return bool(_NUMBER.fullmatch(reply))
    if kind == "entities":
        return reply == "none" or (one_line and all(ENTITY.fullmatch(part) for part in reply.split(SEPARATOR.strip())))
    return one_line


def lenient_label(reply: str, options: Sequence[str]) -> str:
    """The label a reply says, or an empty string: it begins with it, or its first line names no other."""
    line = words(reply.splitlines()[0]) if reply else []
    found = _mentioned(line, options)
    first = min(found, key=lambda option: found[option], default="")
    if first and (found[first] == 0 or len(found) == 1):
        return first
    return ""


def lenient_number(reply: str) -> float | None:
    """The number a reply says: it begins with it, or its first line holds no other."""
    line = reply.replace("\u2212", "-").splitlines()[0].strip() if reply else ""
    found = list(_NUMBER.finditer(line))
    if found and (found[0].start() == 0 or len(found) == 1):
        return float(found[0][0].replace(",", ""))
    return None


def lenient_labels(reply: str, options: Sequence[str]) -> set[str]:
    """All labels that a reply's first line names."""
    return set(_mentioned(words(reply.splitlines()[0]) if reply else [], options))


def parse_entities(reply: str) -> Counter[str]:
    """`mention (type); ...` as a multiset; letter case does not count."""
    found = (ENTITY.fullmatch(part) for part in re.split(r"[;\n]", reply))
    return Counter(f"{match[1]} ({match[2]})".casefold() for match in found if match)


def _mentioned(line: list[str], options: Sequence[str]) -> dict[str, int]:
    """Options that stand in a line as whole words, and where; one inside a longer one is not meant."""
    free, found = list(line), dict[str, int]()
    for option in sorted(options, key=lambda text: -len(words(text))):
        wanted = words(option)
        for place in range(len(free) - len(wanted) + 1):
            if wanted and free[place : place + len(wanted)] == wanted:
                found.setdefault(option, place)
                free[place : place + len(wanted)] = [""] * len(wanted)
    return found


def _primary_value(question: Question, reply: str, rouge: float) -> float:
    kind = question.kind
    if kind == "short":
        return float(any(normalize_answer(reply) == normalize_answer(answer) for answer in question.answers))
    if kind == "list":
        mine, *golds = ({normalize_answer(part) for part in _parts(text)} for text in (reply, *question.answers))
        return max(f1_from_counts(*_overlap(Counter(mine), Counter(gold))) for gold in golds)
    if kind == "number":
        number = lenient_number(reply)
        if number is None:
            return 0.0
        return float(any(abs(number - float(answer)) <= 1e-2 + 1e-9 for answer in question.answers))
    return rouge


def _lenient(question: Question, reply: str) -> float:
    """BioASQ's lenient accuracy: five candidates may be named, and one of them must be right."""
    candidates = [reply, *re.split(r"[;,\n]", reply)[:5]]
    right = {normalize_answer(answer) for answer in question.answers}
    return float(any(normalize_answer(candidate) in right for candidate in candidates))


def _parts(text: str) -> set[str]:
    return {part.strip() for part in text.split(SEPARATOR.strip()) if part.strip()} - {"none"}


def _overlap(mine: Counter[str], theirs: Counter[str]) -> tuple[int, int, int]:
    """(right, wrong, missed) of two multisets."""
    right = sum((mine & theirs).values())
    return right, sum(mine.values()) - right, sum(theirs.values()) - right
