"""Self-judging (ours, beyond the paper): log p(YES) - log p(NO) of answers, of seeds first, then of candidates."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from selfspec.config.schema import DomainConfig, JudgeConfig
from selfspec.data.jsonl import read_jsonl
from selfspec.data.records import Seed, Task
from selfspec.engines.protocol import PromptBatch, Sampling
from selfspec.filters.judge import Calibration, calibrate_judge, corrupt_answer
from selfspec.generation.pools import Pool, batches_of
from selfspec.prompts.templates import PromptRenderer
from selfspec.runtime.batches import NumberedBatch

Answered = tuple[int, Task, str]  # place, task, answer


class Judge:
    """The base model as judge of one pool: one prompt, calibrated on the seeds that it does not show."""

    def __init__(
        self, pool: Pool, config: JudgeConfig, domain: DomainConfig, seeds: Sequence[Seed], prompts: PromptRenderer
    ) -> None:
        self.pool, self.config, self.prompts = pool, config, prompts
        rng = pool.rng("judge")
        order = rng.sample(list(seeds), len(seeds))
        examples = [
            (seed, seed.output if place % 2 else corrupt_answer(seed, seeds, rng), bool(place % 2))
            for place, seed in enumerate(order[: config.shots])
        ]
        self.prefix = prompts.judge_prefix(domain.role, examples)
        self.seeds = order[config.shots :]
        self.corrupted = [corrupt_answer(seed, seeds, rng) for seed in self.seeds]

    def calibration(self) -> Calibration:
        """AUC and threshold of the judge on seeds with right and with corrupted answers; computed once and stored."""
        answers = [seed.output for seed in self.seeds] + self.corrupted
        rows = [(place, task, answer) for place, (task, answer) in enumerate(zip(self.seeds * 2, answers, strict=True))]
        batches = [NumberedBatch(partial(self._margins, "", batch), len(batch)) for batch in self._batches(rows)]
        folder = self.pool.output("seeds", "seeds", batches, {})
        margins = [row["margin"] for row in read_jsonl(folder / "rows.jsonl")]
        half = len(self.seeds)
        return calibrate_judge(margins[:half], margins[half:], self.config.least_auc)

    def block(self, number: int, answered: Sequence[Answered]) -> dict[int, float]:
        """Margins of the remaining candidates of one block, by the candidate's place in its block."""
        rows = self.pool.block(number, {"": answered}, self._margins)
        return {row["place"]: row["margin"] for row in rows}

    def _batches(self, rows: Sequence[Answered]) -> list[Sequence[Answered]]:
        return batches_of(rows, self.pool.batch_size)

    def _margins(self, _: str, batch: Sequence[Answered]) -> list[dict[str, Any]]:
        templates = self.prompts.templates
        items = tuple(self.prompts.judged_answer(task, answer) for _, task, answer in batch)
        options = ((templates.judge_yes, templates.judge_no),) * len(items)
        completions = self.pool.load_engine().complete(
            PromptBatch(self.prefix, items, Sampling(0), (), options=options)
        )
        return [
            {"place": place, "margin": completion.option_logprobs[0] - completion.option_logprobs[1]}
            for (place, _, _), completion in zip(batch, completions, strict=True)
        ]
