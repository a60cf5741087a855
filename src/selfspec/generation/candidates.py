"""Candidates: generated, answered and filtered, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from selfspec.config.schema import DomainConfig, GenerationConfig, RetrievalConfig
from selfspec.data.reading import read_question_texts, read_seeds
from selfspec.data.records import Draft, Example, Seed, Task
from selfspec.data.splits import seed_subset, split_seeds
from selfspec.engines.protocol import Engine
from selfspec.filters.chain import accepts_passage, run_filters
from selfspec.filters.context import FilterContext
from selfspec.filters.judge import Calibration
from selfspec.filters.protocol import Candidate
from selfspec.filters.registry import build_filters
from selfspec.generation.instructions import draft_from_row, write_instructions
from selfspec.generation.judgements import Judge
from selfspec.generation.passages import passage_finder
from selfspec.generation.pools import Pool, pool_keys
from selfspec.generation.responses import FindPassages, ResponseSettings, write_responses
from selfspec.generation.votes import sample_votes
from selfspec.prompts.templates import PromptRenderer, prompts_hash
from selfspec.retrieval.passage import Passage
from selfspec.runtime.context import StageContext


@dataclass(frozen=True)
class GenerationInputs:
    """Contents of the files that examples are generated from."""

    seeds: Sequence[Seed]
    shown_seeds: Sequence[Seed]  # those that prompts may show
    questions: Sequence[tuple[str, str]]  # (id, text) of the evaluation questions
    find_passages: FindPassages

    @classmethod
    def read(
        cls,
        seeds: Path,
        against: Iterable[Path],
        index: Path | None,
        domain: DomainConfig,
        retrieval: RetrievalConfig,
    ) -> GenerationInputs:
        """Read the inputs of a stage."""
        all_seeds = read_seeds(seeds, domain.tasks)
        shown_seeds = seed_subset(split_seeds(all_seeds)[0], domain.seed_count)
        questions = [text for path in against for text in read_question_texts(path)]
        return cls(all_seeds, shown_seeds, questions, passage_finder(index, retrieval.passages))


@dataclass
class CandidateRows:
    """Generates blocks of filtered candidates, in order.

    A model is loaded at the first block that is not in the store.
    """

    context: StageContext
    domain: DomainConfig
    generation: GenerationConfig
    inputs: GenerationInputs
    context_length: int  # tokens
    load_base: Callable[[], Engine]
    load_responder: Callable[[], Engine]  # the base model, or in later rounds the specialized one
    prompts: PromptRenderer
    seed: int  # of the experiment

    def __post_init__(self) -> None:
        """Build what all blocks share."""
        inputs = self.inputs
        self.pools = self._open_pools()
        self.seeds_by_id = {seed.id: seed for seed in inputs.seeds}
        context = FilterContext(
            seeds=inputs.seeds,
            shown_seeds=inputs.shown_seeds,
            questions=inputs.questions,
            domain=self.domain,
            generation=self.generation,
            calibration=self.calibrate_judge,
        )
        self.filters = build_filters(context)
        self.response_settings = ResponseSettings(
            self.generation, self.domain, inputs.shown_seeds, self.prompts, self._find_passages, self.context_length
        )

    def _open_pools(self) -> dict[str, Pool]:
        stage, config = self.context.stage, self.generation
        engines = {"instructions": self.load_base, "judgements": self.load_base}
        sizes = {"instructions": config.instructions.batch_size, "judgements": config.judge.batch_size}
        return {
            name: Pool(
                name,
                key,
                self.seed,
                context=self.context,
                round_number=stage.values.get("round", 1),
                batch_size=sizes.get(name, config.responses.batch_size),
                load_engine=engines.get(name, self.load_responder),
            )
            for name, key in pool_keys(stage.values, stage.inputs).items()
        }

    def block(self, number: int) -> list[Example]:
        """The examples of block `number`, dropped ones too, with their verdicts; blocks are read in order."""
        rows = write_instructions(
            self.pools["instructions"], number, self.generation, self.domain, self.inputs.shown_seeds, self.prompts
        )
        candidates = [self._candidate(number, place, row) for place, row in enumerate(rows)]
        read = partial(self._read_model_output, number)
        run_filters(self.filters, "task", candidates, read)
        remaining = [candidate for candidate in candidates if candidate.is_accepted]
        self._answer(remaining, number)
        run_filters(self.filters, "answer", remaining, read)
        prompt = prompts_hash(self.prompts.templates)
        return [_example(candidate, prompt) for candidate in candidates]

    @cached_property
    def judge(self) -> Judge:
        """The base model as judge, with its prompt."""
        return Judge(
            self.pools["judgements"], self.generation.judge, self.domain, self.inputs.shown_seeds, self.prompts
        )

    def calibrate_judge(self) -> Calibration:
        """What the judge's margins on the seeds show."""
        return self.judge.calibration()

    def _candidate(self, number: int, place: int, row: dict[str, Any]) -> Candidate:
        draft = draft_from_row(row)
        return Candidate(
            id=f"{number:05d}-{place:02d}",
            draft=draft,
            kind=self.domain.tasks[draft.task_type].kind,
            block=number,
            place=place,
            finished=row["finished"],
            seeds=self._seeds(row["seeds"]),
            sampler_seed=row["sampler_seed"],
        )

    def _answer(self, candidates: Sequence[Candidate], number: int) -> None:
        rows = write_responses(self.pools["responses"], number, _drafts(candidates), self.response_settings)
        self._check_places("responses", number, rows, candidates)
        for candidate in candidates:
            row = rows[candidate.place]
            candidate.output = row["text"].strip()
            candidate.output_finished = row["finished"]
            candidate.output_seeds = self._seeds(row["response_seeds"])
            candidate.documents = tuple(row["documents"])
            if row["too_long"]:
                candidate.verdicts["context"] = "task longer than the context"

    def _seeds(self, ids: Iterable[str]) -> tuple[Seed, ...]:
        return tuple(self.seeds_by_id[seed] for seed in ids)

    def _find_passages(self, task: Task) -> Sequence[Passage]:
        """Passages for a task, without those that a filter keeps out of prompts."""
        return [passage for passage in self.inputs.find_passages(task) if accepts_passage(self.filters, passage.text)]

    def _read_model_output(self, number: int, name: str, candidates: Sequence[Candidate]) -> None:
        """Set the samples or margins that a filter reads, for some candidates of a block."""
        if name == "votes":
            samples = sample_votes(self.pools[name], number, _drafts(candidates), self.response_settings)
            self._check_places(name, number, samples, candidates)
            for candidate in candidates:
                candidate.samples = tuple(samples[candidate.place])
        else:
            answered = [(each.place, each.draft, each.output) for each in candidates]
            margins = self.judge.block(number, answered)
            self._check_places(name, number, margins, candidates)
            for candidate in candidates:
                candidate.margin = margins[candidate.place]

    def _check_places(self, name: str, number: int, places: Iterable[int], candidates: Sequence[Candidate]) -> None:
        if set(places) != {candidate.place for candidate in candidates}:  # a filter changed, but not its version
            raise RuntimeError(f"block {number} of {self.pools[name].key} holds other rows than passed the filters")


def _drafts(candidates: Iterable[Candidate]) -> list[tuple[int, Draft]]:
    return [(candidate.place, candidate.draft) for candidate in candidates]


def _example(candidate: Candidate, prompt: str) -> Example:
    """The candidate as it is stored, with its provenance."""
    return Example(
        id=candidate.id,
        **asdict(candidate.draft),
        output=candidate.output,
        seeds=tuple(seed.id for seed in candidate.seeds),
        response_seeds=tuple(seed.id for seed in candidate.output_seeds),
        documents=candidate.documents,
        sampler_seed=candidate.sampler_seed,
        prompt=prompt,
        verdicts=candidate.verdicts,
    )
