"""Text in one form for comparison, its words in any script, the longest common run of words, and nouns with numbers."""

from __future__ import annotations

import re
from unicodedata import normalize

import regex

# Scripts that are written without spaces between words: each character, with its marks, counts as a word.
UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_ASCII_WORD = re.compile(r"[a-z0-9]+")
_WORD = regex.compile(
    rf"[{UNSPACED}]\p{{M}}*|[[\p{{L}}\p{{N}}]--[{UNSPACED}]][[\p{{L}}\p{{N}}\p{{M}}]--[{UNSPACED}]]*", regex.V1
)
_INVISIBLE = regex.compile(r"\p{Cf}")  # soft hyphens, joiners, byte order marks


def fold(text: str) -> str:
    """The text in one form: compatible characters are one character (NFKC), case and invisible characters are gone."""
    return text.lower() if text.isascii() else _INVISIBLE.sub("", normalize("NFKC", normalize("NFKC", text).casefold()))


def words(text: str) -> list[str]:
    """Words of letters and digits, folded; of English text those of rouge_score's tokenizer without stemming.

    In scripts without spaces between words, each character is a word.
    """
    return _ASCII_WORD.findall(text.lower()) if text.isascii() else _WORD.findall(fold(text))


def count_noun(count: int, noun: str) -> str:
    """A number with a noun in the right form: `1 row`, `3 rows`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def longest_common_run(one: list[str], other: list[str]) -> int:
    """Length of the longest sequence of consecutive words that both texts have."""
    from difflib import SequenceMatcher

    return SequenceMatcher(None, one, other, autojunk=False).find_longest_match().size
