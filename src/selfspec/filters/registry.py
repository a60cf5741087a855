"""The built-in filters by name, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from selfspec.config.schema import GenerationConfig
from selfspec.filters.answer import Answer
from selfspec.filters.balance import LabelBalance
from selfspec.filters.contamination import Contamination
from selfspec.filters.context import FilterContext
from selfspec.filters.custom import build_custom_filters
from selfspec.filters.duplicate import DuplicateInputs
from selfspec.filters.echo import Echo
from selfspec.filters.form import Form
from selfspec.filters.judge import Judge
from selfspec.filters.novelty import Novelty
from selfspec.filters.protocol import Filter, Phase
from selfspec.filters.self_consistency import SelfConsistency

FILTERS: Mapping[str, Callable[..., Filter]] = {  # each is a switch of the config: generation.filters.<name>
    "form": Form,
    "echo": Echo,
    "duplicate": DuplicateInputs,
    "novelty": Novelty,
    "contamination": Contamination,
    "answer": Answer,
    "self_consistency": SelfConsistency,
    "judge": Judge,
    "balance": LabelBalance,
}


def filter_names(phase: Phase) -> tuple[str, ...]:
    """Names of the built-in filters of one phase, in their order."""
    return tuple(name for name, filter_class in FILTERS.items() if getattr(filter_class, "phase", None) == phase)


def build_filters(context: FilterContext) -> dict[str, Filter]:
    """Build the filters that the config switches on, by name: built-in ones first, then those of the user.

    Raises:
        UserError: A filter of the user can't be created.
    """
    generation = context.generation
    built_in = {
        name: filter_class(**_options(name, generation), **context.select(filter_class))
        for name, filter_class in FILTERS.items()
        if getattr(generation.filters, name)
    }
    return built_in | build_custom_filters(generation.filters.extra, context, used_names=FILTERS)


def _options(name: str, generation: GenerationConfig) -> dict[str, Any]:
    """Arguments of a built-in filter that the config sets."""
    match name:
        case "novelty":
            return {"threshold": generation.filters.novelty_threshold}
        case "contamination":
            return {"least": generation.contamination.words}
        case "self_consistency":
            return {"majority": generation.self_consistency.majority}
        case _:
            return {}


def summarize_reason(name: str, reason: str) -> str:
    """The reason of a built-in filter without the id or label that it names; other reasons as they are."""
    summarize = getattr(FILTERS.get(name), "summarize", None)
    return str(summarize(reason)) if summarize else reason
