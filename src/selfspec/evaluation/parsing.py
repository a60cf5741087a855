"""Parse replies leniently: find the label, number or entities that a reply states, without guessing.

A reply states a label if it begins with it, or if its first line names no other label. A first line that names several
labels states none: to take the first of them would reward replies that list all labels.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from selfspec.data.records import ENTITY, SEPARATOR
from selfspec.data.text import words

NUMBER = re.compile(r"[-+]?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)")


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


def lenient_number(reply: str) -> float | None:
    """The number that the reply begins with, or the only one in its first line; None if there is no such number."""
    line = reply.replace("\u2212", "-").splitlines()[0].strip() if reply else ""
    matches = list(NUMBER.finditer(line))
    if matches and (matches[0].start() == 0 or len(matches) == 1):
        return float(matches[0][0].replace(",", ""))
    return None


def parse_entities(reply: str) -> Counter[str]:
    """The multiset of entities in `mention (type); ...`, in lower case."""
    matches = (ENTITY.fullmatch(part) for part in re.split(r"[;\n]", reply))
    return Counter(f"{match[1]} ({match[2]})".casefold() for match in matches if match)


def parse_items(text: str) -> set[str]:
    """The items of a list separated with semicolons; `none` is the empty list."""
    return {item.strip() for item in text.split(SEPARATOR.strip()) if item.strip()} - {"none"}


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
