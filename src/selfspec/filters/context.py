"""What filters may be built from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from selfspec.config.schema import DomainConfig, GenerationConfig
from selfspec.data.records import Seed
from selfspec.filters.judge import Calibration


@dataclass(frozen=True)
class FilterContext:
    """Constants that are fixed before the first block. A filter names those that it takes in `needs`."""

    seeds: Sequence[Seed]  # all seeds of the domain
    shown_seeds: Sequence[Seed]  # those that prompts may show; the others are held out
    questions: Sequence[tuple[str, str]]  # (id, text) of the evaluation questions
    domain: DomainConfig
    generation: GenerationConfig
    calibration: Callable[[], Calibration]  # of the judge; the first call may run the model

    def select(self, filter_class: Any) -> dict[str, Any]:
        """Keyword arguments for a filter's constructor, as its `needs` says."""
        return {name: getattr(self, name) for name in getattr(filter_class, "needs", ())}
