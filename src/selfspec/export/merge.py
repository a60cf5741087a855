"""A specialized model as plain weights: its adapter is added to its base, for QLoRA to the dequantised base that it was
tuned against, and what plain transformers reads from the files is compared with base and adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from selfspec.data.splits import round_robin
from selfspec.errors import UserError
from selfspec.models.load import default_device, load_network, load_tokenizer, model_files, with_adapter
from selfspec.models.weights import locate_weights
from selfspec.prompts.templates import PromptRenderer
from selfspec.reporting.finished_run import FinishedRun
from selfspec.runtime.progress import Progress
from selfspec.tuning.batches import EncodedExample, encode_rows

MAX_SHARD_SIZE = "5GB"  # a file, at the most


COMPARED_ROWS, COMPARED_TOKENS = 8, 16  # compared: seeds, and of each answer its first tokens


# Compared are, at each place, the tokens with at least this share of the likeliest one's probability: how far down the
# others lie is rounding in any case.
LIKELY_SHARE = 0.01


# Nats allowed: 1 in bfloat16, .125 in float16, .001 in float32. On gemma-3-270m (171 places) merging moved a likely
# token by up to .39 in bfloat16, which moves it by .35 in any case, and by .00002 in float32. An adapter that is added
# a fifth too strongly moves one by 1.7, the adapter as a whole by 13.
ALLOWED_ROUNDINGS, MIN_TOLERANCE = 128, 1e-3


@dataclass(frozen=True)
class MergeComparison:
    """How near the merged weights come to base and adapter, as the largest differences of log-probabilities (nats)."""

    dtype: str
    error: float  # of the merged model
    moved: float  # of the base: what the adapter does at all
    allowed: float
    tokens: int  # places at which they were compared


def merge_adapter(run: FinishedRun, output: Path, progress: Progress) -> MergeComparison:
    """Write weights, tokenizer and configs into `output`.

    Raises:
        UserError: what was written is not base and adapter, up to rounding.
    """
    model = run.config.model
    folder = None if model.toy else locate_weights(model, Path(run.config.paths.cache), progress)
    with model_files(model, folder) as place:
        tokenizer = load_tokenizer(model, place)
        rows = _comparison_rows(run, tokenizer)
        wanted, moved, dtype = _write_merged(run, place, rows, output)
    tokenizer.save_pretrained(output)
    plain = AutoModelForCausalLM.from_pretrained(output, trust_remote_code=model.trust_remote_code)
    error = _largest_difference(plain.to(default_device()).eval(), rows, wanted)
    name, allowed = str(dtype).removeprefix("torch."), rounding_tolerance(dtype)
    if not error <= allowed:  # nor is it, where it is no number
        raise UserError(
            f"The merged weights are up to {error:.3f} nats from base and adapter, more than {name} rounds "
            f"({allowed:.3f}), so they were not kept; take the adapter, without --merge."
        )
    return MergeComparison(name, error, moved, allowed, sum(map(len, wanted)))


def rounding_tolerance(dtype: torch.dtype) -> float:
    """By how many nats rounding to `dtype` may move a likely token."""
    return max(ALLOWED_ROUNDINGS * torch.finfo(dtype).eps, MIN_TOLERANCE)


def _comparison_rows(run: FinishedRun, tokenizer: Any) -> list[EncodedExample]:
    """A few tasks of the domain with the beginnings of their answers."""
    encoded = encode_rows(
        round_robin(run.shown, COMPARED_ROWS), run.config.domain.role, tokenizer, PromptRenderer(run.config.prompts)
    )
    return [EncodedExample(row.prompt, row.response[:COMPARED_TOKENS]) for row in encoded]


def _write_merged(
    run: FinishedRun, place: Path, rows: Sequence[EncodedExample], output: Path
) -> tuple[list[torch.Tensor], float, torch.dtype]:
    """The log-probabilities of base and adapter, how far the base is from them, and the type of the weights."""
    network = load_network(run.config.model, place)
    if run.config.model.quantization == "none":
        network.to(default_device())
    with with_adapter(network, run.adapter) as adapted:
        wanted = [_logprobs(adapted, row) for row in rows]
    moved = _largest_difference(network, rows, wanted)
    if run.config.model.quantization != "none":  # PEFT would quantise the sum again
        network = network.dequantize()
    merged = PeftModel.from_pretrained(network, run.adapter).merge_and_unload(safe_merge=True)
    merged.save_pretrained(output, max_shard_size=MAX_SHARD_SIZE)
    return wanted, moved, merged.dtype


def _largest_difference(network: Any, rows: Sequence[EncodedExample], wanted: Sequence[torch.Tensor]) -> float:
    """The largest difference from `wanted`, over the tokens that are likely there."""
    gaps = []
    for row, logprobs in zip(rows, wanted, strict=True):
        likely = logprobs >= logprobs.amax(-1, keepdim=True) + log(LIKELY_SHARE)
        gaps.append((_logprobs(network, row) - logprobs)[likely].abs().max())
    return float(torch.stack(gaps).max())


@torch.inference_mode()
def _logprobs(network: Any, row: EncodedExample) -> torch.Tensor:
    """[tokens of the answer, vocabulary] of what comes next."""
    ids = torch.tensor([[*row.prompt, *row.response]], device=network.device)
    logits = network(input_ids=ids, use_cache=False).logits[0, len(row.prompt) - 1 : -1]
    logprobs: torch.Tensor = logits.float().log_softmax(-1).cpu()
    return logprobs
