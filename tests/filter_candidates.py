"""A candidate of a draft, a draft with options and few-shot examples, for tests of filters."""

from __future__ import annotations

from selfspec.data.records import Draft, Seed
from selfspec.filters.protocol import Candidate


def of(draft: Draft, name: str = "row") -> Candidate:
    """A candidate of a free text task."""
    return Candidate(name, draft, "text")


CLOSED = Draft("verdict", "Did the rates rise?", "Rates rose twice in the spring.", ("yes", "no"))
SHOTS = (
    Seed("s1", "summary", "Say it again now.", "one two three four five six seven eight", "an output of no note"),
    Seed("s2", "summary", "Name the three noble gases.", "", "alpha beta gamma delta epsilon zeta eta theta iota"),
)
