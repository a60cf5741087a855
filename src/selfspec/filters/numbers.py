"""Numbers: does a numeric answer follow from the numbers of its task?

What a base model writes has no formula, so short ones are tried: a number of the task itself, a sum, difference,
product, quotient or change of two, a mean or a sum of several. That finds mistakes in arithmetic, not in reasoning:
a wrong number may be hit by chance, and a right one from a longer formula is dropped.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import combinations, permutations

from selfspec.data.arithmetic import agrees_with_written

NUMBER = re.compile(r"(?<![\w.])\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?")


MAX_NUMBERS = 12  # numbers of a task that are tried; a longer one is a table, of which runs are added up


def check_number(task: str, answer: str) -> str:
    """Why a numeric answer is dropped, or an empty string.

    Args:
        task: Instruction and input.
        answer: As the model wrote it, a bare number.
    """
    written = answer.strip().replace(",", "").rstrip(".%")
    try:
        if not math.isfinite(float(written)):
            return "no number"
    except ValueError:
        return "no number"
    found = [float(text.replace(",", "")) for text in NUMBER.findall(task)]
    follows = any(
        agrees_with_written(value, written) or agrees_with_written(-value, written) for value in _values(found)
    )
    return "" if follows else "number does not follow"


def _values(found: list[float]) -> Iterator[float]:
    """Results of short formulas over the numbers of a task."""
    yield from found
    some = [number for place, number in enumerate(found) if found[:place].count(number) < 2][:MAX_NUMBERS]
    for one, other in permutations(some, 2):
        yield one + other
        yield one - other
        yield one * other
        yield one * other / 100
        if other:
            yield from (one / other, 100 * one / other, 100 * (one - other) / other)
    for one, two, three in combinations(some, 3):
        yield from (one + two + three, one + two - three, one + three - two, two + three - one)
    for start in range(len(found)):
        for end in range(start + 3, len(found) + 1):
            total = sum(found[start:end])
            yield from (total, total / (end - start))
