"""The batch plan: which examples form each optimizer step and each forward pass, decided before training begins."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from selfspec.config.schema import TuningConfig
from selfspec.data.records import Example, Seed
from selfspec.prompts.chat import bos_ids, chat_template_of
from selfspec.prompts.templates import PromptRenderer

SMALL_DATA_SIZE = 500  # examples; the batch sizes for at most so many, and for more [O; the follow-up paper has 32]
SMALL_BATCH_SIZE, LARGE_BATCH_SIZE = 8, 32


@dataclass(frozen=True)
class EncodedExample:
    """One example as token ids: its prompt, and its response with the end token."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)


@dataclass(frozen=True)
class OptimizerStep:
    """One optimizer step."""

    number: int
    epoch: int
    micro_batches: tuple[tuple[int, ...], ...]  # row numbers of each forward pass
    tokens: int  # target tokens of the whole step: its loss is their mean, however they are distributed

    @property
    def rows(self) -> int:
        """Number of examples in this step."""
        return sum(map(len, self.micro_batches))


def encode_rows(
    rows: Iterable[Seed | Example], role: str, tokenizer: Any, prompts: PromptRenderer
) -> list[EncodedExample]:
    """Token ids of rows, rendered as evaluation renders 0-shot prompts."""

    def encode(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False).input_ids)

    chat, end = chat_template_of(tokenizer), tokenizer.eos_token_id
    prefix = bos_ids(tokenizer) + encode(chat.prefix(prompts.prefix(role, ())))
    return [
        EncodedExample((*prefix, *encode(chat.item(prompts.task(row)))), (*encode(row.output), end)) for row in rows
    ]


def choose_batch_size(config: TuningConfig, num_examples: int) -> int:
    """Examples of one optimizer step: `tuning.batch_size`, or a default that depends on the number of examples."""
    return config.batch_size or (SMALL_BATCH_SIZE if num_examples <= SMALL_DATA_SIZE else LARGE_BATCH_SIZE)


def plan_steps(
    lengths: Sequence[tuple[int, int]], config: TuningConfig, seed: int, num_processes: int = 1
) -> list[OptimizerStep]:
    """Every step of the training, in order.

    Args:
        lengths: For each row its number of tokens, and how many of them are target tokens.
        config: Epochs, batch size, and the tokens that one forward pass may take.
        seed: Shuffles the rows, differently in each epoch.
        num_processes: Processes that share a step: each gets a forward pass, if there are enough rows.
    """
    batch_size = choose_batch_size(config, len(lengths))
    steps: list[OptimizerStep] = []
    for epoch in range(config.epochs):
        order = list(range(len(lengths)))
        random.Random(f"{seed}/{epoch}").shuffle(order)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            tokens = [lengths[row][0] for row in rows]
            limit = min(config.micro_batch_tokens, max(1, sum(tokens) // num_processes))
            micro_batches = _pack_rows(rows, tokens, limit)
            steps.append(OptimizerStep(len(steps), epoch, micro_batches, sum(lengths[row][1] for row in rows)))
    return steps


def _pack_rows(rows: Sequence[int], lengths: Sequence[int], limit: int) -> tuple[tuple[int, ...], ...]:
    """Rows in order, split before a forward pass would hold more than `limit` tokens."""
    packs: list[list[int]] = []
    tokens = 0
    for row, length in zip(rows, lengths, strict=True):
        if not packs or tokens + length > limit:
            packs.append([])
            tokens = 0
        packs[-1].append(row)
        tokens += length
    return tuple(tuple(pack) for pack in packs)
