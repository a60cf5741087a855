"""Parse replies leniently: find the label, number or entities that a reply states, without guessing.

A reply states a label if it begins with it, or if its first line names no other label. A first line that names several
labels states none: to take the first of them would reward replies that list all labels.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from selfspec.data.numbers import find_numbers
from selfspec.data.records import ENTITY, NO_ANSWER, SEPARATOR
from selfspec.data.text import fold, words

_FRACTION = re.compile(r"\b(fraction|proportion|decimal)\b", re.IGNORECASE)
_PERCENT = re.compile(r"%|\bper ?cent", re.IGNORECASE)


def lenient_label(reply: str, options: Sequence[str]) -> str:
    """The option that the reply states, or an empty string."""
    positions = _option_positions(_first_line_words(reply), options)
    first = min(positions, key=lambda option: positions[option], default="")
    if first and (positions[first] == 0 or len(positions) == 1):
        return first
    return ""


def lenient_labels(reply: str, options: Sequence[str]) -> set[str]:
    """All options that the reply's first line names."""
    return set(_option_positions(_first_line_words(reply), options))


def lenient_number(reply: str, instruction: str = "") -> float | None:
    """The number that the reply begins with, or the only one in its first line; None if there is no such number.

    12% is 12, unless the instruction asks for a fraction, and not for a percentage.
    """
    numbers = find_numbers(reply.splitlines()[0]) if reply else []
    if not numbers or not (numbers[0].is_first or len(numbers) == 1):
        return None
    wants_fraction = _FRACTION.search(instruction) and not _PERCENT.search(instruction)
    return numbers[0].value / (100 if numbers[0].is_percent and wants_fraction else 1)


def parse_entities(reply: str) -> Counter[str]:
    """The multiset of entities in `mention (type); ...`, folded."""
    matches = (ENTITY.fullmatch(part) for part in re.split(r"[;\n]", reply))
    return Counter(fold(f"{match[1]} ({match[2]})") for match in matches if match)


def parse_items(text: str) -> set[str]:
    """The items of a list separated with semicolons; `none` alone is the empty list."""
    if words(text) == [NO_ANSWER]:
        return set()
    return {item.strip() for item in text.split(SEPARATOR.strip()) if item.strip()}


def _first_line_words(reply: str) -> list[str]:
    return words(reply.splitlines()[0]) if reply else []


def _option_positions(line: Sequence[str], options: Sequence[str]) -> dict[str, int]:
    """Index of the first word of each option that the line contains as whole words.

    Longer options match first, and their words can't match again: "not causal" does not contain the option "causal".
    """
    remaining, positions = list(line), dict[str, int]()
    for option in sorted(options, key=lambda text: -len(words(text))):
        option_words = words(option)
        for start in range(len(remaining) - len(option_words) + 1):
            end = start + len(option_words)
            if option_words and remaining[start:end] == option_words:
                positions.setdefault(option, start)
                remaining[start:end] = [""] * len(option_words)
    return positions
