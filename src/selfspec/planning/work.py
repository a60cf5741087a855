"""The work of each stage: attempts, rows, optimizer steps, answers, and their tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass

from selfspec.config.schema import Config
from selfspec.generation.pools import BLOCK_SIZE
from selfspec.planning.lengths import mean_row_lengths, question_lengths, seed_lengths
from selfspec.runtime.stage import Stage
from selfspec.tuning.batches import choose_batch_size

ASSUMED_PASS_RATE = 0.5  # of the attempts: 64 of 132 in the README's run (`python benchmarks/default_run.py`)
VOTE_TOKENS = 3  # generated for one vote of self-consistency


@dataclass(frozen=True)
class Work:
    """The work of one stage."""

    summary: str  # "64 rows, 24 steps"
    units: float = 0  # attempts, tuned tokens or answers: the time of a stage is proportional to them
    generated: float = 0  # tokens
    read: float = 0  # tokens of prompts
    tuned: float = 0  # tokens of all epochs

    def scaled(self, fraction: float) -> Work:
        """The same with a fraction of the units and tokens."""
        counts = (self.units, self.generated, self.read, self.tuned)
        return Work(self.summary, *(fraction * value for value in counts))


def stage_work(stage: Stage, pass_rate: float) -> Work:
    """The work of a stage; empty for stages whose work is not estimated.

    Args:
        stage: The stage.
        pass_rate: Share of the attempts that pass the filters.
    """
    if stage.name in ("examples", "round_examples"):
        return _generation_work(stage, pass_rate)
    if stage.name == "adapter":
        return _tuning_work(stage)
    return _evaluation_work(stage.config) if stage.name == "scores" else Work("")


def count_attempts(config: Config, pass_rate: float) -> int:
    """Attempts, in whole blocks, that the data size needs."""
    return BLOCK_SIZE * math.ceil(config.data_size.examples / pass_rate / BLOCK_SIZE)


def _generation_work(stage: Stage, pass_rate: float) -> Work:
    config, seeds = stage.config, seed_lengths(stage.config.domain, stage.config.prompts)
    attempts = count_attempts(config, pass_rate)
    responses = config.generation.responses
    mean_prompt, mean_response = mean_row_lengths(seeds)
    task = mean_prompt - seeds.header
    reuses_instructions = stage.name == "round_examples" and config.rounds.instructions == "same"
    generated, read = (0.0, 0.0) if reuses_instructions else _instruction_tokens(config, attempts)
    generated += attempts * mean_response
    read += math.ceil(attempts / responses.batch_size) * seeds.prefix(responses.shots) + attempts * task
    filters = _filter_tokens(config, attempts, task)
    summary = f"{config.data_size.examples:,} of {attempts:,} attempts"
    return Work(summary, attempts, generated=generated + filters[0], read=read + filters[1])


def _instruction_tokens(config: Config, attempts: int) -> tuple[float, float]:
    """(generated, read) tokens of instructions and inputs, which are two completions behind the same prefix."""
    seeds, instructions = seed_lengths(config.domain, config.prompts), config.generation.instructions
    batches = math.ceil(attempts / instructions.batch_size)
    mean_item = sum(seeds.list_items) / len(seeds.list_items)
    read = 2 * (batches * seeds.list_prefix(instructions.shots)) + attempts * (seeds.open_item + mean_item)
    return attempts * (mean_item - seeds.open_item), read


def _filter_tokens(config: Config, attempts: int, task: float) -> tuple[float, float]:
    """(generated, read) tokens of votes and verdicts, for the filters that are on."""
    filters, generation = config.generation.filters, config.generation
    votes = attempts * generation.self_consistency.samples if filters.self_consistency else 0
    verdicts = attempts if filters.judge else 0
    return votes * VOTE_TOKENS, (votes + verdicts) * task


def _tuning_work(stage: Stage) -> Work:
    config, tuning = stage.config, stage.config.tuning
    seeds = seed_lengths(config.domain, config.prompts)
    num_rows = config.data_size.examples if "examples" in stage.inputs else len(seeds.rows)
    steps = tuning.epochs * math.ceil(num_rows / choose_batch_size(tuning, num_rows))
    tokens = num_rows * tuning.epochs * sum(mean_row_lengths(seeds))
    return Work(f"{num_rows:,} rows, {steps:,} steps", tokens, tuned=tokens)


def _evaluation_work(config: Config) -> Work:
    evaluation, questions = config.evaluation, question_lengths(config)
    draws = [num_shots for num_shots in evaluation.shots for _ in range(evaluation.draws if num_shots else 1)]
    answers = questions.num_questions * len(draws)
    prefixes = sum(questions.num_task_types * questions.seeds.prefix(num_shots) for num_shots in draws)
    read = answers * questions.mean_question + prefixes
    return Work(f"{answers:,} answers", answers, generated=answers * questions.mean_answer, read=read)
