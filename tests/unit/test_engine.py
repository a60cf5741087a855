"""The transformers engine: each row is what its prompt alone gives; sampling follows the nucleus."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

import numpy as np
import pytest
import torch

from selfspec.data.records import Seed
from selfspec.engines import transformers
from selfspec.engines.contrastive import ContrastiveEngine
from selfspec.engines.protocol import Completion, PromptBatch, Sampling
from selfspec.engines.transformers import TransformersEngine, sample_next_token
from selfspec.errors import UserError
from selfspec.tuning.batches import encode_rows
from toys import MODEL_NAMES, prompts, scale_linear_weights, toy, with_bos_and_eos, with_random_adapter

LONG = "You are an expert. " + "The trial compared two drugs in adults with asthma; the first lowered the risk. " * 4
SHORT = "Answer. "
ITEMS = (
    "Does aspirin help?",
    "Which gene do the authors name in the passage, and what does the receptor that it encodes bind in the cells? " * 2,
    "x",
    "Is the trial positive, negative or neutral?",
)
OPTIONS = (("yes", "no"), (), ("the receptor of the first drug", "p53", "asthma"), ("positive", "negative outcome"))
NEVER = ("\0never",)
SEEDS = (5, 6, 7, 8)  # of the rows' random streams


def prepared(name: str) -> tuple[Any, Any]:
    """A toy whose attention matters; Gemma's sliding window is shorter than the long prefix."""
    model, tokenizer = toy(name, **({"sliding_window": 16} if name.startswith("gemma") else {}))
    with torch.no_grad():  # the tokens of a random model depend on its vocabulary; here no row ends early
        model.get_output_embeddings().weight[tokenizer.eos_token_id].zero_()
    return scale_linear_weights(model), tokenizer


def prompt(tokenizer: Any, prefix: str, item: str) -> list[int]:
    """The tokens of a prompt: the begin token, if there is one, and the two parts, tokenised apart."""
    start = [token for token in tokenizer("").input_ids if token == tokenizer.bos_token_id]
    return start + encoded(tokenizer, prefix) + encoded(tokenizer, item)


def encoded(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False).input_ids)


@torch.no_grad()
def generated(model: Any, ids: list[int], count: int) -> list[int]:
    """What transformers' own greedy decoding adds to one row."""
    row = torch.tensor([ids])
    output = model.generate(
        input_ids=row, attention_mask=torch.ones_like(row), max_new_tokens=count, do_sample=False, pad_token_id=0
    )
    return list(output[0, len(ids) :].tolist())


@torch.no_grad()
def logprob(model: Any, ids: list[int], option: list[int]) -> float:
    """log p(option | ids), from the logits of the whole sequence."""
    logits = model(input_ids=torch.tensor([ids + option]), use_cache=False).logits[0].float().log_softmax(-1)
    return sum(float(logits[len(ids) - 1 + place, token]) for place, token in enumerate(option))


def check_against_plain_passes(model: Any, tokenizer: Any, prefix: str, completions: list[Completion]) -> None:
    for item, options, completion in zip(ITEMS, OPTIONS, completions, strict=True):
        ids = prompt(tokenizer, prefix, item)
        expected = generated(model, ids, 8)
        assert completion.text == tokenizer.decode(expected, skip_special_tokens=True)
        assert (completion.num_tokens, completion.finished) == (8, False)
        scores = [logprob(model, ids, encoded(tokenizer, option)) for option in options]
        assert completion.option_logprobs == pytest.approx(scores, abs=1e-4)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_rows_and_options_equal_plain_forward_passes_of_each_prompt(name: str) -> None:
    model, tokenizer = prepared(name)
    engine = TransformersEngine(model, tokenizer)
    lengths = [engine.count(item) for item in ITEMS]
    assert engine.count(SHORT) < max(lengths) - min(lengths) < engine.count(LONG)
    assert engine.count(LONG) > 16
    for prefix in (LONG, SHORT, LONG):  # the last time, the first prefix's cache was replaced in between
        completions = engine.complete(PromptBatch(prefix, ITEMS, Sampling(8), NEVER, options=OPTIONS))
        check_against_plain_passes(model, tokenizer, prefix, completions)


