"""Contamination: a run of words that an evaluation question has, too (METHOD: normalised 8- and 13-gram overlap).

Inputs are compared, not instructions, which repeat by design. A question shorter than a run counts as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from selfspec.data.text import words

NGRAM_SIZES = (13, 8)  # words in a row that are looked at, beside the least; a hit of the longer is one of the shorter


MIN_QUESTION_WORDS = 5  # words of a question that counts as a whole; what is shorter is no evidence


class Contamination:
    """Knows every run of words of the questions.

    Args:
        questions: (id, text) of each.
        least: Words of a run.
        known: Texts of the seeds. A run that one of them has is a way of putting things ("Does the headline say that"),
            and the model has it from there.
    """

    def __init__(self, questions: Iterable[tuple[str, str]], least: int, known: Iterable[str] = ()) -> None:
        self._runs: dict[tuple[str, ...], list[str]] = {}
        for name, text in questions:
            theirs = words(text)
            for length in {least, *(run for run in NGRAM_SIZES if run > least)}:
                for run in _ngrams(theirs, min(length, len(theirs))):
                    self._runs.setdefault(run, []).append(name)
        self._sizes = sorted({len(run) for run in self._runs}, reverse=True)
        for run in [run for text in known for size in self._sizes for run in _ngrams(words(text), size)]:
            self._runs.pop(run, None)

    def check(self, text: str) -> str:
        """The longest run that a question has, or an empty string."""
        found = next(self._found(text), None)
        return f"{found[0]} words of {found[1][0]}" if found else ""

    def overlapping(self, texts: Iterable[str]) -> set[str]:
        """Ids of the questions that share a run with any of the texts."""
        return {name for text in texts for _, names in self._found(text) for name in names}

    def _found(self, text: str) -> Iterator[tuple[int, list[str]]]:
        """(length, questions) of each shared run, the longest first."""
        mine = words(text)
        for size in self._sizes:
            for run in _ngrams(mine, size):
                if run in self._runs:
                    yield size, self._runs[run]


def _ngrams(text: list[str], length: int) -> Iterator[tuple[str, ...]]:
    """Every run of `length` words."""
    starts = range(len(text) - length + 1) if length >= MIN_QUESTION_WORDS else ()
    return (tuple(text[start : start + length]) for start in starts)
