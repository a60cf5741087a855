"""Self-judging, beyond the paper: log p(YES) - log p(NO) of answers, first of seeds, then of synthetic rows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from selfspec.config.schema import DomainConfig, JudgeConfig
from selfspec.data.jsonl import read_jsonl
from selfspec.data.records import Seed, Task
from selfspec.engines.protocol import PromptBatch, Sampling
from selfspec.filters.judge import Calibration, calibrate_judge, corrupt_answer
from selfspec.generation.pools import Pool
from selfspec.prompts.templates import NO, YES, render_judge_prefix, render_judged_answer
from selfspec.runtime.batches import NumberedBatch

AnsweredTask = tuple[Task, str]


class Judge:
    """The base model as judge of one pool: a prompt drawn once, calibrated on the seeds that it does not show."""

    def __init__(self, pool: Pool, config: JudgeConfig, domain: DomainConfig, shown: Sequence[Seed]) -> None:
        self.pool, self.config = pool, config
        self.chance, _ = pool.random(-1, 0)
        order = self.chance.sample(list(shown), len(shown))
        examples = [
            (seed, seed.output if place % 2 else corrupt_answer(seed, shown, self.chance), bool(place % 2))
            for place, seed in enumerate(order[: config.shots])
        ]
        self.prefix = render_judge_prefix(domain.role, examples)
        self.seeds = order[config.shots :]
        self.wrong = [corrupt_answer(seed, shown, self.chance) for seed in self.seeds]

    def calibration(self) -> Calibration:
        """What its margins are worth, found once and stored."""
        answered: list[AnsweredTask] = [(seed, seed.output) for seed in self.seeds]
        answered += list(zip(self.seeds, self.wrong, strict=True))

        def judge(some: Sequence[AnsweredTask]) -> list[dict[str, Any]]:
            return [{"margin": margin} for margin in self._margins(some)]

        batches = [NumberedBatch(partial(judge, some), len(some)) for some in self._batches(answered)]
        folder = self.pool.output("seeds", "seeds", batches, {})
        margins = [row["margin"] for row in read_jsonl(folder / "rows.jsonl")]
        half = len(self.seeds)
        return calibrate_judge(margins[:half], margins[half:], self.config.least_auc)

    def block(self, number: int, answered: Sequence[tuple[int, Task, str]]) -> dict[int, float]:
        """Margins of one block's surviving rows, by the attempt's place in its block."""

        def judge(_: int, some: Sequence[tuple[int, Task, str]]) -> list[dict[str, Any]]:
            margins = self._margins([(task, answer) for _, task, answer in some])
            return [{"place": row[0], "margin": margin} for row, margin in zip(some, margins, strict=True)]

        rows = self.pool.block(number, self._batches(answered), judge)
        return {row["place"]: row["margin"] for row in rows}

    def _batches(self, rows: Sequence[Any]) -> list[Sequence[Any]]:
        size = self.config.batch_size
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    def _margins(self, answered: Sequence[AnsweredTask]) -> list[float]:
        items = tuple(render_judged_answer(task, answer) for task, answer in answered)
        options = ((YES, NO),) * len(items)
        completions = self.pool.engine().complete(PromptBatch(self.prefix, items, Sampling(0), (), options))
        return [yes - no for yes, no in (completion.option_logprobs for completion in completions)]
