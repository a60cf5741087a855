"""Merge an adapter into its base model (for QLoRA the dequantized one, against which it was tuned), and compare what
plain transformers loads from the written files with base and adapter.
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

MAX_SHARD_SIZE = "5GB"  # per file

# What is compared: log-probabilities at the first tokens of the answers of a few seeds.
COMPARED_ROWS, COMPARED_TOKENS = 8, 16

# A token is compared if its probability is at least this share of the most likely token's: log-probabilities of
# unlikely tokens vary with rounding in any case.
LIKELY_SHARE = 0.01

# Tolerance in nats: 1 in bfloat16, .125 in float16, .001 in float32. On gemma-3-270m (171 positions) merging changed
# the log-probability of a likely token by at most .39 in bfloat16, where rounding alone changes it by .35, and by
# .00002 in float32. An adapter that is added with 1.2 times its scale changes one by 1.7, the adapter itself by 13.
TOLERANCE_IN_EPS, MIN_TOLERANCE = 128, 1e-3


@dataclass(frozen=True)
class MergeComparison:
    """Largest differences of log-probabilities (nats) from base and adapter."""

    dtype: str
    error: float  # of the merged model
    adapter_effect: float  # of the base model without the adapter
    tolerance: float  # for `error`
    num_positions: int  # at which they were compared


def merge_adapter(run: FinishedRun, output: Path, progress: Progress) -> MergeComparison:
    """Write merged weights, tokenizer and configs into `output`.

    Raises:
        UserError: the written model differs from base and adapter by more than rounding.
    """
    model = run.config.model
    weights = None if model.toy else locate_weights(model, Path(run.config.paths.cache), progress)
    with model_files(model, weights) as folder:
        tokenizer = load_tokenizer(model, folder)
        rows = _comparison_rows(run, tokenizer)
        expected, adapter_effect, dtype = _write_merged(run, folder, rows, output)
    tokenizer.save_pretrained(output)
    merged = AutoModelForCausalLM.from_pretrained(output, trust_remote_code=model.trust_remote_code)
    error = _largest_difference(merged.to(default_device()).eval(), rows, expected)
    name, tolerance = str(dtype).removeprefix("torch."), rounding_tolerance(dtype)
    if not error <= tolerance:  # true for NaN as well
        raise UserError(
            f"The merged weights differ from base and adapter by up to {error:.3f} nats, more than {name} rounds "
            f"({tolerance:.3f}), so they were not kept; export the adapter, without --merge."
        )
    return MergeComparison(name, error, adapter_effect, tolerance, sum(map(len, expected)))


def rounding_tolerance(dtype: torch.dtype) -> float:
    """Difference (nats) that rounding to `dtype` may cause in the log-probability of a likely token."""
    return max(TOLERANCE_IN_EPS * torch.finfo(dtype).eps, MIN_TOLERANCE)


def _comparison_rows(run: FinishedRun, tokenizer: Any) -> list[EncodedExample]:
    """A few shown seeds with the first tokens of their answers."""
    rows, prompts = round_robin(run.shown_seeds, COMPARED_ROWS), PromptRenderer(run.config.prompts)
    encoded = encode_rows(rows, run.config.domain.role, tokenizer, prompts)
    return [EncodedExample(row.prompt, row.response[:COMPARED_TOKENS]) for row in encoded]


def _write_merged(
    run: FinishedRun, folder: Path, rows: Sequence[EncodedExample], output: Path
) -> tuple[list[torch.Tensor], float, torch.dtype]:
    """Merge and save; returns the log-probabilities of base and adapter, how far the base is from them, the dtype."""
    network = load_network(run.config.model, folder)
    if run.config.model.quantization == "none":
        network.to(default_device())
    with with_adapter(network, run.adapter) as adapted:
        expected = [_logprobs(adapted, row) for row in rows]
    adapter_effect = _largest_difference(network, rows, expected)
    if run.config.model.quantization != "none":  # PEFT would quantize the merged weights again
        network = network.dequantize()
    merged = PeftModel.from_pretrained(network, run.adapter).merge_and_unload(safe_merge=True)
    merged.save_pretrained(output, max_shard_size=MAX_SHARD_SIZE)
    return expected, adapter_effect, merged.dtype


def _largest_difference(network: Any, rows: Sequence[EncodedExample], expected: Sequence[torch.Tensor]) -> float:
    """The largest difference from the expected log-probabilities, over the likely tokens."""
    differences = []
    for row, logprobs in zip(rows, expected, strict=True):
        is_likely = logprobs >= logprobs.amax(-1, keepdim=True) + log(LIKELY_SHARE)
        differences.append((_logprobs(network, row) - logprobs)[is_likely].abs().max())
    return float(torch.stack(differences).max())


@torch.inference_mode()
def _logprobs(network: Any, row: EncodedExample) -> torch.Tensor:
    """Log-probabilities of the next token at each token of the answer, [answer tokens, vocabulary]."""
    ids = torch.tensor([[*row.prompt, *row.response]], device=network.device)
    logits = network(input_ids=ids, use_cache=False).logits[0, len(row.prompt) - 1 : -1]
    logprobs: torch.Tensor = logits.float().log_softmax(-1).cpu()
    return logprobs
