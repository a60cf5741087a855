"""Contamination: the input has a run of words of an evaluation question (normalized 8- and 13-gram overlap).

Inputs are compared, not instructions, which are meant to repeat. A question shorter than a run counts as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

from selfspec.data.records import Seed
from selfspec.data.text import words
from selfspec.filters.protocol import Candidate, Phase

NGRAM_SIZES = (13, 8)  # words of the runs that are compared, beside the shortest; a match of 13 implies one of 8
MIN_QUESTION_WORDS = 5  # of a question that counts as a whole; a shorter one is no evidence


class Contamination:
    """Drops a task, and leaves out a passage, that shares a run of words with an evaluation question.

    Args:
        questions: (id, text) of each.
        least: Words of the shortest run that counts.
        seeds: A run that a seed's input has does not count: it is a common phrase ("Does the headline say that"), and
            the model may have it from the seed.
    """

    phase: ClassVar[Phase] = "task"
    needs: ClassVar = ("questions", "seeds")

    def __init__(self, questions: Iterable[tuple[str, str]], least: int, seeds: Sequence[Seed] = ()) -> None:
        self._questions: dict[tuple[str, ...], list[str]] = {}  # run of words -> ids of the questions that have it
        for name, text in questions:
            question = words(text)
            for size in {least, *(size for size in NGRAM_SIZES if size > least)}:
                for run in _ngrams(question, min(size, len(question))):
                    self._questions.setdefault(run, []).append(name)
        self._sizes = sorted({len(run) for run in self._questions}, reverse=True)
        for run in [run for seed in seeds for size in self._sizes for run in _ngrams(words(seed.input), size)]:
            self._questions.pop(run, None)

    def check(self, candidate: Candidate) -> str:
        """Return the reason for dropping the candidate, or an empty string."""
        return self.check_passage(candidate.draft.input)

    def check_passage(self, text: str) -> str:
        """The longest run of words that a question shares with the text, or an empty string."""
        size, names = next(self._matches(text), (0, [""]))
        return f"{size} words of {names[0]}" if size else ""

    def overlapping(self, texts: Iterable[str]) -> set[str]:
        """Ids of the questions that share a run of words with any of the texts."""
        return {name for text in texts for _, names in self._matches(text) for name in names}

    @staticmethod
    def summarize(reason: str) -> str:
        """The reason without the question's id."""
        return reason.partition(" of ")[0]

    def _matches(self, text: str) -> Iterator[tuple[int, list[str]]]:
        """(number of words, ids of questions) of each shared run, the longest first."""
        text_words = words(text)
        for size in self._sizes:
            for run in _ngrams(text_words, size):
                if run in self._questions:
                    yield size, self._questions[run]


def _ngrams(text_words: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    """Every run of `size` words; none if that is too short to count."""
    starts = range(len(text_words) - size + 1) if size >= MIN_QUESTION_WORDS else ()
    return (tuple(text_words[start : start + size]) for start in starts)