@pytest.mark.parametrize("name", ["llama-2-7b", "mpt-30b"])
def test_rows_and_options_equal_plain_forward_passes_with_an_adapter(name: str) -> None:
    model, tokenizer = prepared(name)
    plain = TransformersEngine(model, tokenizer).complete(PromptBatch(LONG, ITEMS, Sampling(8), NEVER, options=OPTIONS))
    model = with_random_adapter(model).eval()
    completions = TransformersEngine(model, tokenizer).complete(
        PromptBatch(LONG, ITEMS, Sampling(8), NEVER, options=OPTIONS)
    )
    assert completions != plain
    check_against_plain_passes(model, tokenizer, LONG, completions)


def test_the_begin_token_precedes_the_prefix_once() -> None:
    model, tokenizer = prepared("llama-2-7b")
    plain = TransformersEngine(model, tokenizer).complete(PromptBatch(LONG, ITEMS, Sampling(8), NEVER, options=OPTIONS))
    engine = TransformersEngine(model, with_bos_and_eos(tokenizer))
    assert prompt(tokenizer, "a", "b")[0] == tokenizer.bos_token_id
    assert engine.count("a") == 1
    completions = engine.complete(PromptBatch(LONG, ITEMS, Sampling(8), NEVER, options=OPTIONS))
    assert completions != plain
    check_against_plain_passes(model, tokenizer, LONG, completions)


def test_a_batch_does_not_change_the_cached_prefix() -> None:
    model, tokenizer = prepared("gemma-3-270m")
    engine = TransformersEngine(model, tokenizer)
    engine.complete(PromptBatch(LONG, ITEMS[:1], Sampling(8), NEVER, options=OPTIONS[:1]))
    batch = PromptBatch(LONG, ITEMS, Sampling(8), NEVER, options=OPTIONS)
    assert engine.complete(batch) == engine.complete(batch) == TransformersEngine(model, tokenizer).complete(batch)


