"""The batch plan: which rows make each optimizer step and each forward pass, settled before training begins."""

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
    """One example as token ids: its prompt, and the response with the end token. Only the response is learnt."""

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
    tokens: int  # response tokens of the whole step: the loss is their mean, however they are spread

    @property
    def rows(self) -> int:
        """Examples of this step."""
        return sum(map(len, self.micro_batches))


def encode_rows(
    rows: Iterable[Seed | Example], role: str, tokenizer: Any, prompts: PromptRenderer
) -> list[EncodedExample]:
    """Rows as tokens, by the renderer that evaluation uses (0-shot)."""

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False).input_ids)

    turns, end = chat_template_of(tokenizer), tokenizer.eos_token_id
    start = bos_ids(tokenizer) + ids(turns.prefix(prompts.prefix(role, ())))
    return [EncodedExample((*start, *ids(turns.item(prompts.task(row)))), (*ids(row.output), end)) for row in rows]


def choose_batch_size(config: TuningConfig, num_examples: int) -> int:
    """Examples of one optimizer step: `tuning.batch_size`, or a default that depends on the number of examples."""
    return config.batch_size or (SMALL_BATCH_SIZE if num_examples <= SMALL_DATA_SIZE else LARGE_BATCH_SIZE)


def plan_steps(
    lengths: Sequence[tuple[int, int]], config: TuningConfig, seed: int, processes: int = 1
) -> list[OptimizerStep]:
    """Every step of the training, in order.

    Args:
        lengths: For each row its tokens in all, and its response's.
        config: Epochs, batch size, and the tokens that one forward pass may take.
        seed: Orders the rows, anew in each epoch.
        processes: That share a step: each gets a forward pass, if there are rows enough.
    """
    batch_size = choose_batch_size(config, len(lengths))
    steps: list[OptimizerStep] = []
    for epoch in range(config.epochs):
        order = list(range(len(lengths)))
        random.Random(f"{seed}/{epoch}").shuffle(order)
        for begin in range(0, len(order), batch_size):
            rows = order[begin : begin + batch_size]
            tokens = [lengths[row][0] for row in rows]
            micro = _pack_rows(rows, tokens, min(config.micro_batch_tokens, max(1, sum(tokens) // processes)))
            steps.append(OptimizerStep(len(steps), epoch, micro, sum(lengths[row][1] for row in rows)))
    return steps


def _pack_rows(rows: Sequence[int], lengths: Sequence[int], limit: int) -> tuple[tuple[int, ...], ...]:
    """Rows in order, cut before a forward pass would hold more than `limit` tokens."""
    packs: list[list[int]] = []
    tokens = 0
    for row, length in zip(rows, lengths, strict=True):
        if not packs or tokens + length > limit:
            packs.append([])
            tokens = 0
        packs[-1].append(row)
        tokens += length
    return tuple(tuple(pack) for pack in packs)
