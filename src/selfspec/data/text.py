"""The words of a text, and the longest run of words that two texts share."""

from __future__ import annotations

import re

_WORD = re.compile(r"[a-z0-9]+")


def words(text: str) -> list[str]:
    """Lower-case words, as split by the tokenizer of rouge_score without stemming."""
    return _WORD.findall(text.lower())


def longest_common_run(one: list[str], other: list[str]) -> int:
    """Length of the longest sequence of consecutive words that both texts have."""
    from difflib import SequenceMatcher

    return SequenceMatcher(None, one, other, autojunk=False).find_longest_match().size
