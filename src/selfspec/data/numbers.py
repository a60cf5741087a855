"""Numbers as people write them: signs, currencies, magnitude words, separators of several countries, fractions.

What can be read in two ways is not read: a range (10-12), a date, a version, a list without spaces (1,2,3).
"""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass
from decimal import Decimal

import regex

MAGNITUDES = {
    "hundred": 10**2,
    "thousand": 10**3,
    "lakh": 10**5,
    "million": 10**6,
    "mn": 10**6,
    "mln": 10**6,
    "crore": 10**7,
    "billion": 10**9,
    "bn": 10**9,
    "trillion": 10**12,
    "tn": 10**12,
}
LETTERS = {"k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9}  # directly behind the digits
LETTERS_OF_AMOUNTS = {"m": 10**6, "b": 10**9}  # beside a currency; elsewhere they may be units

# The format that prompts request.
BARE_NUMBER = regex.compile(r"[-+]?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)", regex.ASCII)

_CODES = "USD|EUR|GBP|JPY|CHF|CNY|RMB|INR|AUD|CAD|SEK|NOK|DKK"
_DIGITS = (  # the first pattern that fits counts
    r"[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?",  # 1,234.5
    r"[1-9]\d?(?:,\d{2})+,\d{3}(?:\.\d+)?",  # 12,34,567.8
    r"[1-9]\d{0,2}(?:\.\d{3})+,\d+",  # 1.234,5
    r"[1-9]\d{0,2}(?:\.\d{3}){2,}",  # 1.234.567; but 1.234 is a decimal
    r"[1-9]\d{0,2}(?:[ ']\d{3})+(?:[.,]\d+)?",  # 1 234,5 and 1'234.5
    r"\d+,\d+",  # 12,5: the comma separates no group of three
    r"\d*\.\d+",
    r"\d+",
)
_NUMBER = regex.compile(
    rf"""
    (?<![\p{{L}}\p{{N}}_])(?<!\p{{L}}[-/])(?<!\p{{N}}[-.,:/'])  # not inside a word, a range, a date or a version
    (?P<open>\(\s*)?
    (?P<sign>[-+]|(?:minus|negative)\s)?
    (?P<before>(?:(?:US|CA|A|C|HK)?\p{{Sc}}|(?:{_CODES}|Rs\.?)(?=[\s\d.-]))\s?)?
    (?P<inner_sign>-(?=[\d.]))?
    (?:
        (?:(?P<whole>\d+)\s+)?(?P<over>\d+)\s?/\s?(?P<under>\d+)
      | (?P<digits>{"|".join(_DIGITS)})
        (?:e(?P<exponent>[-+]?\d{{1,4}})|\s?[x×*·]\s?10(?:\^|\*\*)(?P<power>[-+]?\d{{1,4}}))?
    )
    (?:\s?(?P<magnitude>{"|".join(MAGNITUDES)})s?(?![\p{{L}}\p{{N}}])|(?P<letter>[kmb])(?![\p{{L}}\p{{N}}]))?
    (?P<after>\s?(?:\p{{Sc}}|(?:{_CODES})\b))?
    (?P<percent>\s?(?:%|per\scent\b|percent\b|pct\b))?
    (?P<close>\s*\)(?:\s?(?P<scale>{"|".join(MAGNITUDES)})s?(?![\p{{L}}\p{{N}}]))?)?
    (?!\d|[-.,:/']\d|(?:st|nd|rd|th)\b)
    """,
    regex.VERBOSE | regex.IGNORECASE,
)
_RUN_OF_DIGITS = regex.compile(r"(?<![\w.])\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?")
_SUPERSCRIPT = regex.compile("[\u207a\u207b]?[\u00b9\u00b2\u00b3\u2070\u2074-\u2079]+")
_SAME = str.maketrans(
    dict.fromkeys("\u2212\u2010\u2011\u2012\u2013\u2014\ufe63\uff0d", "-")  # minus signs, hyphens and dashes
    | dict.fromkeys("\u00a0\u2007\u2009\u202f", " ")
    | dict.fromkeys("\u2019\u066c", "'")
    | {"\u066b": ".", "\uff0c": ",", "\uff0e": ".", "\uff05": "%", "\u2044": "/", "\u2215": "/"}
)


@dataclass(frozen=True)
class WrittenNumber:
    """A number in a text.

    Attributes:
        value: As written: of 12%, 12; of ($3.5), which accounts for a loss, -3.5.
        is_percent: Whether a percent sign or word follows.
        is_first: Whether the text begins with it.
        is_all: Whether the text is nothing else.
    """

    value: float
    is_percent: bool
    is_first: bool
    is_all: bool


def find_numbers(text: str) -> list[WrittenNumber]:
    """All numbers of a text that can be read in one way, in their order."""
    text = _simplify(text).strip()
    matches = _NUMBER.finditer(text)
    return [number for match in matches if (number := _read(match, match.span() == (0, len(text))))]


def find_digits(text: str) -> list[float]:
    """Every run of digits as a number, without sign and magnitude: what a formula may use (3.2 of $3.2 million)."""
    return [float(digits.replace(",", "")) for digits in _RUN_OF_DIGITS.findall(_simplify(text))]


def read_number(text: str) -> WrittenNumber | None:
    """The number that the whole text is, but for a period; None if it is anything else."""
    return next((number for number in find_numbers(text.strip().removesuffix(".")) if number.is_all), None)


def _read(match: regex.Match[str], is_all: bool) -> WrittenNumber | None:
    """The number of a match; None if it can be read in two ways, or is no finite number."""
    has_currency = bool(match["before"] or match["after"])
    in_parentheses = bool(match["open"] and match["close"])
    is_bare = (match["digits"] or "").isdigit() and not (has_currency or match["magnitude"] or match["letter"])
    if in_parentheses and is_all and is_bare and not match["percent"]:
        return None  # (12): a loss, or the number of a list's item
    unsigned = _unsigned(match)
    if unsigned is None:
        return None
    is_loss = in_parentheses and (is_all or has_currency)
    is_negative = is_loss or (match["sign"] or match["inner_sign"] or "+").strip() != "+"
    value = float(unsigned * _factor(match, has_currency))
    if math.isinf(value):
        return None
    return WrittenNumber(-value if is_negative else value, bool(match["percent"]), match.start() == 0, is_all)


def _unsigned(match: regex.Match[str]) -> Decimal | None:
    """The number without sign and magnitude; None for a fraction without a value."""
    if match["digits"]:
        return Decimal(f"{_one_point(match['digits'])}e{match['exponent'] or match['power'] or 0}")
    over, under = (Decimal(match[name]) for name in ("over", "under"))
    return over / under + Decimal(match["whole"] or 0) if under else None


def _factor(match: regex.Match[str], has_currency: bool) -> int:
    """What a magnitude word or letter multiplies by."""
    word, letter = (match["magnitude"] or match["scale"] or "").casefold(), match["letter"] or ""
    of_amount = LETTERS_OF_AMOUNTS.get(letter, 1) if has_currency else 1
    return MAGNITUDES.get(word) or LETTERS.get(letter) or of_amount


def _one_point(digits: str) -> str:
    """Digits without separators of groups, and with a point before the decimals."""
    digits = digits.replace(" ", "").replace("'", "")
    end = max(digits.rfind(","), digits.rfind("."))
    if end < 0:
        return digits
    is_group = digits.count(digits[end]) > 1 or (digits[end] == "," and regex.fullmatch(_DIGITS[0], digits))
    whole = regex.sub("[.,]", "", digits if is_group else digits[:end])
    return whole if is_group else f"{whole}.{digits[end + 1 :]}"


def _simplify(text: str) -> str:
    """The text with ASCII digits, signs and spaces in place of others."""
    if text.isascii():
        return text
    text = _SUPERSCRIPT.sub(lambda match: "^" + unicodedata.normalize("NFKC", match[0]).replace("\u2212", "-"), text)
    return "".join(map(_simplify_character, text)).translate(_SAME)


def _simplify_character(character: str) -> str:
    if character.isdecimal():
        return str(unicodedata.decimal(character))
    if unicodedata.name(character, "").startswith("VULGAR FRACTION"):
        return f" {unicodedata.normalize('NFKC', character)}"
    return character
