"""Held: contrastive decoding takes, token by token, what its formula takes when both models read every prompt whole; it
never touches a label, the base, or the adapter.
"""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import pytest
import torch
from test_engine import ITEMS, LONG, NEVER, SHORT, Spelled, prepared, prompt, tokens

from selfspec.engines.contrastive import ContrastiveEngine
from selfspec.engines.protocol import PromptBatch, Sampling
from selfspec.engines.transformers import TransformersEngine
from toys import with_random_adapter

COUNT = 6
MODELS = ["llama-2-7b", "gemma-3-270m", "mpt-30b"]


@cache
def pair(name: str) -> tuple[Any, Any]:
    """A toy that wears an adapter which is far from doing nothing, and its tokenizer."""
    model, tokenizer = prepared(name)
    head = model.get_output_embeddings().weight
    with torch.no_grad():  # as first drawn, all tokens are about as likely, so that none would be implausible
        head.mul_(2 / next_logprobs(model, prompt(tokenizer, LONG, ITEMS[0])).std())
    model = with_random_adapter(model).eval()
    assert all(bool(part.any()) for place, part in model.named_parameters() if "lora_B" in place)
    return model, tokenizer


def batch(prefix: str = LONG, closed: tuple[bool, ...] = ()) -> PromptBatch:
    return PromptBatch(prefix, ITEMS, Sampling(COUNT), NEVER, closed=closed)


def written(engine: Any, asked: PromptBatch) -> list[list[int]]:
    """The tokens of each row."""
    return [tokens(completion) for completion in engine.complete(asked)]


def contrasted(name: str, contrast: float, plausible: float) -> ContrastiveEngine:
    model, tokenizer = pair(name)
    return ContrastiveEngine(model, Spelled(tokenizer), contrast, plausible)


def plain(name: str) -> TransformersEngine:
    model, tokenizer = pair(name)
    return TransformersEngine(model, Spelled(tokenizer))


@torch.no_grad()
def next_logprobs(model: Any, ids: list[int]) -> torch.Tensor:
    """[vocabulary]: of the token behind `ids`, all of which are read anew."""
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].double().log_softmax(-1)


def by_formula(model: Any, ids: list[int], contrast: float, plausible: float) -> list[int]:
    """METHOD's formula: log p_expert - contrast * log p_amateur, where p_expert >= plausible * max p_expert."""
    row = list(ids)
    for _ in range(COUNT):
        expert = next_logprobs(model, row)
        with model.disable_adapter():
            amateur = next_logprobs(model, row)
        likely = expert.exp() >= plausible * expert.exp().max()
        score = {int(n): float(expert[n] - contrast * amateur[n]) for n in likely.nonzero()}
        row.append(max(score, key=lambda token: score[token]))
    return row[len(ids) :]


@pytest.mark.parametrize("name", MODELS)
def test_without_contrast_it_is_the_plain_engine(name: str) -> None:
    for prefix in (LONG, SHORT):
        assert written(contrasted(name, 0.0, 0.1), batch(prefix)) == written(plain(name), batch(prefix))


@pytest.mark.parametrize(("contrast", "plausible"), [(0.5, 0.1), (1.0, 0.01), (2.0, 1e-9)])
@pytest.mark.parametrize("name", MODELS)
def test_its_tokens_are_those_of_the_formula_when_both_read_every_prompt_whole(
    name: str, contrast: float, plausible: float
) -> None:
    model, tokenizer = pair(name)
    engine = contrasted(name, contrast, plausible)
    engine.complete(batch(SHORT))  # whose cached prefix must make way
    found = written(engine, batch())
    assert found == [by_formula(model, prompt(tokenizer, LONG, item), contrast, plausible) for item in ITEMS]
    assert found != written(plain(name), batch())


def test_what_the_expert_finds_implausible_is_never_taken() -> None:
    greedy = written(plain("llama-2-7b"), batch())
    assert written(contrasted("llama-2-7b", 5.0, 1.0), batch()) == greedy  # only its likeliest is plausible
    assert written(contrasted("llama-2-7b", 5.0, 0.1), batch()) != written(contrasted("llama-2-7b", 5.0, 1e-9), batch())


@pytest.mark.parametrize("closed", [(True,) * 4, (True, False, False, True)])
def test_closed_rows_are_the_experts_greedy_answers(closed: tuple[bool, ...]) -> None:
    greedy, free = written(plain("llama-2-7b"), batch()), written(contrasted("llama-2-7b", 2.0, 1e-6), batch())
    assert all(one != other for one, other in zip(greedy, free, strict=True))
    found = written(contrasted("llama-2-7b", 2.0, 1e-6), batch(closed=closed))
    assert found == [one if shut else other for shut, one, other in zip(closed, greedy, free, strict=True)]


def test_rows_that_end_early_leave_expert_and_amateur_together() -> None:
    engine = contrasted("llama-2-7b", 2.0, 1e-6)
    closed = (False, False, True, False)
    free = written(engine, batch(closed=closed))
    engine.end_ids = {free[0][2], free[2][5]}
    expected = [row[: next((n for n, token in enumerate(row) if token in engine.end_ids), COUNT)] for row in free]
    assert len({len(row) for row in expected}) >= 3
    completions = engine.complete(batch(closed=closed))
    assert [tokens(completion) for completion in completions] == expected
    assert [completion.finished for completion in completions] == [len(row) < COUNT for row in expected]


def test_base_and_adapter_are_afterwards_as_they_were() -> None:
    model, tokenizer = pair("llama-2-7b")
    before = {name: part.clone() for name, part in model.state_dict().items()}
    ids = prompt(tokenizer, LONG, ITEMS[0])
    expert = next_logprobs(model, ids)
    with model.disable_adapter():
        amateur = next_logprobs(model, ids)
    assert not torch.equal(expert, amateur)
    contrasted("llama-2-7b", 0.5, 0.1).complete(batch())
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(part, before[name]) for name, part in model.state_dict().items())
    assert torch.equal(next_logprobs(model, ids), expert)  # the adapter is on again
    with model.disable_adapter():
        assert torch.equal(next_logprobs(model, ids), amateur)


def test_the_same_batch_gives_the_same_completions() -> None:
    engine, asked = contrasted("gemma-3-270m", 0.5, 0.1), batch()
    first = engine.complete(asked)
    torch.manual_seed(random.randrange(100))
    engine.complete(batch(SHORT))
    assert engine.complete(asked) == first
