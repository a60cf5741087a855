"""Self-consistency: a closed label stands when the model gives it again and again, sampled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from selfspec.data.records import Draft
from selfspec.filters.answer import canonical_label


def check_votes(draft: Draft, kind: str, samples: Sequence[str], majority: float) -> tuple[str, str]:
    """(the majority's label or an empty string, why the row is dropped or an empty string).

    A sample that is none of the options counts against every label.
    """
    votes = Counter(canonical_label(text.strip(), draft.options, kind) for text in samples)
    del votes[""]
    label, count = max(votes.items(), key=lambda vote: vote[1], default=("", 0))
    if not samples or count / len(samples) < majority:
        return "", "no majority"
    return label, ""
