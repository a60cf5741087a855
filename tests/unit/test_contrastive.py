"""Contrastive decoding: each token is the one of the formula, computed without any cache.

Labels are decoded greedily by the expert, and neither the base nor the adapter changes.
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

NUM_TOKENS = 6
MODELS = ["llama-2-7b", "gemma-3-270m", "mpt-30b"]


@cache
def pair(name: str) -> tuple[Any, Any]:
    """A toy model with an adapter that changes its outputs much, and its tokenizer."""
    model, tokenizer = prepared(name)
    head = model.get_output_embeddings().weight
    with torch.no_grad():  # a new toy gives all tokens about the same probability: none would be implausible
        head.mul_(2 / next_logprobs(model, prompt(tokenizer, LONG, ITEMS[0])).std())
    model = with_random_adapter(model).eval()
    assert all(bool(part.any()) for path, part in model.named_parameters() if "lora_B" in path)
    return model, tokenizer


def batch(prefix: str = LONG, closed: tuple[bool, ...] = ()) -> PromptBatch:
    return PromptBatch(prefix, ITEMS, Sampling(NUM_TOKENS), NEVER, closed=closed)


def completed_tokens(engine: Any, prompts: PromptBatch) -> list[list[int]]:
    """The tokens that the engine adds to each row."""
    return [tokens(completion) for completion in engine.complete(prompts)]


def contrastive_engine(name: str, contrast: float, plausible: float) -> ContrastiveEngine:
    model, tokenizer = pair(name)
    return ContrastiveEngine(model, Spelled(tokenizer), contrast, plausible)


def plain_engine(name: str) -> TransformersEngine:
    model, tokenizer = pair(name)
    return TransformersEngine(model, Spelled(tokenizer))


@torch.no_grad()
def next_logprobs(model: Any, ids: list[int]) -> torch.Tensor:
    """Log-probabilities [vocabulary] of the token after `ids`, computed without a cache."""
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].double().log_softmax(-1)


def decode_by_formula(model: Any, ids: list[int], contrast: float, plausible: float) -> list[int]:
    """Maximize log p_expert - contrast * log p_amateur over the tokens with p_expert >= plausible * max p_expert."""
    row = list(ids)
    for _ in range(NUM_TOKENS):
        expert = next_logprobs(model, row)
        with model.disable_adapter():
            amateur = next_logprobs(model, row)
        likely = expert.exp() >= plausible * expert.exp().max()
        score = {int(n): float(expert[n] - contrast * amateur[n]) for n in likely.nonzero()}
        row.append(max(score, key=lambda token: score[token]))
    return row[len(ids) :]


@pytest.mark.parametrize("name", MODELS)
def test_with_contrast_zero_the_tokens_are_those_of_the_plain_engine(name: str) -> None:
    for prefix in (LONG, SHORT):
        assert completed_tokens(contrastive_engine(name, 0.0, 0.1), batch(prefix)) == completed_tokens(
            plain_engine(name), batch(prefix)
        )


@pytest.mark.parametrize(("contrast", "plausible"), [(0.5, 0.1), (1.0, 0.01), (2.0, 1e-9)])
@pytest.mark.parametrize("name", MODELS)
def test_the_tokens_are_those_of_the_formula_computed_without_a_cache(
    name: str, contrast: float, plausible: float
) -> None:
    model, tokenizer = pair(name)
    engine = contrastive_engine(name, contrast, plausible)
    engine.complete(batch(SHORT))  # its cached prefix must be replaced
    result = completed_tokens(engine, batch())
    assert result == [decode_by_formula(model, prompt(tokenizer, LONG, item), contrast, plausible) for item in ITEMS]
    assert result != completed_tokens(plain_engine(name), batch())


def test_a_token_that_is_implausible_for_the_expert_is_never_chosen() -> None:
    greedy = completed_tokens(plain_engine("llama-2-7b"), batch())
    assert (
        completed_tokens(contrastive_engine("llama-2-7b", 5.0, 1.0), batch()) == greedy
    )  # only the most probable token is plausible
    assert completed_tokens(contrastive_engine("llama-2-7b", 5.0, 0.1), batch()) != completed_tokens(
        contrastive_engine("llama-2-7b", 5.0, 1e-9), batch()
    )


@pytest.mark.parametrize("closed", [(True,) * 4, (True, False, False, True)])
def test_closed_rows_are_decoded_greedily_by_the_expert(closed: tuple[bool, ...]) -> None:
    greedy, free = (
        completed_tokens(plain_engine("llama-2-7b"), batch()),
        completed_tokens(contrastive_engine("llama-2-7b", 2.0, 1e-6), batch()),
    )
    assert all(one != other for one, other in zip(greedy, free, strict=True))
    result = completed_tokens(contrastive_engine("llama-2-7b", 2.0, 1e-6), batch(closed=closed))
    assert result == [one if is_closed else other for is_closed, one, other in zip(closed, greedy, free, strict=True)]


def test_a_row_that_ends_early_is_removed_from_expert_and_amateur() -> None:
    engine = contrastive_engine("llama-2-7b", 2.0, 1e-6)
    closed = (False, False, True, False)
    free = completed_tokens(engine, batch(closed=closed))
    engine.end_ids = {free[0][2], free[2][5]}
    expected = [row[: next((n for n, token in enumerate(row) if token in engine.end_ids), NUM_TOKENS)] for row in free]
    assert len({len(row) for row in expected}) >= 3
    completions = engine.complete(batch(closed=closed))
    assert [tokens(completion) for completion in completions] == expected
    assert [completion.finished for completion in completions] == [len(row) < NUM_TOKENS for row in expected]


def test_decoding_leaves_base_and_adapter_unchanged() -> None:
    model, tokenizer = pair("llama-2-7b")
    before = {name: part.clone() for name, part in model.state_dict().items()}
    ids = prompt(tokenizer, LONG, ITEMS[0])
    expert = next_logprobs(model, ids)
    with model.disable_adapter():
        amateur = next_logprobs(model, ids)
    assert not torch.equal(expert, amateur)
    contrastive_engine("llama-2-7b", 0.5, 0.1).complete(batch())
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(part, before[name]) for name, part in model.state_dict().items())
    assert torch.equal(next_logprobs(model, ids), expert)  # the adapter is enabled again
    with model.disable_adapter():
        assert torch.equal(next_logprobs(model, ids), amateur)


def test_the_same_batch_gives_the_same_completions() -> None:
    engine, prompts = contrastive_engine("gemma-3-270m", 0.5, 0.1), batch()
    first = engine.complete(prompts)
    torch.manual_seed(random.randrange(100))
    engine.complete(batch(SHORT))
    assert engine.complete(prompts) == first
