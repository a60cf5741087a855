"""Echo: the model repeats a seed that its prompt showed, instead of writing a task of its own."""

from __future__ import annotations

from collections.abc import Sequence

from selfspec.data.records import Draft, Seed
from selfspec.data.text import longest_common_run, words

MAX_SHARE = 0.5  # ours: half of the input, in one run of words, stands in a seed shown


def check_echo(draft: Draft, shown: Sequence[Seed]) -> str:
    """Why the draft is an echo, or an empty string."""
    mine = words(draft.input) or words(draft.instruction)
    for seed in shown:
        theirs = words(seed.input) or words(seed.instruction)
        if mine and longest_common_run(mine, theirs) >= max(5, MAX_SHARE * len(mine)):
            return f"echo of {seed.id}"
    return ""
