"""The stage `examples`: block by block, until enough rows have passed everything (paper, section 3.1)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from selfspec import pipeline
from selfspec.config import DataSizeConfig, DomainConfig, EngineConfig, GenerationConfig, ModelConfig
from selfspec.engines import Engine
from selfspec.errors import UserError
from selfspec.filters import answer, echo, form
from selfspec.filters.novelty import Novelty
from selfspec.generation import BLOCK, Pool, instructions, responses
from selfspec.prompts import Draft, template_hash
from selfspec.records import Example, Seed, read_seeds, split, write_jsonl
from selfspec.stage import Job


def examples(
    job: Job,
    seeds: Path,
    *,
    domain: DomainConfig,
    model: ModelConfig,
    data_size: DataSizeConfig,
    generation: GenerationConfig,
    engine: EngineConfig,
    seed: int,
) -> dict[str, Any]:
    """The first `data_size.examples` rows that passed every filter, and every row with its verdicts.

    Raises:
        UserError: `generation.max_attempts` was reached first; what was made is kept.
    """
    maker = _Maker(job, read_seeds(seeds, domain.tasks), domain, model, generation)
    wanted = data_size.examples
    rows: list[Example] = []
    accepted: list[Example] = []
    with job.progress.step("examples", wanted, "example") as step:
        while len(accepted) < wanted:
            if len(rows) + BLOCK > generation.max_attempts:
                raise UserError(_too_few(wanted, accepted, rows, generation.max_attempts))
            made = maker.block(len(rows) // BLOCK)
            good = [row for row in made if not any(row.verdicts.values())]
            rows, accepted = rows + made, accepted + good
            step.advance(len(good), f"{len(accepted)} of {len(rows)} attempts passed")
    last = rows.index(accepted[wanted - 1])
    rows = rows[: last + 1]  # a later row is no business of this view
    write_jsonl(job.output / "examples.jsonl", accepted[:wanted])
    write_jsonl(job.output / "rows.jsonl", rows)
    funnel = {"attempts": len(rows), "accepted": wanted, "dropped": _reasons(rows)}
    (job.output / "funnel.json").write_text(json.dumps(funnel, indent=1))
    return {"examples": wanted, "attempts": len(rows)}


class _Maker:
    """Makes blocks of judged rows; the model is loaded at the first block that is not stored."""

    def __init__(
        self,
        job: Job,
        seeds: list[Seed],
        domain: DomainConfig,
        model: ModelConfig,
        generation: GenerationConfig,
    ) -> None:
        @cache
        def engine() -> Engine:
            from selfspec.engines.transformers import TransformersEngine
            from selfspec.models import load

            return TransformersEngine(*load.base(model, job.config.paths, job.progress))

        first, second = pipeline.pool_keys(job.stage.slice, job.stage.inputs["seeds"])
        self.instructions = Pool(job, "instructions", first, engine)
        self.responses = Pool(job, "responses", second, engine)
        self.shown, _ = split(seeds)
        self.domain, self.generation = domain, generation
        self.by_id = {seed.id: seed for seed in seeds}
        self.novelty = Novelty(seeds, generation.filters.novelty_threshold)

    def block(self, number: int) -> list[Example]:
        """The rows of block `number`, every one with its verdicts; blocks are asked for in order."""
        raw = instructions.block(self.instructions, number, self.generation.instructions, self.domain, self.shown)
        drafts = [instructions.draft(attempt) for attempt in raw]
        verdicts = [
            self._judge(draft, attempt, f"{number:05d}-{place:02d}")
            for place, (draft, attempt) in enumerate(zip(drafts, raw, strict=True))
        ]
        alive = [(place, draft) for place, draft in enumerate(drafts) if not any(verdicts[place].values())]
        answers = responses.block(self.responses, number, alive, self.generation.responses, self.domain, self.shown)
        if set(answers) != {place for place, _ in alive}:  # a filter changed, and its version did not
            raise RuntimeError(f"block {number} of {self.responses.key} answers other rows than passed the filters")
        rows = []
        for place, (draft, attempt) in enumerate(zip(drafts, raw, strict=True)):
            output, response_seeds = "", ()
            if found := answers.get(place):
                response_seeds = tuple(found["response_seeds"])
                output, verdicts[place]["answer"] = self._answer(draft, found)
            rows.append(
                Example(
                    id=f"{number:05d}-{place:02d}",
                    task_type=draft.task_type,
                    instruction=draft.instruction,
                    input=draft.input,
                    output=output,
                    options=draft.options,
                    topic=draft.topic,
                    seeds=tuple(attempt["seeds"]),
                    response_seeds=response_seeds,
                    sampler_seed=attempt["sampler_seed"],
                    prompt=template_hash(),
                    verdicts=verdicts[place],
                )
            )
        return rows

    def _judge(self, draft: Draft, attempt: dict[str, Any], name: str) -> dict[str, str]:
        """Verdicts up to the first that drops; what passes counts for the novelty of later rows."""
        filters = self.generation.filters
        verdicts: dict[str, str] = {}
        if filters.form:
            verdicts["form"] = form.check(draft, attempt["finished"])
        if filters.echo and not any(verdicts.values()):
            verdicts["echo"] = echo.check(draft, [self.by_id[seed] for seed in attempt["seeds"]])
        if filters.novelty and not any(verdicts.values()):
            verdicts["novelty"] = self.novelty.check(draft)
            if not verdicts["novelty"]:
                self.novelty.keep(draft, name)
        return verdicts

    def _answer(self, draft: Draft, found: dict[str, Any]) -> tuple[str, str]:
        if not self.generation.filters.answer:
            return found["text"].strip(), ""
        kind = self.domain.tasks[draft.task_type].kind
        shots = [self.by_id[seed] for seed in found["response_seeds"]]
        return answer.check(draft, kind, found["text"], found["finished"], shots)


def _reasons(rows: Iterable[Example]) -> dict[str, dict[str, int]]:
    """Dropped rows by filter and reason; what a reason names (`near 00001-03`) is left out."""
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        for name, reason in row.verdicts.items():
            if reason:
                plain = reason.split(" of ")[0] if name == "echo" else reason
                plain = {"near": "near duplicate", "same": "same input"}.get(plain.split()[0], plain)
                counts.setdefault(name, Counter())[plain] += 1
    return {name: dict(counter.most_common()) for name, counter in counts.items()}


def _too_few(wanted: int, accepted: list[Example], rows: list[Example], limit: int) -> str:
    flat = Counter({f"{name}: {r}": n for name, reasons in _reasons(rows).items() for r, n in reasons.items()})
    common = ", ".join(f"{reason} ({count})" for reason, count in flat.most_common(3)) or "no attempt was made"
    return (
        f"Only {len(accepted)} of {wanted} examples passed in {len(rows)} attempts (most were dropped for {common}); "
        f"what was made is kept, so raise generation.max_attempts={limit} to go on from there, "
        f"or set data_size.examples={max(len(accepted), 1)}."
    )
