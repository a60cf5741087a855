"""Rows of synthetic data: block by block they are written, answered, and go down the ladder of filters.

The ladder, in this order: form, echo, duplicate, novelty, contamination; then the answer's own checks,
self-consistency, the judge, and the balance of labels. A row's verdict uses only itself, earlier rows, and constants
fixed before.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from selfspec import pipeline
from selfspec.config import DomainConfig, GenerationConfig, RetrievalConfig
from selfspec.engines import Engine
from selfspec.errors import UserError
from selfspec.filters import answer, echo, form, judge, self_consistency
from selfspec.filters.balance import Balance
from selfspec.filters.contamination import Contamination
from selfspec.filters.duplicate import Duplicates
from selfspec.filters.novelty import Novelty
from selfspec.generation import BLOCK, Pool, instructions, passages, responses, votes
from selfspec.generation.judgements import Judge
from selfspec.generation.responses import Answering, Find, as_task
from selfspec.prompts import Draft, template_hash
from selfspec.records import Example, Seed, Task, fewer, read_seeds, read_texts, split, write_jsonl
from selfspec.retrieval import Passage
from selfspec.stage import Job

CLOSED = ("label", "labels")


@dataclass
class Attempt:
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

    def example(self) -> Example:
        """The row as it is kept, with its past."""
        return Example(
            id=self.id,
            **asdict(self.draft),
            output=self.output,
            seeds=tuple(self.raw["seeds"]),
            response_seeds=tuple(self.reply.get("response_seeds", ())),
            documents=tuple(self.reply.get("documents", ())),
            sampler_seed=self.raw["sampler_seed"],
            prompt=template_hash(),
            verdicts=self.verdicts,
        )


@dataclass(frozen=True)
class Material:
    """What rows are made from."""

    seeds: Sequence[Seed]
    shown: Sequence[Seed]
    questions: Sequence[tuple[str, str]]  # (id, text) of what must not be overlapped
    find: Find  # passages for a task

    @classmethod
    def read(
        cls,
        seeds: Path,
        against: Iterable[Path],
        index: Path | None,
        domain: DomainConfig,
        retrieval: RetrievalConfig,
    ) -> Material:
        """From the inputs of a stage."""
        written = read_seeds(seeds, domain.tasks)
        shown = fewer(split(written)[0], domain.seed_count)
        questions = [text for path in against for text in read_texts(path)]
        return cls(written, shown, questions, passages.finder(index, retrieval.passages))


@dataclass
class Rows:
    """Makes blocks of judged rows, in order; a model is loaded at the first block that is not stored."""

    job: Job
    domain: DomainConfig
    generation: GenerationConfig
    material: Material
    context: int  # tokens that the model can read
    write: Callable[[], Engine]  # the base model
    reply: Callable[[], Engine]  # the base model, or in later rounds the specialized one

    def __post_init__(self) -> None:
        """What the ladder remembers."""
        seeds = self.material.seeds
        keys = pipeline.pool_keys(self.job.stage)
        engines = {"instructions": self.write, "judgements": self.write}
        self.pools = {name: Pool(self.job, name, key, engines.get(name, self.reply)) for name, key in keys.items()}
        self.by_id = {seed.id: seed for seed in seeds}
        kinds = {name: task.kind for name, task in self.domain.tasks.items()}
        self.grounded = answer.grounded(seeds, kinds)
        self.duplicates = Duplicates(seeds)
        self.novelty = Novelty(seeds, self.generation.filters.novelty_threshold)
        known = [seed.input for seed in seeds]
        self.contamination = Contamination(self.material.questions, self.generation.contamination.words, known)
        self.answering = Answering(self.generation, self.domain, self.material.shown, self._passages, self.context)

    def block(self, number: int) -> list[Example]:
        """The rows of block `number`, every one with its verdicts; blocks are asked for in order."""
        shown = self.material.shown
        raw = instructions.block(self.pools["instructions"], number, self.generation, self.domain, shown)
        rows = [self._attempt(number, place, each) for place, each in enumerate(raw)]
        for row in rows:
            self._check_draft(row)
        self._answer(number, [row for row in rows if row.alive])
        filters = self.generation.filters
        if filters.self_consistency:
            self._vote(number, [row for row in rows if row.alive and row.kind in CLOSED])
        if filters.judge:
            self._judge(number, [row for row in rows if row.alive])
        if filters.balance:
            balance = Balance()
            for row in (row for row in rows if row.alive and row.kind == "label" and row.output in row.draft.options):
                row.verdicts["balance"] = balance.check(row.draft.task_type, row.output, row.draft.options)
        return [row.example() for row in rows]

    @cached_property
    def judge(self) -> Judge:
        """The model as judge, with its prompt."""
        return Judge(self.pools["judgements"], self.generation.judge, self.domain, self.material.shown)

    def _attempt(self, number: int, place: int, raw: dict[str, Any]) -> Attempt:
        draft = instructions.draft(raw)
        return Attempt(f"{number:05d}-{place:02d}", place, draft, self.domain.tasks[draft.task_type].kind, raw)

    def _check_draft(self, row: Attempt) -> None:
        """Verdicts up to the first that drops; what passes counts for the novelty of later rows."""
        for name, check in self._draft_checks(row):
            if getattr(self.generation.filters, name):
                row.verdicts[name] = check()
                if row.verdicts[name]:
                    return
        self.duplicates.keep(row.draft.input, row.id)
        self.novelty.keep(row.draft, row.id)

    def _draft_checks(self, row: Attempt) -> Iterator[tuple[str, Callable[[], str]]]:
        draft = row.draft
        yield "form", lambda: form.check(draft, row.raw["finished"])
        yield "echo", lambda: echo.check(draft, [self.by_id[seed] for seed in row.raw["seeds"]])
        yield "duplicate", lambda: self.duplicates.check(draft)
        yield "novelty", lambda: self.novelty.check(draft)
        yield "contamination", lambda: self.contamination.check(draft.input)

    def _answer(self, number: int, rows: Sequence[Attempt]) -> None:
        pool, drafts = self.pools["responses"], [(row.place, row.draft) for row in rows]
        found = responses.block(pool, number, drafts, self.answering)
        self._same(pool, number, set(found), {row.place for row in rows})
        for row in rows:
            row.reply = found[row.place]
            row.output = row.reply["text"].strip()
            if self.generation.filters.answer:
                shots = [self.by_id[seed] for seed in row.reply["response_seeds"]]
                row.output, row.verdicts["answer"] = answer.check(
                    row.draft, row.kind, row.output, row.reply["finished"], shots, row.draft.task_type in self.grounded
                )

    def _passages(self, task: Task) -> Sequence[Passage]:
        """Passages for a task, those left out that an evaluation question overlaps."""
        if not self.generation.filters.contamination:
            return self.material.find(task)
        return [passage for passage in self.material.find(task) if not self.contamination.check(passage.text)]

    def _vote(self, number: int, rows: Sequence[Attempt]) -> None:
        pool, drafts = self.pools["votes"], [(row.place, row.draft) for row in rows]
        found = votes.block(pool, number, drafts, self.answering)
        self._same(pool, number, set(found), {row.place for row in rows})
        majority = self.generation.self_consistency.majority
        for row in rows:
            label, reason = self_consistency.check(row.draft, row.kind, found[row.place], majority)
            row.output, row.verdicts["self_consistency"] = label or row.output, reason

    def _judge(self, number: int, rows: Sequence[Attempt]) -> None:
        found = self.judge.block(number, [(row.place, as_task(row.draft), row.output) for row in rows])
        self._same(self.judge.pool, number, set(found), {row.place for row in rows})
        calibration = self.judge.calibration()
        for row in rows:
            row.verdicts["judge"] = judge.check(found[row.place], calibration)

    def _same(self, pool: Pool, number: int, found: set[int], wanted: set[int]) -> None:
        if found != wanted:  # a filter changed, and its version did not
            raise RuntimeError(f"block {number} of {pool.key} holds other rows than passed the filters")


def collect(rows: Rows, wanted: int) -> dict[str, Any]:
    """Blocks until `wanted` rows passed everything; they are written, and every row with its verdicts.

    Raises:
        UserError: `generation.max_attempts` was reached first; what was made is kept.
    """
    job, limit = rows.job, rows.generation.max_attempts
    made: list[Example] = []
    accepted: list[Example] = []
    with job.progress.step(job.stage.label, wanted, "example") as step:
        while len(accepted) < wanted:
            if len(made) + BLOCK > limit:
                raise UserError(_too_few(wanted, accepted, made, limit))
            block = rows.block(len(made) // BLOCK)
            good = [row for row in block if not any(row.verdicts.values())]
            made, accepted = made + block, accepted + good
            step.advance(len(good), f"{len(accepted)} of {len(made)} attempts passed")
    made = made[: made.index(accepted[wanted - 1]) + 1]  # a later row is no business of this view
    write_jsonl(job.output / "examples.jsonl", accepted[:wanted])
    write_jsonl(job.output / "rows.jsonl", made)
    funnel: dict[str, Any] = {"attempts": len(made), "accepted": wanted, "dropped": reasons(made)}
    if rows.generation.filters.judge:
        funnel["judge"] = asdict(rows.judge.calibration())
    (job.output / "funnel.json").write_text(json.dumps(funnel, indent=1))
    return {"examples": wanted, "attempts": len(made)}


def reasons(rows: Iterable[Example]) -> dict[str, dict[str, int]]:
    """Dropped rows by filter and reason; what a reason names (`near 00001-03`) is left out."""
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        for name, reason in row.verdicts.items():
            if reason:
                plain = reason.split(" of ")[0] if name in ("echo", "contamination") else reason
                plain = {"near": "near duplicate", "same": "same input"}.get(plain.split()[0], plain)
                counts.setdefault(name, Counter())[plain] += 1
    return {name: dict(counter.most_common()) for name, counter in counts.items()}


def _too_few(wanted: int, accepted: list[Example], rows: list[Example], limit: int) -> str:
    flat = Counter({f"{name}: {r}": n for name, some in reasons(rows).items() for r, n in some.items()})
    common = ", ".join(f"{reason} ({count})" for reason, count in flat.most_common(3)) or "no attempt was made"
    return (
        f"Only {len(accepted)} of {wanted} examples passed in {len(rows)} attempts (most were dropped for {common}); "
        f"what was made is kept, so raise generation.max_attempts={limit} to go on from there, "
        f"or set data_size.examples={max(len(accepted), 1)}."
    )
