"""Numbers: a numeric answer follows from the numbers of its task.

A base model writes no formula beside its answer, so short formulas are tried: a number of the task, a sum, difference,
product, quotient or change of two, a mean or a sum of several. This finds mistakes in arithmetic, not in reasoning: a
wrong number may match by chance, and the right result of a longer formula is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, permutations

from selfspec.data.arithmetic import agrees_with_written
from selfspec.data.numbers import BARE_NUMBER, find_digits, find_numbers

MAX_NUMBERS = 12  # of a task that are combined; a longer task is a table, of which runs are added up


def check_number(task: str, answer: str) -> str:
    """Return the reason for dropping a numeric answer, or an empty string.

    Args:
        task: Instruction and input.
        answer: As the model wrote it, a bare number, or a percentage.
    """
    written = answer.strip().replace(",", "").rstrip(".%")
    if not BARE_NUMBER.fullmatch(written):
        return "no number"
    readings = (find_digits(task), [number.value for number in find_numbers(task)])  # in millions, or in full
    follows = any(
        agrees_with_written(value, written) or agrees_with_written(-value, written)
        for numbers in readings
        for value in _results(numbers)
    )
    return "" if follows else "number does not follow"


def _results(numbers: Sequence[float]) -> Iterator[float]:
    """Results of short formulas over the numbers of a task."""
    yield from numbers
    operands = [number for place, number in enumerate(numbers) if numbers[:place].count(number) < 2][:MAX_NUMBERS]
    for a, b in permutations(operands, 2):
        yield a + b
        yield a - b
        yield a * b
        yield a * b / 100
        if b:
            yield from (a / b, 100 * a / b, 100 * (a - b) / b)
    for a, b, c in combinations(operands, 3):
        yield from (a + b + c, a + b - c, a + c - b, b + c - a)
    for start in range(len(numbers)):
        for end in range(start + 3, len(numbers) + 1):
            total = sum(numbers[start:end])
            yield from (total, total / (end - start))
