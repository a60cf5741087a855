"""What each stage does: attempts, rows, optimizer steps, answers, and the tokens of all that."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from selfspec.config.schema import Config
from selfspec.generation.pools import BLOCK_SIZE
from selfspec.planning.lengths import mean_row_lengths, question_lengths, seed_lengths
from selfspec.runtime.stage import Stage
from selfspec.tuning.batches import SMALL_DATA_SIZE

ASSUMED_PASS_RATE = 0.5  # of the attempts pass: 64 of 135 in the README's run (`python benchmarks/default_run.py`)


@dataclass(frozen=True)
class Work:
    """Of one stage."""

    told: str  # "64 rows, 24 steps"
    units: float = 0  # attempts, tuned tokens, answers: what finished runs are timed by
    generated: float = 0  # tokens
    read: float = 0
    tuned: float = 0

    def share(self, part: float) -> Work:
        """What is left of it where only a part is to be done."""
        return Work(self.told, *(part * value for value in (self.units, self.generated, self.read, self.tuned)))


def stage_work(stage: Stage, passing: float) -> Work:
    """The work of a stage, with what share of the attempts passes; of some kinds nothing is known."""
    if stage.name in ("examples", "round_examples"):
        return _generation_work(stage, passing)
    if stage.name == "adapter":
        return _tuning_work(stage)
    return _evaluation_work(stage.config) if stage.name == "scores" else Work("")


def count_attempts(config: Config, passing: float) -> int:
    """Attempts that a data size takes, in whole blocks."""
    return BLOCK_SIZE * math.ceil(config.data_size.examples / passing / BLOCK_SIZE)


def _generation_work(stage: Stage, passing: float) -> Work:
    config, shown = stage.config, seed_lengths(stage.config.domain, stage.config.prompts)
    wanted, asked, answer = count_attempts(config, passing), config.generation.instructions, config.generation.responses
    prompt, response = mean_row_lengths(shown)
    item, batches = prompt - shown.head, math.ceil(wanted / asked.batch_size)
    begun, listed = shown.asked, sum(shown.listed) / len(shown.listed)
    drafts = {"generated": wanted * (listed - begun), "read": 2 * (batches * shown.list_prefix(asked.shots))}
    drafts["read"] += wanted * (begun + listed)
    if stage.name == "round_examples" and config.rounds.instructions == "same":  # those of the first round
        drafts = {"generated": 0.0, "read": 0.0}
    replies = {"generated": wanted * response}
    replies["read"] = math.ceil(wanted / answer.batch_size) * shown.prefix(answer.shots) + wanted * item
    more = _filter_work(config, wanted, item)
    total = {name: drafts[name] + replies[name] + more[name] for name in ("generated", "read")}
    told = f"{config.data_size.examples:,} of {wanted:,} attempts"
    return Work(told, wanted, **total)


def _filter_work(config: Config, wanted: int, item: float) -> Mapping[str, float]:
    """Votes and verdicts, where the filters ask for them."""
    filters, generation = config.generation.filters, config.generation
    votes = wanted * generation.self_consistency.samples if filters.self_consistency else 0
    verdicts = wanted if filters.judge else 0
    return {"generated": votes * 3, "read": (votes + verdicts) * item}


def _tuning_work(stage: Stage) -> Work:
    config, tuning = stage.config, stage.config.tuning
    shown = seed_lengths(config.domain, config.prompts)
    rows = config.data_size.examples if "examples" in stage.inputs else len(shown.rows)
    steps = tuning.epochs * math.ceil(rows / (tuning.batch_size or (8 if rows <= SMALL_DATA_SIZE else 32)))
    tokens = rows * tuning.epochs * sum(mean_row_lengths(shown))
    return Work(f"{rows:,} rows, {steps:,} steps", tokens, tuned=tokens)


def _evaluation_work(config: Config) -> Work:
    evaluation, asked = config.evaluation, question_lengths(config)
    draws = [shots for shots in evaluation.shots for _ in range(evaluation.draws if shots else 1)]
    answers = asked.count * len(draws)
    read = answers * asked.item + sum(asked.types * asked.seeds.prefix(count) for count in draws)
    return Work(f"{answers:,} answers", answers, generated=answers * asked.answer, read=read)
