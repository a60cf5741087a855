"""A metric and a corpus as a user writes them; `warm` runs import this module, since its folder is on their path."""

from __future__ import annotations

from collections.abc import Iterator

from selfspec.data.records import Question


class Brevity:
    """1 for an empty reply, 0 for one of `words` words or more; it does not apply to lists of entities."""

    name = "brevity"

    def __init__(self, words: int = 20) -> None:
        self.words = words

    def __call__(self, question: Question, reply: str) -> float | None:
        if question.kind == "entities":
            return None
        return max(0.0, 1 - len(reply.split()) / self.words)


class Notes:
    """A corpus of `count` short documents."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for number in range(self.count):
            yield (
                f"note:{number}",
                f"Note {number}: aspirin relieves pain and lowers fever, as the trial {number} found.",
            )
