"""Words of a text, and the longest run of words that two texts share."""

from __future__ import annotations

import re

_WORD = re.compile(r"[a-z0-9]+")


def words(text: str) -> list[str]:
    """Lower-case words, as rouge_score's tokenizer cuts them (no stemming)."""
    return _WORD.findall(text.lower())


def longest_common_run(one: list[str], other: list[str]) -> int:
    """Length of the longest run of words that both have in a row."""
    from difflib import SequenceMatcher

    return SequenceMatcher(None, one, other, autojunk=False).find_longest_match().size
