"""What a filter is, and the candidate that it checks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol, runtime_checkable

from selfspec.data.records import Draft, Seed

Phase = Literal["task", "answer"]
PHASES: tuple[Phase, ...] = ("task", "answer")


@dataclass
class Candidate:
    """A generated row that the filters check, with its verdicts so far."""

    id: str  # block and place: "00003-17"
    draft: Draft  # the task: its type, instruction, input, options and topic
    kind: str  # of the task's answer: label, labels, short, list, entities, number, text
    block: int = 0
    place: int = 0  # in the block
    finished: bool = True  # whether the model ended the instruction and the input by itself
    seeds: tuple[Seed, ...] = ()  # few-shot examples in the prompt of the instruction
    sampler_seed: int = 0
    output: str = ""  # the answer as it is kept; empty in the phase "task"
    output_finished: bool = True  # whether the model ended the answer by itself
    output_seeds: tuple[Seed, ...] = ()  # few-shot examples in the prompt of the answer
    documents: tuple[str, ...] = ()  # ids of the passages in the prompt of the answer
    samples: tuple[str, ...] = ()  # sampled answers, where self-consistency is on
    margin: float = 0.0  # the judge's log p(YES) - log p(NO), where it is on
    verdicts: dict[str, str] = field(default_factory=dict)  # filter -> reason; an empty string: passed

    @property
    def is_accepted(self) -> bool:
        """Whether no filter has dropped it so far."""
        return not any(self.verdicts.values())


@runtime_checkable
class Filter(Protocol):
    """Drops candidates.

    A class of the user's own may have two more attributes: `name`, under which its verdicts are recorded (default: the
    class name in snake case), and `needs`, names of fields of `FilterContext` that its constructor takes as keywords.
    The protocols below are optional methods.
    """

    phase: ClassVar[Phase]  # "task": runs before the task is answered; "answer": afterwards

    def check(self, candidate: Candidate) -> str:
        """Return the reason for dropping the candidate, or an empty string.

        A filter of the phase "answer" may set `candidate.output` to a canonical spelling.
        """
        ...


@runtime_checkable
class SelectiveFilter(Filter, Protocol):
    """A filter that checks only a part of the candidates; the others get no verdict from it."""

    def applies(self, candidate: Candidate) -> bool:
        """Whether the candidate is checked."""
        ...


@runtime_checkable
class StatefulFilter(Filter, Protocol):
    """A filter whose verdicts depend on the candidates that passed before."""

    def keep(self, candidate: Candidate) -> None:
        """Remember a candidate that passed this filter and those that run together with it."""
        ...


@runtime_checkable
class PassageFilter(Filter, Protocol):
    """A filter that also keeps retrieved passages out of the prompts of answers."""

    def check_passage(self, text: str) -> str:
        """Return the reason for leaving the passage out, or an empty string."""
        ...


@runtime_checkable
class ModelFilter(Filter, Protocol):
    """A built-in filter that reads more output of the model, which is generated for whole blocks of candidates."""

    model_output: ClassVar[Literal["votes", "judgements"]]  # sets `candidate.samples`, or `candidate.margin`
