"""Filters: one file each. A verdict is a reason for dropping, or an empty string.

A verdict uses the row itself, earlier rows, and constants fixed before the first block; nothing that comes later.
Parents: Self-Instruct (arXiv 2212.10560, section 2.2); the thresholds that are ours are marked where they stand.
"""

from __future__ import annotations

from selfspec.records import words

__all__ = ["longest_run", "words"]


def longest_run(one: list[str], other: list[str]) -> int:
    """Length of the longest run of words that both have in a row."""
    from difflib import SequenceMatcher

    return SequenceMatcher(None, one, other, autojunk=False).find_longest_match().size
