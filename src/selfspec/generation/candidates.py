"""Candidate examples: written, answered and filtered, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from selfspec.config.schema import DomainConfig, GenerationConfig, RetrievalConfig
from selfspec.data.reading import read_question_texts, read_seeds
from selfspec.data.records import CLOSED_KINDS, Draft, Example, Seed, Task
from selfspec.data.splits import seed_subset, split_seeds
from selfspec.engines.protocol import Engine
from selfspec.filters.answer import check_answer, extractive_task_types
from selfspec.filters.balance import LabelBalance
from selfspec.filters.contamination import Contamination
from selfspec.filters.duplicate import DuplicateInputs
from selfspec.filters.echo import check_echo
from selfspec.filters.form import check_form
from selfspec.filters.judge import check_judgement
from selfspec.filters.novelty import Novelty
from selfspec.filters.self_consistency import check_votes
from selfspec.generation.instructions import draft_from_row, write_instructions
from selfspec.generation.judgements import Judge
from selfspec.generation.passages import passage_finder
from selfspec.generation.pools import Pool, pool_keys
from selfspec.generation.responses import FindPassages, ResponseSettings, write_responses
from selfspec.generation.votes import sample_votes
from selfspec.prompts.templates import PromptRenderer, prompts_hash
from selfspec.retrieval.passage import Passage
from selfspec.runtime.context import StageContext


@dataclass
class Candidate:
    """A row on its way down the ladder."""

    id: str
    place: int  # in its block
    draft: Draft
    kind: str
    raw: dict[str, Any]  # what the pool of instructions holds
    reply: dict[str, Any] = field(default_factory=dict)  # what the pool of responses holds
    output: str = ""
    verdicts: dict[str, str] = field(default_factory=dict)

    @property
    def alive(self) -> bool:
        """Whether nothing dropped it so far."""
        return not any(self.verdicts.values())

    def example(self, prompt: str) -> Example:
        """The row as it is kept, with its past."""
        return Example(
            id=self.id,
            **asdict(self.draft),
            output=self.output,
            seeds=tuple(self.raw["seeds"]),
            response_seeds=tuple(self.reply.get("response_seeds", ())),
            documents=tuple(self.reply.get("documents", ())),
            sampler_seed=self.raw["sampler_seed"],
            prompt=prompt,
            verdicts=self.verdicts,
        )


@dataclass(frozen=True)
class GenerationInputs:
    """What rows are made from."""

    seeds: Sequence[Seed]
    shown: Sequence[Seed]
    questions: Sequence[tuple[str, str]]  # (id, text) of what must not be overlapped
    find: FindPassages  # passages for a task

    @classmethod
    def read(
        cls,
        seeds: Path,
        against: Iterable[Path],
        index: Path | None,
        domain: DomainConfig,
        retrieval: RetrievalConfig,
    ) -> GenerationInputs:
        """From the inputs of a stage."""
        written = read_seeds(seeds, domain.tasks)
        shown = seed_subset(split_seeds(written)[0], domain.seed_count)
        questions = [text for path in against for text in read_question_texts(path)]
        return cls(written, shown, questions, passage_finder(index, retrieval.passages))


@dataclass
class CandidateRows:
    """Makes blocks of judged rows, in order; a model is loaded at the first block that is not stored."""

    stage_context: StageContext
    domain: DomainConfig
    generation: GenerationConfig
    material: GenerationInputs
    context: int  # tokens that the model can read
    write: Callable[[], Engine]  # the base model
    reply: Callable[[], Engine]  # the base model, or in later rounds the specialized one
    prompts: PromptRenderer
    seed: int  # of the experiment

    def __post_init__(self) -> None:
        """What the ladder remembers."""
        seeds = self.material.seeds
        self.pools = self._open_pools()
        self.by_id = {seed.id: seed for seed in seeds}
        kinds = {name: task.kind for name, task in self.domain.tasks.items()}
        self.grounded = extractive_task_types(seeds, kinds)
        self.duplicates = DuplicateInputs(seeds)
        self.novelty = Novelty(seeds, self.generation.filters.novelty_threshold)
        known = [seed.input for seed in seeds]
        self.contamination = Contamination(self.material.questions, self.generation.contamination.words, known)
        self.answering = ResponseSettings(
            self.generation, self.domain, self.material.shown, self.prompts, self._passages, self.context
        )

    def _open_pools(self) -> dict[str, Pool]:
        context, config = self.stage_context, self.generation
        engines = {"instructions": self.write, "judgements": self.write}
        sizes = {"instructions": config.instructions.batch_size, "judgements": config.judge.batch_size}
        return {
            name: Pool(
                context,
                name,
                key,
                self.seed,
                sizes.get(name, config.responses.batch_size),
                engines.get(name, self.reply),
            )
            for name, key in pool_keys(context.stage.values, context.stage.inputs).items()
        }

    def block(self, number: int) -> list[Example]:
        """The rows of block `number`, every one with its verdicts; blocks are asked for in order."""
        shown = self.material.shown
        raw = write_instructions(self.pools["instructions"], number, self.generation, self.domain, shown, self.prompts)
        rows = [self._attempt(number, place, each) for place, each in enumerate(raw)]
        for row in rows:
            self._check_draft(row)
        self._answer(number, [row for row in rows if row.alive])
        filters = self.generation.filters
        if filters.self_consistency:
            self._vote(number, [row for row in rows if row.alive and row.kind in CLOSED_KINDS])
        if filters.judge:
            self._judge(number, [row for row in rows if row.alive])
        if filters.balance:
            balance = LabelBalance()
            for row in (row for row in rows if row.alive and row.kind == "label" and row.output in row.draft.options):
                row.verdicts["balance"] = balance.check(row.draft.task_type, row.output, row.draft.options)
        return [row.example(prompts_hash(self.prompts.templates)) for row in rows]

    @cached_property
    def judge(self) -> Judge:
        """The model as judge, with its prompt."""
        return Judge(self.pools["judgements"], self.generation.judge, self.domain, self.material.shown, self.prompts)

    def _attempt(self, number: int, place: int, raw: dict[str, Any]) -> Candidate:
        draft = draft_from_row(raw)
        return Candidate(f"{number:05d}-{place:02d}", place, draft, self.domain.tasks[draft.task_type].kind, raw)

    def _check_draft(self, row: Candidate) -> None:
        """Verdicts up to the first that drops; what passes counts for the novelty of later rows."""
        for name, check in self._draft_checks(row):
            if getattr(self.generation.filters, name):
                row.verdicts[name] = check()
                if row.verdicts[name]:
                    return
        self.duplicates.keep(row.draft.input, row.id)
        self.novelty.keep(row.draft, row.id)

    def _draft_checks(self, row: Candidate) -> Iterator[tuple[str, Callable[[], str]]]:
        draft = row.draft
        yield "form", lambda: check_form(draft, row.raw["finished"])
        yield "echo", lambda: check_echo(draft, [self.by_id[seed] for seed in row.raw["seeds"]])
        yield "duplicate", lambda: self.duplicates.check(draft)
        yield "novelty", lambda: self.novelty.check(draft)
        yield "contamination", lambda: self.contamination.check(draft.input)

    def _answer(self, number: int, rows: Sequence[Candidate]) -> None:
        pool, drafts = self.pools["responses"], [(row.place, row.draft) for row in rows]
        found = write_responses(pool, number, drafts, self.answering)
        self._same(pool, number, set(found), {row.place for row in rows})
        for row in rows:
            row.reply = found[row.place]
            row.output = row.reply["text"].strip()
            if self.generation.filters.answer:
                shots = [self.by_id[seed] for seed in row.reply["response_seeds"]]
                row.output, row.verdicts["answer"] = check_answer(
                    row.draft, row.kind, row.output, row.reply["finished"], shots, row.draft.task_type in self.grounded
                )

    def _passages(self, task: Task) -> Sequence[Passage]:
        """Passages for a task, those left out that an evaluation question overlaps."""
        if not self.generation.filters.contamination:
            return self.material.find(task)
        return [passage for passage in self.material.find(task) if not self.contamination.check(passage.text)]

    def _vote(self, number: int, rows: Sequence[Candidate]) -> None:
        pool, drafts = self.pools["votes"], [(row.place, row.draft) for row in rows]
        found = sample_votes(pool, number, drafts, self.answering)
        self._same(pool, number, set(found), {row.place for row in rows})
        majority = self.generation.self_consistency.majority
        for row in rows:
            label, reason = check_votes(row.draft, row.kind, found[row.place], majority)
            row.output, row.verdicts["self_consistency"] = label or row.output, reason

    def _judge(self, number: int, rows: Sequence[Candidate]) -> None:
        found = self.judge.block(number, [(row.place, row.draft, row.output) for row in rows])
        self._same(self.judge.pool, number, set(found), {row.place for row in rows})
        calibration = self.judge.calibration()
        for row in rows:
            row.verdicts["judge"] = check_judgement(found[row.place], calibration)

    def _same(self, pool: Pool, number: int, found: set[int], wanted: set[int]) -> None:
        if found != wanted:  # a filter changed, and its version did not
            raise RuntimeError(f"block {number} of {pool.key} holds other rows than passed the filters")
