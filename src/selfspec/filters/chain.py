"""The filter chain: filters in order, each candidate up to the first that drops it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from selfspec.errors import UserError
from selfspec.filters.protocol import (
    Candidate,
    Filter,
    ModelFilter,
    PassageFilter,
    Phase,
    SelectiveFilter,
    StatefulFilter,
)

Filters = Mapping[str, Filter]  # by name, in order
ReadModelOutput = Callable[[str, Sequence[Candidate]], None]


def run_filters(filters: Filters, phase: Phase, candidates: Sequence[Candidate], read: ReadModelOutput) -> None:
    """Run the filters of a phase on the candidates of a block, and record their verdicts.

    Candidates are checked one by one, in order, so that a filter has seen every earlier candidate that passed. A filter
    that reads model output starts when the filters before it have checked all candidates of the block, because that
    output is generated in batches.

    Args:
        filters: All filters.
        phase: Which of them run.
        candidates: Those of the block that no filter has dropped.
        read: Reads a kind of model output (`ModelFilter.model_output`) for the given candidates.
    """
    for group in _split_at_model_filters(filters, phase):
        for first in list(group.values())[:1]:
            if isinstance(first, ModelFilter):
                read(first.model_output, [each for each in candidates if each.is_accepted and _applies(first, each)])
        for candidate in candidates:
            if candidate.is_accepted:
                _check(group, candidate)


def accepts_passage(filters: Filters, text: str) -> bool:
    """Whether no filter keeps the passage out of prompts."""
    return not any(each.check_passage(text) for each in filters.values() if isinstance(each, PassageFilter))


def _split_at_model_filters(filters: Filters, phase: Phase) -> Iterable[Filters]:
    """Groups of filters that check a candidate one after the other; each model filter begins a group."""
    groups: list[dict[str, Filter]] = [{}]
    for name, each in filters.items():
        if each.phase == phase:
            if isinstance(each, ModelFilter):
                groups.append({})
            groups[-1][name] = each
    return groups


def _check(group: Filters, candidate: Candidate) -> None:
    passed = []
    for name, each in group.items():
        if not _applies(each, candidate):
            continue
        reason = each.check(candidate)
        if not isinstance(reason, str):
            raise UserError(f"The filter {name} returned {reason!r}; check must return a reason, or an empty string.")
        candidate.verdicts[name] = reason
        if reason:
            return
        passed.append(each)
    for each in passed:
        if isinstance(each, StatefulFilter):
            each.keep(candidate)


def _applies(each: Filter, candidate: Candidate) -> bool:
    return not isinstance(each, SelectiveFilter) or each.applies(candidate)
