"""Numbers as people write them are read as what they mean, or not at all."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from questions import make_question
from selfspec.data.arithmetic import evaluate_formula
from selfspec.data.numbers import find_numbers, read_number
from selfspec.evaluation.judgement import judge_reply

GROUPED = st.integers(1_000, 999_999_999)
DECIMAL = st.decimals(0, 99_999, places=2)


def groups(number: int, separator: str) -> str:
    return f"{number:,}".replace(",", separator)


def indian(number: int) -> str:
    """Groups of two digits before the last three."""
    head, tail = divmod(number, 1000)
    pairs = []
    while head:
        head, pair = divmod(head, 100)
        pairs.append(f"{pair:02}" if head else str(pair))
    return ",".join([*reversed(pairs), f"{tail:03}"])


def in_digits_of(zero: str) -> Callable[[str], str]:
    """The text with another script's digits."""
    return lambda text: text.translate({ord(str(digit)): chr(ord(zero) + digit) for digit in range(10)})


WAYS_OF_WHOLE_NUMBERS: dict[str, Callable[[int], str]] = {
    "plain": str,
    "a plus sign": lambda n: f"+{n}",
    "commas": lambda n: groups(n, ","),
    "points": lambda n: groups(n, ".") + ",0",
    "spaces": lambda n: groups(n, " "),
    "narrow spaces": lambda n: groups(n, "\u202f"),
    "apostrophes": lambda n: groups(n, "'"),
    "typographic apostrophes": lambda n: groups(n, "\u2019"),
    "India": indian,
    "dollars": lambda n: f"${groups(n, ',')}",
    "euros behind": lambda n: f"{groups(n, '.')},00 €",
    "a currency's code": lambda n: f"CHF {groups(n, chr(39))}.00",
    "a code behind": lambda n: f"{n} USD",
    "full-width digits": lambda n: in_digits_of("\uff10")(str(n)),
    "Arabic digits": lambda n: in_digits_of("\u0660")(str(n)),
    "Devanagari digits": lambda n: in_digits_of("\u0966")(str(n)),
    "a period": lambda n: f"{n}.",
}
WAYS_OF_LOSSES: dict[str, Callable[[int], str]] = {
    "a hyphen": lambda n: f"-{n}",
    "a minus sign": lambda n: f"\u2212{groups(n, ',')}",
    "an en dash": lambda n: f"\u2013{n}",
    "a sign before the currency": lambda n: f"-${n}",
    "a sign behind the currency": lambda n: f"$-{n}",
    "a word": lambda n: f"minus {n}",
    "an account's parentheses": lambda n: f"({groups(n, ',')})",
    "parentheses around a currency": lambda n: f"(${n})",
}


@pytest.mark.parametrize("way", WAYS_OF_WHOLE_NUMBERS)
@given(number=GROUPED)
def test_a_written_whole_number_is_read_back(way: str, number: int) -> None:
    read = read_number(WAYS_OF_WHOLE_NUMBERS[way](number))
    assert read and read.value == number


@pytest.mark.parametrize("way", WAYS_OF_LOSSES)
@given(number=GROUPED)
def test_a_written_negative_number_is_read_back(way: str, number: int) -> None:
    read = read_number(WAYS_OF_LOSSES[way](number))
    assert read and read.value == -number


@given(DECIMAL)
def test_a_written_decimal_is_read_back(number: float) -> None:
    for text in (f"{number}", f"{number:,}", f"{number}%", f"{number} percent", f"{float(number):.12e}"):
        read = read_number(text)
        assert read and read.value == pytest.approx(float(number), rel=1e-12)
    for word, factor in {"thousand": 1e3, "million": 1e6, "bn": 1e9, "lakh": 1e5}.items():
        read = read_number(f"${number} {word}")
        assert read and read.value == pytest.approx(float(number) * factor)


@pytest.mark.parametrize("formula", ["1e308 * 10 - 1e308 * 10", "-(1e200 * 9e200)", "1 / 0", "(-1) ** 0.5"])
def test_a_formula_without_a_finite_value_is_refused(formula: str) -> None:
    with pytest.raises(ValueError, match="is not a formula that can be computed"):
        evaluate_formula(formula)


@given(st.text(max_size=60))
def test_any_text_is_searched_without_an_error(text: str) -> None:
    for number in find_numbers(text):
        assert math.isfinite(number.value)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("3/4", [0.75]),
        ("1 1/2", [1.5]),
        ("½", [0.5]),
        ("2½", [2.5]),
        ("1.5 × 10³", [1500]),
        ("2 x 10^-2", [0.02]),
        ("12,5", [12.5]),
        ("0,123", [0.123]),
        ("1.234", [1.234]),  # English, as the prompts are
        ("$5m", [5e6]),
        ("5 m", [5]),  # perhaps metres
        ("5M", [5e6]),
        ("The loss was ($5.2) million.", [-5.2e6]),
        ("12 patients (45%)", [12, 45]),  # no loss
        ("COVID-19, H2O, IL-6 and the 3rd", []),
        ("from 10 to 12", [10, 12]),
        ("- 5 items", [5]),  # an item of a list
        ("x=-5", [-5]),
        # In two ways, or in none:
        ("(12)", []),
        ("10-12", []),
        ("10\u201312", []),
        ("2020-01-02", []),
        ("3/4/2020", []),
        ("1.2.3", []),
        ("1,2,3", []),
        ("10:30", []),
        ("1/0", []),
        ("1e999", []),
    ],
)
def test_numbers_of_a_text(text: str, values: list[float]) -> None:
    assert [number.value for number in find_numbers(text)] == pytest.approx(values)


@pytest.mark.parametrize(
    ("gold", "reply", "right"),
    [
        ("-1234", "(1,234)", 1.0),
        ("1234", "(1,234)", 0.0),
        ("-5", "-$5", 1.0),
        ("5", "-$5", 0.0),
        ("1200000", "$1.2 million", 1.0),
        ("1.2", "$1.2 million", 0.0),
        ("1234.5", "1.234,5", 1.0),
        ("1,234", "1234", 1.0),
        ("10", "10-12", 0.0),  # a range is no answer
        ("12", "12%", 1.0),
        ("0.12", "12%", 0.0),
        ("5", "", 0.0),
    ],
)
def test_a_reply_is_right_by_the_value_that_it_means(gold: str, reply: str, right: float) -> None:
    assert judge_reply(make_question(gold, kind="number"), reply, True).primary_value == right


@pytest.mark.parametrize(
    ("instruction", "right"),
    [
        ("Give the margin as a fraction.", 1.0),
        ("Give the margin.", 0.0),
        ("Give the margin in percent, not as a fraction.", 0.0),
    ],
)
def test_a_percentage_is_a_fraction_where_the_instruction_asks_for_one(instruction: str, right: float) -> None:
    question = make_question("0.12", kind="number", instruction=instruction)
    assert judge_reply(question, "12%", True).primary_value == right
