"""Completion with transformers: the shared prefix is computed once, rows that end leave the batch.

`generate` pays for the prefix in every row and for ended rows until the last one ends. Here the prefix's keys and
values are computed for one row and repeated, and a row that ends is taken out of the cache.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from selfspec.engines.kv_cache import copy_rows, empty_cache
from selfspec.engines.protocol import Completion, PromptBatch, Sampling
from selfspec.prompts.chat import bos_ids, chat_template_of

TOP_K_FIRST = (
    4096  # most probable tokens looked at first; the whole vocabulary is sorted only when they hold too little
)


STOP_WINDOW = 32  # tokens decoded to look for the stop text


@dataclass
class _DecodingState:
    """Rows in flight. `mask` is 1 where a token, cached or just being read, counts."""

    cache: Cache
    mask: Tensor  # [rows, tokens]
    logits: Tensor  # [rows, vocabulary]: of the next token

    def keep(self, rows: list[int]) -> None:
        """Only `rows` go on."""
        index = torch.tensor(rows, device=self.mask.device)
        self.cache.batch_select_indices(index)
        self.mask, self.logits = self.mask[index], self.logits[index]


class TransformersEngine:
    """Completes batches with a causal language model held in this process."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.pad = tokenizer.pad_token_id or 0
        self.device = model.get_input_embeddings().weight.device
        self.turns, self.start = chat_template_of(tokenizer), bos_ids(tokenizer)
        ends = model.generation_config.eos_token_id if model.generation_config is not None else None
        self.ends = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
        # Most architectures count positions from the ids given; MPT and others with ALiBi know distances alone.
        self.takes_positions = "position_ids" in inspect.signature(_unwrap_peft(model).forward).parameters
        self._prefix: tuple[str, list[int], Cache] | None = None

    def count(self, text: str) -> int:
        """Tokens of a text, with the turns around it."""
        return len(self._encode(self.turns.item(self.turns.prefix(text))))

    @torch.inference_mode()
    def complete(self, batch: PromptBatch) -> list[Completion]:
        """One completion for each item, in order."""
        state = self._read(batch)
        logprobs = self._option_logprobs(state, batch.options) if any(batch.options) else [()] * len(batch.items)
        rows, ended = self._decode(state, batch.sampling, batch.stop)
        completions = []
        for ids, finished, scores in zip(rows, ended, logprobs, strict=True):
            text = _cut_at_stop(self.tokenizer.decode(ids, skip_special_tokens=True), batch.stop)
            completions.append(Completion(text, len(ids), finished, scores))
        return completions

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def _forward(self, ids: Tensor, state: _DecodingState, last_only: bool = True) -> Tensor:
        """Run `ids` [rows, n] behind what is cached; the mask already counts them.

        Returns:
            Logits [rows, vocabulary] of the last position, or [rows, n, vocabulary].
        """
        extra = {}
        if self.takes_positions:
            extra["position_ids"] = (state.mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        wanted: Tensor | int = 0
        if last_only and ids.shape[1] > 1:
            # A boolean mask gives contiguous [rows, hidden]; a slice of [rows, 1, hidden] is not, and the head then
            # copies its weight once a row.
            wanted = torch.zeros_like(ids, dtype=torch.bool)
            wanted[:, -1] = True
        output = self.model(
            input_ids=ids,
            attention_mask=state.mask,
            past_key_values=state.cache,
            use_cache=True,
            logits_to_keep=wanted,
            **extra,
        )
        logits: Tensor = output.logits
        return logits.reshape(len(ids), -1) if last_only else logits

    def _read(self, batch: PromptBatch) -> Any:
        """The state after every item's last prompt token.

        All padding stands at the far left, where sliding windows and ALiBi don't feel it: a shorter item's row is
        filled up with the prefix's last tokens (computed again, which costs what padding would), and its cached part
        begins with as many empty places.
        """
        prefix, cached = self._prefix_cache(self.turns.prefix(batch.prefix, batch.begun))
        items = [self._encode(self.turns.item(item, batch.begun)) for item in batch.items]
        longest = max(map(len, items))
        gaps = [longest - len(item) for item in items]
        if max(gaps) > len(prefix):  # nothing of the prefix would stay cached
            rows, kept = [prefix + item for item in items], 0
            longest = max(map(len, rows))
            gaps = [longest - len(row) for row in rows]
            rows = [[self.pad] * gap + row for gap, row in zip(gaps, rows, strict=True)]
            caches = empty_cache(longest + batch.sampling.max_new_tokens)
        else:
            kept = len(prefix)
            rows = [prefix[kept - gap :] + item for gap, item in zip(gaps, items, strict=True)]
            caches = copy_rows(cached, [0] * len(gaps), gaps, longest + batch.sampling.max_new_tokens)
        mask = torch.ones(len(items), kept + longest, dtype=torch.long, device=self.device)
        for row, gap in enumerate(gaps):
            mask[row, :gap] = 0
        state = _DecodingState(caches, mask, torch.empty(0))
        state.logits = self._forward(torch.tensor(rows, device=self.device), state)
        return state

    def _prefix_cache(self, prefix: str) -> tuple[list[int], Cache]:
        """Tokens of the prefix, and their keys and values in one row; the last one is kept."""
        if self._prefix is None or self._prefix[0] != prefix:
            ids = self.start + self._encode(prefix)
            state = _DecodingState(empty_cache(len(ids)), torch.ones(1, len(ids), dtype=torch.long), torch.empty(0))
            state.mask = state.mask.to(self.device)
            self._forward(torch.tensor([ids], device=self.device), state)
            self._prefix = (prefix, ids, state.cache)
        return self._prefix[1], self._prefix[2]

    def _option_logprobs(self, state: _DecodingState, options: tuple[tuple[str, ...], ...]) -> list[tuple[float, ...]]:
        """log p(option | prompt) for each item's options: their first tokens are already answered by the prompt."""
        first = state.logits.float().log_softmax(-1)
        pairs = [(row, self._encode(text)) for row, texts in enumerate(options) for text in texts]
        scores = [float(first[row, ids[0]]) for row, ids in pairs]
        longer = [number for number, (_, ids) in enumerate(pairs) if len(ids) > 1]
        for begin in range(0, len(longer), 32):
            some = longer[begin : begin + 32]
            for number, rest in zip(some, self._rest_logprobs(state, [pairs[n] for n in some]), strict=True):
                scores[number] += rest
        remaining = iter(scores)
        return [tuple(next(remaining) for _ in texts) for texts in options]

    def _rest_logprobs(self, state: _DecodingState, pairs: list[tuple[int, list[int]]]) -> list[float]:
        """Sum of log-probabilities of each option's tokens behind its first."""
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

    def _decode(self, state: Any, sampling: Sampling, stop: tuple[str, ...]) -> tuple[list[list[int]], list[bool]]:
        """Token by token until every row has ended or reached the limit; (token ids, ended) for each row."""
        count = state.logits.shape[0]
        rows: list[list[int]] = [[] for _ in range(count)]
        ended = [False] * count
        active = list(range(count))
        # One number a row and step, drawn before: a row's tokens don't depend on which others are still there.
        generator = torch.Generator().manual_seed(sampling.seed)
        numbers = torch.rand(count, sampling.max_new_tokens, generator=generator)
        for step in range(sampling.max_new_tokens):
            tokens = sample_next_token(state.logits, sampling, numbers[active, step].to(self.device)).tolist()
            for row, token in zip(active, tokens, strict=True):
                ended[row] = token in self.ends
                if not ended[row]:
                    rows[row].append(token)
                    tail = self.tokenizer.decode(rows[row][-STOP_WINDOW:])
                    ended[row] = any(text in tail for text in stop)
            going = [place for place, row in enumerate(active) if not ended[row]]
            if not going or step + 1 == sampling.max_new_tokens:
                break
            if len(going) < len(active):
                state.keep(going)
                active, tokens = [active[place] for place in going], [tokens[place] for place in going]
            self._advance(state, tokens)
        return rows, ended

    def _advance(self, state: Any, tokens: list[int]) -> None:
        """Every row reads its token."""
        state.mask = torch.cat([state.mask, state.mask.new_ones(len(tokens), 1)], dim=1)
        state.logits = self._forward(torch.tensor(tokens, device=self.device)[:, None], state)


def sample_next_token(logits: Tensor, sampling: Sampling, numbers: Tensor) -> Tensor:
    """One token a row: the likeliest, or by inverting the nucleus' distribution at `numbers`.

    Args:
        logits: [rows, vocabulary].
        sampling: Temperature and top-p; the nucleus is the fewest tokens that together have at least top-p.
        numbers: [rows], uniform in [0, 1).

    Returns:
        Token ids [rows].
    """
    if sampling.temperature == 0:
        return logits.float().argmax(-1)  # of bfloat16 it takes four times as long, and comes to the same
    probabilities = (logits.float() / sampling.temperature).softmax(-1)
    top, tokens = probabilities.topk(min(TOP_K_FIRST, logits.shape[-1]), dim=-1)
    chosen = _sample_from_nucleus(top, tokens, sampling.top_p, numbers)
    flat = top.sum(-1) < sampling.top_p  # rows whose nucleus is larger: their whole vocabulary is sorted
    if bool(flat.any()):
        everything, order = probabilities[flat].sort(dim=-1, descending=True)
        chosen[flat] = _sample_from_nucleus(everything, order, sampling.top_p, numbers[flat])
    return chosen


def _sample_from_nucleus(probabilities: Tensor, tokens: Tensor, top_p: float, numbers: Tensor) -> Tensor:
    """Sample from the nucleus of descending `probabilities` [rows, n] by inverting its distribution."""
    before = probabilities.cumsum(-1) - probabilities
    sums = probabilities.masked_fill(before >= top_p, 0.0).cumsum(-1)
    places = torch.searchsorted(sums, numbers[:, None] * sums[:, -1:], right=True)
    return tokens.gather(-1, places.clamp(max=tokens.shape[-1] - 1))[:, 0]


def _cut_at_stop(text: str, stop: tuple[str, ...]) -> str:
    """The text before the first of the stop texts."""
    return text[: min((place for place in map(text.find, stop) if place >= 0), default=len(text))]


def _unwrap_peft(model: Any) -> Any:
    """The model below PEFT's wrapping."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
