"""The batch plan has each row once an epoch, in micro-batches within the limit, and is determined by the seed; an
encoded example is the prompt of evaluation followed by the response and the end token.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from selfspec.data.reading import read_seeds
from selfspec.data.records import Question, Seed
from selfspec.engines.protocol import Completion, PromptBatch, Sampling
from selfspec.engines.transformers import TransformersEngine
from selfspec.evaluation.few_shot import EvaluationBatch, answer_batch
from selfspec.tuning.batches import encode_rows, plan_steps
from toys import prompts, toy, toy_experiment, tuning_config, with_bos_and_eos

LENGTHS = st.lists(
    st.tuples(st.integers(1, 300), st.integers(1, 50)).map(lambda pair: (pair[0] + pair[1], pair[1])),
    min_size=1,
    max_size=80,
)


@settings(max_examples=60, deadline=None)
@example([(10, 2)] * 7, 2, 6, 20, 0)  # full to the last token
@given(LENGTHS, st.integers(1, 4), st.integers(1, 20), st.integers(1, 600), st.integers(0, 5))
def test_a_plan_has_each_row_once_an_epoch_and_respects_the_limits(
    lengths: list[tuple[int, int]], epochs: int, batch: int, limit: int, seed: int
) -> None:
    config = tuning_config(epochs=epochs, batch_size=batch, micro_batch_tokens=limit)
    steps = plan_steps(lengths, config, seed)
    assert steps == plan_steps(lengths, config, seed)
    assert [step.number for step in steps] == list(range(epochs * -(-len(lengths) // batch)))
    assert [step.epoch for step in steps] == sorted(step.epoch for step in steps)
    for epoch in range(epochs):
        own = [step for step in steps if step.epoch == epoch]
        rows = [row for step in own for micro in step.micro_batches for row in micro]
        assert Counter(rows) == Counter(range(len(lengths)))
        assert all(step.rows == batch for step in own[:-1]) and 1 <= own[-1].rows <= batch
        assert sum(step.tokens for step in own) == sum(response for _, response in lengths)
    for step in steps:
        assert step.tokens == sum(lengths[row][1] for micro in step.micro_batches for row in micro)
        for micro in step.micro_batches:
            assert len(micro) == 1 or sum(lengths[row][0] for row in micro) <= limit
        for micro, following in zip(step.micro_batches, step.micro_batches[1:], strict=False):
            assert sum(lengths[row][0] for row in (*micro, following[0])) > limit  # none was cut short


@settings(max_examples=20, deadline=None)
@given(LENGTHS, st.integers(1, 600), st.integers(0, 5))
def test_the_limit_of_a_forward_pass_does_not_change_the_steps(
    lengths: list[tuple[int, int]], limit: int, seed: int
) -> None:
    def rows_of_steps(limit: int) -> list[list[int]]:
        steps = plan_steps(lengths, tuning_config(micro_batch_tokens=limit), seed)
        return [[row for micro in step.micro_batches for row in micro] for step in steps]

    assert rows_of_steps(limit) == rows_of_steps(10**9)


def order(epoch: int, seed: int) -> list[int]:
    steps = plan_steps([(10, 2)] * 50, tuning_config(epochs=3), seed)
    return [row for step in steps if step.epoch == epoch for micro in step.micro_batches for row in micro]


def test_each_epoch_and_each_seed_shuffles_differently() -> None:
    orders = [order(epoch, seed) for epoch in range(3) for seed in range(3)]
    assert all(sorted(order) == list(range(50)) != order for order in orders)
    assert len({tuple(order) for order in orders}) == 9


@pytest.mark.parametrize(("rows", "size"), [(1, 8), (64, 8), (500, 8), (501, 32), (5000, 32)])
def test_the_default_batch_size_is_8_for_small_sets_and_32_for_larger_ones(rows: int, size: int) -> None:
    steps = plan_steps([(10, 2)] * rows, tuning_config(epochs=1), seed=0)
    assert max(step.rows for step in steps) == min(size, rows)
    assert len(steps) == -(-rows // size)


def test_a_given_batch_size_replaces_the_default() -> None:
    assert {step.rows for step in plan_steps([(10, 2)] * 600, tuning_config(batch_size=6), seed=0)} == {6}


class OneToken:
    """An engine that generates one token, so that it reads only the prompt."""

    def __init__(self, engine: TransformersEngine) -> None:
        self.engine, self.count = engine, engine.count

    def complete(self, batch: PromptBatch) -> list[Completion]:
        return self.engine.complete(replace(batch, sampling=Sampling(1), options=()))


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("domain_name", ["biomedicine", "finance"])
def test_an_encoded_example_is_the_evaluation_prompt_the_response_and_the_end_token(
    tmp_path: Path, domain_name: str, special: bool
) -> None:
    domain = toy_experiment(tmp_path, f"domain={domain_name}").domain
    model, tokenizer = toy("llama-2-7b")
    tokenizer = with_bos_and_eos(tokenizer) if special else tokenizer
    read: list[int] = []  # token ids that the model reads for one question
    model.register_forward_pre_hook(
        lambda _, arguments, named: read.extend(named["input_ids"][0].tolist()), with_kwargs=True
    )
    rows = read_seeds(Path(domain.seeds), domain.tasks)
    rows.append(Seed("without input", rows[0].task_type, "Name a protein.", "", "p53"))
    assert any(row.options for row in rows) and any(row.input for row in rows)
    for row, encoded in zip(rows, encode_rows(rows, domain.role, tokenizer, prompts()), strict=True):
        assert encoded.response[-1] == tokenizer.eos_token_id
        assert list(encoded.response[:-1]) == tokenizer(row.output, add_special_tokens=False).input_ids
        read.clear()
        question = Question(
            row.id, row.task_type, "text", row.instruction, row.input, (row.output,), options=row.options
        )
        batch = EvaluationBatch(row.task_type, 0, 0, (), (question,))
        answer_batch(OneToken(TransformersEngine(model, tokenizer)), batch, domain.role, 4096, prompts())
        assert list(encoded.prompt) == read
        assert (read[0] == tokenizer.bos_token_id) == special
        assert len(encoded) == len(read) + len(encoded.response)