class Spelled:
    """A tokenizer whose decoded text is the token ids themselves."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self.tokenizer(*arguments, **named)

    def decode(self, ids: list[int], **_: Any) -> str:
        return "".join(f"<{token}>" for token in ids)


def spelled(ids: Any) -> str:
    return "".join(f"<{token}>" for token in ids)


def tokens(completion: Completion) -> list[int]:
    return [int(token) for token in completion.text.replace("<", " ").replace(">", " ").split()]


@pytest.mark.parametrize("name", ["llama-2-7b", "gemma-3-270m", "mpt-30b"])
def test_sampled_tokens_of_a_row_do_not_depend_on_rows_that_end_early(name: str) -> None:
    model, tokenizer = prepared(name)
    engine = TransformersEngine(model, Spelled(tokenizer))
    batch = PromptBatch(LONG, ITEMS, Sampling(24, temperature=1.0, top_p=0.95), NEVER, SEEDS)
    engine.end_ids = set()
    free = [tokens(completion) for completion in engine.complete(batch)]
    assert [len(row) for row in free] == [24] * len(ITEMS)
    engine.end_ids = {free[0][2], free[1][9], free[3][20]}
    expected = [list(takewhile(lambda token: token not in engine.end_ids, row)) for row in free]
    assert len({len(row) for row in expected}) >= 3  # rows end at different steps
    for row, completion in zip(expected, engine.complete(batch), strict=True):
        assert tokens(completion) == row
        assert (completion.num_tokens, completion.finished) == (len(row), len(row) < 24)


@pytest.mark.parametrize("name", ["llama-2-7b", "gemma-3-270m", "mpt-30b"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_batch_sizes_change_neither_texts_nor_option_logprobs(name: str, temperature: float) -> None:
    model, tokenizer = prepared(name)
    engine = TransformersEngine(model, tokenizer)
    sampling = Sampling(16, temperature, 0.95)

    def complete(size: int) -> list[Completion]:
        parts = [slice(start, start + size) for start in range(0, 4, size)]
        batches = (PromptBatch(LONG, ITEMS[p], sampling, NEVER, SEEDS[p], OPTIONS[p]) for p in parts)
        return [completion for batch in batches for completion in engine.complete(batch)]

    together = complete(4)
    for size in (1, 2, 3):
        for one, other in zip(complete(size), together, strict=True):
            assert (one.text, one.num_tokens, one.finished) == (other.text, other.num_tokens, other.finished)
            assert one.option_logprobs == pytest.approx(other.option_logprobs, abs=1e-5)


def test_a_row_samples_from_its_own_stream() -> None:
    model, tokenizer = prepared("llama-2-7b")

    def sample(*seeds: int) -> list[Completion]:
        batch = PromptBatch(LONG, ITEMS[: len(seeds)], Sampling(12, temperature=1.0, top_p=0.95), NEVER, seeds)
        return TransformersEngine(model, tokenizer).complete(batch)

    torch.manual_seed(1)
    first = sample(5, 6, 7, 8)
    torch.manual_seed(2)
    assert sample(5, 6, 7, 8) == first
    assert sample(5, 6) == first[:2]
    assert sample(5, 9, 7, 8)[1].text != first[1].text
    assert [sample(5, 9, 7, 8)[row] for row in (0, 2, 3)] == [first[row] for row in (0, 2, 3)]


def test_a_stop_text_ends_a_completion_and_is_left_out() -> None:
    model, tokenizer = prepared("llama-2-7b")
    engine = TransformersEngine(model, Spelled(tokenizer))
    free = [tokens(completion) for completion in engine.complete(PromptBatch(LONG, ITEMS, Sampling(12), NEVER))]
    inside = f"{free[0][3]}><{free[0][4]}>"  # begins inside of a token and ends with the next one
    other = f"<{free[1][6]}>"
    stopped = engine.complete(PromptBatch(LONG, ITEMS, Sampling(12), (*NEVER, inside, other)))
    assert stopped[0] == Completion(spelled(free[0][:3]) + "<", 5, True)
    assert stopped[1] == Completion(spelled(free[1][:6]), 7, True)
    for row, completion in zip(free[2:], stopped[2:], strict=True):
        assert inside not in spelled(row) and other not in spelled(row)
        assert completion == Completion(spelled(row), 12, False)
    last = f"<{free[0][10]}><{free[0][11]}>"  # complete with the very last token allowed
    assert engine.complete(PromptBatch(LONG, ITEMS, Sampling(12), (last,)))[0] == Completion(
        spelled(free[0][:10]), 12, True
    )
    both = (spelled(free[0][2:6]), spelled(free[0][4:6]))  # end together: cut where the first one begins
    for stop in (both, both[::-1]):
        assert engine.complete(PromptBatch(LONG, ITEMS, Sampling(12), stop))[0] == Completion(
            spelled(free[0][:2]), 6, True
        )


def test_an_end_token_ends_a_completion_and_is_left_out() -> None:
    model, tokenizer = prepared("llama-2-7b")
    spelling = Spelled(tokenizer)
    free = [
        tokens(c) for c in TransformersEngine(model, spelling).complete(PromptBatch(LONG, ITEMS, Sampling(12), NEVER))
    ]
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, free[0][4], free[1][0]]
    ended = TransformersEngine(model, spelling).complete(PromptBatch(LONG, ITEMS, Sampling(12), NEVER))
    assert ended[0] == Completion(spelled(free[0][:4]), 4, True)
    assert ended[1] == Completion("", 0, True)
    assert ended[2] == Completion(spelled(free[2]), 12, False)
    model.generation_config.eos_token_id = None
    with torch.no_grad():  # the tokenizer's end token becomes likelier than the likeliest
        model.lm_head.weight[tokenizer.eos_token_id] = 2 * model.lm_head.weight[free[2][0]]
    assert (
        TransformersEngine(model, tokenizer).complete(PromptBatch(LONG, ITEMS, Sampling(12), NEVER))[2].num_tokens == 0
    )


def nucleus(logits: Any, temperature: float, top_p: float) -> Any:
    """The exact distribution: the fewest of the likeliest tokens that together have at least top-p, renormalised."""
    weights = np.exp((logits - logits.max()) / temperature)
    probabilities = weights / weights.sum()
    order = np.argsort(-probabilities)
    size = next(n for n in range(1, len(order) + 1) if probabilities[order[:n]].sum() >= top_p - 1e-12)
    kept = np.zeros_like(probabilities)
    kept[order[:size]] = probabilities[order[:size]]
    return kept / kept.sum()


@pytest.mark.parametrize("first_looked_at", [4, 4096])
@pytest.mark.parametrize("top_p", [0.3, 0.9, 1.0])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_sampling_follows_the_distribution_of_the_nucleus(
    monkeypatch: Any, first_looked_at: int, top_p: float, temperature: float
) -> None:
    monkeypatch.setattr(transformers, "TOP_K_FIRST", first_looked_at)
    count = 4000
    numbers = (torch.arange(count) + 0.5) / count  # evenly spread, so that frequencies are exact to 1 / count
    # Rows from flat to peaked: with TOP_K_FIRST at 4, one call has rows of either way.
    logits = np.random.default_rng(3).normal(size=(6, 13)) * np.array([[0.1], [0.5], [1.0], [2.0], [4.0], [8.0]])
    sampling = Sampling(1, temperature, top_p)
    rows = torch.tensor(logits, dtype=torch.float32).repeat_interleave(count, 0)
    chosen = sample_next_token(rows, sampling, numbers.repeat(len(logits))).reshape(len(logits), count)
    for row, picked in zip(logits, chosen, strict=True):
        frequencies = np.bincount(picked.numpy(), minlength=13) / count
        assert frequencies == pytest.approx(nucleus(row, temperature, top_p), abs=2 / count)
    if top_p == 0.9:
        sizes = [np.count_nonzero(nucleus(row, temperature, top_p)) for row in logits]
        assert min(sizes) <= 4 < max(sizes)


@pytest.mark.parametrize("top_p", [0.8, 1.0])
@pytest.mark.parametrize("first_looked_at", [4, 4096])
def test_extreme_uniform_numbers_stay_in_the_nucleus(monkeypatch: Any, first_looked_at: int, top_p: float) -> None:
    monkeypatch.setattr(transformers, "TOP_K_FIRST", first_looked_at)
    logits = np.random.default_rng(4).normal(size=(500, 13)) * 2
    rows = torch.tensor(logits, dtype=torch.float32)
    for number, place in ((0.0, 0), (1 - 2**-24, -1)):  # the smallest and the largest that torch.rand draws
        chosen = sample_next_token(rows, Sampling(1, 1.0, top_p), torch.full((500,), number))
        for row, token in zip(logits, chosen.tolist(), strict=True):
            assert token == nucleus(row, 1.0, top_p).nonzero()[0][place]


def test_rounding_that_swaps_ranks_does_not_change_what_is_sampled() -> None:
    rng = np.random.default_rng(6)
    logits = torch.tensor(rng.normal(size=(1, 2000)) * 1e-3, dtype=torch.float32)
    swapped = logits + torch.tensor(rng.normal(size=(1, 2000)) * 1e-6, dtype=torch.float32)
    assert not torch.equal(logits.argsort(), swapped.argsort())
    numbers = torch.rand(5000, generator=torch.Generator().manual_seed(0))
    one, other = (
        sample_next_token(each.expand(5000, -1), Sampling(1, 1.0, 1.0), numbers) for each in (logits, swapped)
    )
    assert (one != other).float().mean() < 0.01  # ranks alone would change most of them


def test_equally_probable_tokens_share_the_unit_interval_evenly() -> None:
    chosen = sample_next_token(torch.zeros(4, 2), Sampling(1, 1.0, 1.0), torch.tensor([0.0, 0.25, 0.5, 0.75]))
    assert chosen[0] == chosen[1] != chosen[2] == chosen[3]


def test_a_temperature_of_zero_takes_the_most_probable_token() -> None:
    logits = torch.tensor(np.random.default_rng(5).normal(size=(50, 13)))
    chosen = sample_next_token(
        logits, Sampling(1, 0.0, 0.1), torch.rand(50, generator=torch.Generator().manual_seed(0))
    )
    assert torch.equal(chosen, logits.argmax(-1))


@pytest.mark.parametrize("place", ["model.layers.1.mlp.down_proj.weight", "lm_head.weight"])
def test_one_damaged_weight_is_an_error_in_every_kind_of_completion(place: str) -> None:
    model, tokenizer = prepared("llama-2-7b")
    with torch.no_grad():
        model.get_parameter(place)[7, 3] = float("nan")
    engine = TransformersEngine(model, tokenizer)
    for sampling in (Sampling(2), Sampling(2, 1.0, 0.95), Sampling(2, 1.0)):
        with pytest.raises(UserError, match=r"not finite.*weights are damaged or too large for model\.dtype.*; "):
            engine.complete(PromptBatch(LONG, ITEMS, sampling, NEVER, SEEDS))
    with pytest.raises(UserError, match="not finite"):
        engine.complete(PromptBatch(LONG, ITEMS, Sampling(1), NEVER, options=OPTIONS))
    adapted = ContrastiveEngine(with_random_adapter(model).eval(), tokenizer, 0.5, 0.1)
    with pytest.raises(UserError, match="not finite"):
        adapted.complete(PromptBatch(LONG, ITEMS, Sampling(2), NEVER))


GEMMA_CHAT = (
    "{{ bos_token }}{% for turn in messages %}<turn>{{ turn.role }}\n{{ turn.content | trim }}</turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>model\n{% endif %}"
)


def test_a_chat_model_reads_its_rendered_template_in_generation_and_tuning() -> None:
    model, tokenizer = prepared("llama-2-7b")
    tokenizer.chat_template = GEMMA_CHAT
    seed = Seed("s", "t", "Say yes or no.", "Is it so?", "yes")
    text = prompts().prefix("an expert", ()) + prompts().task(seed)
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
    )
    (row,) = encode_rows([seed], "an expert", tokenizer, prompts())
    assert tokenizer.decode(row.prompt) == rendered  # its begin token once, though the tokenizer adds one as well
    engine = TransformersEngine(model, tokenizer)
    batch = PromptBatch(prompts().prefix("an expert", ()), (prompts().task(seed),), Sampling(6), NEVER)
    assert engine.complete(batch)[0].text == tokenizer.decode(generated(model, list(row.prompt), 6))
    assert engine.count(text) == len(row.prompt)


def test_an_item_that_continues_the_response_is_in_the_models_turn() -> None:
    model, tokenizer = prepared("llama-2-7b")
    tokenizer.chat_template = GEMMA_CHAT
    batch = PromptBatch(LONG, ("Task 2\nInstruction:",), Sampling(6), NEVER, continues_response=True)
    ids = encoded(tokenizer, f"{tokenizer.bos_token}<turn>user\n{LONG}</turn>\n<turn>model\n")
    ids += encoded(tokenizer, "Task 2\nInstruction:")
    assert TransformersEngine(model, tokenizer).complete(batch)[0].text == tokenizer.decode(generated(model, ids, 6))
