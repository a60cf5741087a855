"""Evaluation questions for several tests."""

from __future__ import annotations

from selfspec.data.records import Question

YESNO = ("yes", "no")
FIELDS = ("infection", "cancer", "heart")


def make_question(
    *answers: str, kind: str = "text", options: tuple[str, ...] = (), instruction: str = "Tell."
) -> Question:
    """A question with these reference answers."""
    return Question("q1", "task", kind, instruction, "A text.", answers, options=options)
