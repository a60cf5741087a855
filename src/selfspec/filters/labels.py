"""Labels: answers of closed tasks, spelled as their options."""

from __future__ import annotations

import re
from collections.abc import Sequence

from selfspec.data.records import NO_ANSWER, SEPARATOR
from selfspec.data.text import words


def canonical_label(output: str, options: Sequence[str], kind: str) -> str:
    """Spell a closed answer as its options are spelled.

    Args:
        output: The answer; case, punctuation, and of several labels their order do not count.
        options: Allowed labels.
        kind: "label" or "labels".

    Returns:
        The label, or the labels in the order of the options; an empty string if any is not among the options.
    """
    spelling = {" ".join(words(option)): option for option in options}
    parts = [output] if kind == "label" else re.split(r"[;,]", output)
    names = [" ".join(words(part)) for part in parts]
    if kind == "labels" and names == [NO_ANSWER] and NO_ANSWER not in spelling:
        return NO_ANSWER
    if not all(name in spelling for name in names):
        return ""
    chosen = {spelling[name] for name in names}
    return SEPARATOR.join(option for option in options if option in chosen)
