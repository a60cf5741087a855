"""Completion with transformers: the shared prefix is computed once, and finished rows leave the batch.

`generate` computes the prefix in every row, and continues finished rows until the last one ends. Here the keys and
values of the prefix are computed for one row and repeated, and a finished row is taken out of the cache.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from selfspec.engines.kv_cache import copy_rows, empty_cache
from selfspec.engines.protocol import MAX_OPTION_ROWS, Completion, PromptBatch, Sampling
from selfspec.errors import UserError
from selfspec.models.load import NON_FINITE_ADVICE
from selfspec.prompts.chat import bos_ids, chat_template_of

TOP_K_FIRST = (
    4096  # most probable tokens, which are sorted first; the whole vocabulary only if they have too little mass
)
STOP_WINDOW_TOKENS = 32  # tokens that are decoded to look for a stop text


@dataclass
class _DecodingState:
    """Rows that are being decoded. `mask` is 1 for every token that is attended to, cached or current."""

    cache: Cache
    mask: Tensor  # [rows, tokens]
    logits: Tensor  # [rows, vocabulary] of the next token

    def keep(self, rows: list[int]) -> None:
        """Drop all rows but these."""
        index = torch.tensor(rows, device=self.mask.device)
        self.cache.batch_select_indices(index)
        self.mask, self.logits = self.mask[index], self.logits[index]


class TransformersEngine:
    """Completes batches with a causal language model loaded in this process."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.pad = tokenizer.pad_token_id or 0
        self.device = model.get_input_embeddings().weight.device
        self.chat_template, self.bos_ids = chat_template_of(tokenizer), bos_ids(tokenizer)
        ends = model.generation_config.eos_token_id if model.generation_config is not None else None
        self.end_ids = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
        # Architectures with ALiBi (MPT) have no position ids.
        self.takes_positions = "position_ids" in inspect.signature(_unwrap_peft(model).forward).parameters
        self._prefix: tuple[str, list[int], Cache] | None = None

    def count(self, text: str) -> int:
        """Number of tokens of a prompt, chat template included."""
        return len(self._encode(self.chat_template.item(self.chat_template.prefix(text))))

    @torch.inference_mode()
    def complete(self, batch: PromptBatch) -> list[Completion]:
        """One completion for each item, in order."""
        state = self._read(batch)
        logprobs = self._option_logprobs(state, batch.options) if any(batch.options) else [()] * len(batch.items)
        rows, ended = self._decode(state, batch)
        completions = []
        for ids, finished, scores in zip(rows, ended, logprobs, strict=True):
            text = _cut_at_stop(self.tokenizer.decode(ids, skip_special_tokens=True), batch.stop)
            completions.append(Completion(text, len(ids), finished, scores))
        return completions

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def _forward(self, ids: Tensor, state: _DecodingState, last_only: bool = True) -> Tensor:
        """Run `ids` [rows, n] after what is cached; the mask already includes them.

        Returns:
            Logits [rows, vocabulary] of the last position, or [rows, n, vocabulary].
        """
        extra = {}
        if self.takes_positions:
            extra["position_ids"] = (state.mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        kept: Tensor | int = 0
        if last_only and ids.shape[1] > 1:
            # A boolean mask gives contiguous [rows, hidden]. A slice of [rows, 1, hidden] is not contiguous, and the
            # output head then copies its weight once a row.
            kept = torch.zeros_like(ids, dtype=torch.bool)
            kept[:, -1] = True
        output = self.model(
            input_ids=ids,
            attention_mask=state.mask,
            past_key_values=state.cache,
            use_cache=True,
            logits_to_keep=kept,
            **extra,
        )
        logits: Tensor = output.logits
        return logits.reshape(len(ids), -1) if last_only else logits

    def _read(self, batch: PromptBatch) -> Any:
        """The state after the last prompt token of every item.

        All padding is on the left, outside of sliding windows and ALiBi distances: the row of a shorter item is filled
        with the last tokens of the prefix (computed again, at the cost of padding), and its cached part begins with as
        many empty places.
        """
        prefix, cached = self._prefix_cache(self.chat_template.prefix(batch.prefix, batch.continues_response))
        items = [self._encode(self.chat_template.item(item, batch.continues_response)) for item in batch.items]
        longest = max(map(len, items))
        gaps = [longest - len(item) for item in items]
        if max(gaps) > len(prefix):  # no token of the prefix would remain cached
            rows, num_cached = [prefix + item for item in items], 0
            longest = max(map(len, rows))
            gaps = [longest - len(row) for row in rows]
            rows = [[self.pad] * gap + row for gap, row in zip(gaps, rows, strict=True)]
            caches = empty_cache(longest + batch.sampling.max_new_tokens)
        else:
            num_cached = len(prefix)
            rows = [prefix[num_cached - gap :] + item for gap, item in zip(gaps, items, strict=True)]
            caches = copy_rows(cached, [0] * len(gaps), gaps, longest + batch.sampling.max_new_tokens)
        mask = torch.ones(len(items), num_cached + longest, dtype=torch.long, device=self.device)
        for row, gap in enumerate(gaps):
            mask[row, :gap] = 0
        state = _DecodingState(caches, mask, torch.empty(0))
        state.logits = self._forward(torch.tensor(rows, device=self.device), state)
        return state

    def _prefix_cache(self, prefix: str) -> tuple[list[int], Cache]:
        """Tokens of the prefix, and their keys and values in one row; the last prefix is kept."""
        if self._prefix is None or self._prefix[0] != prefix:
            ids = self.bos_ids + self._encode(prefix)
            state = _DecodingState(empty_cache(len(ids)), torch.ones(1, len(ids), dtype=torch.long), torch.empty(0))
            state.mask = state.mask.to(self.device)
            self._forward(torch.tensor([ids], device=self.device), state)
            self._prefix = (prefix, ids, state.cache)
        return self._prefix[1], self._prefix[2]

    def _option_logprobs(self, state: _DecodingState, options: tuple[tuple[str, ...], ...]) -> list[tuple[float, ...]]:
        """log p(option | prompt) of each item's options; the prompt's own logits already score their first tokens."""
        first = state.logits.float().log_softmax(-1)
        pairs = [(row, self._encode(text)) for row, texts in enumerate(options) for text in texts]
        scores = [float(first[row, ids[0]]) for row, ids in pairs]
        longer = [number for number, (_, ids) in enumerate(pairs) if len(ids) > 1]
        for begin in range(0, len(longer), MAX_OPTION_ROWS):
            numbers = longer[begin : begin + MAX_OPTION_ROWS]
            for number, rest in zip(numbers, self._rest_logprobs(state, [pairs[n] for n in numbers]), strict=True):
                scores[number] += rest
        _check_finite(not any(map(math.isnan, scores)))
        remaining = iter(scores)
        return [tuple(next(remaining) for _ in texts) for texts in options]

    def _rest_logprobs(self, state: _DecodingState, pairs: list[tuple[int, list[int]]]) -> list[float]:
        """Sum of the log-probabilities of each option's tokens after its first."""
        index = torch.tensor([row for row, _ in pairs], device=self.device)
        longest = max(len(ids) for _, ids in pairs) - 1
        ids = torch.tensor([ids[:-1] + [0] * (longest + 1 - len(ids)) for _, ids in pairs], device=self.device)
        ones = torch.ones_like(ids)
        copies = copy_rows(state.cache, [row for row, _ in pairs], [0] * len(pairs), longest)
        fork = _DecodingState(copies, torch.cat([state.mask[index], ones], 1), torch.empty(0))
        logprobs = self._forward(ids, fork, last_only=False).float().log_softmax(-1)
        return [
            sum(float(logprobs[n, place, token]) for place, token in enumerate(option[1:]))
            for n, (_, option) in enumerate(pairs)
        ]

    def _decode(self, state: Any, batch: PromptBatch) -> tuple[list[list[int]], list[bool]]:
        """Decode until every row has ended or reached the limit; (token ids, ended) of each row."""
        sampling = batch.sampling
        count = state.logits.shape[0]
        rows: list[list[int]] = [[] for _ in range(count)]
        ended = [False] * count
        active = list(range(count))
        uniforms = _row_uniforms(batch)
        for step in range(sampling.max_new_tokens):
            tokens = sample_next_token(state.logits, sampling, uniforms[active, step].to(self.device)).tolist()
            for row, token in zip(active, tokens, strict=True):
                ended[row] = token in self.end_ids
                if not ended[row]:
                    rows[row].append(token)
                    tail = self.tokenizer.decode(rows[row][-STOP_WINDOW_TOKENS:])
                    ended[row] = any(text in tail for text in batch.stop)
            continuing = [place for place, row in enumerate(active) if not ended[row]]
            if not continuing or step + 1 == sampling.max_new_tokens:
                break
            if len(continuing) < len(active):
                state.keep(continuing)
                active, tokens = [active[place] for place in continuing], [tokens[place] for place in continuing]
            self._advance(state, tokens)
        return rows, ended

    def _advance(self, state: Any, tokens: list[int]) -> None:
        """Append one token to every row and compute the logits of the next."""
        state.mask = torch.cat([state.mask, state.mask.new_ones(len(tokens), 1)], dim=1)
        state.logits = self._forward(torch.tensor(tokens, device=self.device)[:, None], state)


def _row_uniforms(batch: PromptBatch) -> Tensor:
    """[rows, max_new_tokens], uniform in [0, 1): each row's numbers come from its own stream."""
    count, steps = len(batch.items), batch.sampling.max_new_tokens
    if batch.sampling.temperature == 0:
        return torch.zeros(count, steps)
    return torch.stack([torch.rand(steps, generator=torch.Generator().manual_seed(seed)) for seed in batch.seeds])


def sample_next_token(logits: Tensor, sampling: Sampling, numbers: Tensor) -> Tensor:
    """One token a row: the most probable, or by inverting the distribution of the nucleus at `numbers`.

    Args:
        logits: [rows, vocabulary].
        sampling: Temperature and top-p; the nucleus is the smallest set of tokens with a mass of at least top-p.
        numbers: [rows], uniform in [0, 1).

    Returns:
        Token ids [rows].

    Raises:
        UserError: Logits are NaN or infinite.
    """
    if sampling.temperature == 0:
        tokens = logits.float().argmax(-1)  # argmax of bfloat16 takes four times as long on CPUs
        _check_finite(bool(logits.gather(-1, tokens[:, None]).isfinite().all()))
        return tokens
    probabilities = (logits.float() / sampling.temperature).softmax(-1)
    _check_finite(bool(probabilities[:, 0].isfinite().all()))
    if sampling.top_p >= 1:  # the nucleus is the whole vocabulary, which needs no sorting
        return _invert_distribution(probabilities, numbers)
    top, tokens = probabilities.topk(min(TOP_K_FIRST, logits.shape[-1]), dim=-1)
    chosen = _sample_from_nucleus(top, tokens, sampling.top_p, numbers)
    flat = top.sum(-1) < sampling.top_p  # rows with a larger nucleus
    if bool(flat.any()):
        ordered, order = probabilities[flat].sort(dim=-1, descending=True)
        chosen[flat] = _sample_from_nucleus(ordered, order, sampling.top_p, numbers[flat])
    return chosen


def _check_finite(is_finite: bool) -> None:
    """Raise an error if logits are NaN or infinite.

    One value of each row is enough to see it: `argmax` takes a NaN as the largest, and `softmax` spreads it.
    """
    if not is_finite:
        raise UserError(f"The model's logits are not finite (NaN or infinity): {NON_FINITE_ADVICE}.")


def _sample_from_nucleus(probabilities: Tensor, tokens: Tensor, top_p: float, numbers: Tensor) -> Tensor:
    """Sample from the nucleus of descending `probabilities` [rows, n] by inverting its distribution function.

    The function runs over token ids, not over ranks: two tokens that are nearly as likely may change ranks by rounding,
    and that must not change what another batch size samples.
    """
    before = probabilities.cumsum(-1) - probabilities
    ids, order = tokens.sort(-1)
    nucleus = probabilities.masked_fill(before >= top_p, 0.0).gather(-1, order)
    return ids.gather(-1, _invert_distribution(nucleus, numbers)[:, None])[:, 0]


def _invert_distribution(weights: Tensor, numbers: Tensor) -> Tensor:
    """The index [rows] at which the running sum of `weights` [rows, n] exceeds `numbers` [rows] times their total."""
    sums = weights.cumsum(-1)
    total = sums[:, -1:]
    targets = torch.minimum(numbers[:, None] * total, total.nextafter(torch.zeros_like(total)))  # below the total
    return torch.searchsorted(sums, targets, right=True)[:, 0]


def _cut_at_stop(text: str, stop: tuple[str, ...]) -> str:
    """The text before the first stop text."""
    return text[: min((place for place in map(text.find, stop) if place >= 0), default=len(text))]


def _unwrap_peft(model: Any) -> Any:
    """The model inside PEFT's wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
