"""The memory that each kind of stage takes on one device, as its config sets batches, lengths and strategy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from selfspec.config.schema import Config
from selfspec.planning.lengths import SeedLengths, mean_row_lengths, question_lengths, seed_lengths
from selfspec.planning.memory import (
    NF4_BYTES,
    BaseOnDevice,
    CompletionBatch,
    TrainingPass,
    completion_memory,
    total_bytes,
    tuning_memory,
)
from selfspec.planning.parameters import model_shape
from selfspec.tuning.batches import SMALL_DATA_SIZE

STAGE_KINDS = ("examples", "adapter", "scores")


KIND_OF_STAGE = {
    "round_examples": "examples",
    "harness": "scores",
    "index": "",
}  # stages that need what another kind needs


SHARDED = ("auto", "fsdp", "deepspeed_zero3", "deepspeed_zero3_offload")


UNKNOWN_ARCHITECTURE_FACTOR = (
    1.25  # of an architecture that is not known here: what stands beside its weights, at the least
)


TOKENS_PER_WORD = 1.5  # tokens of a word, of passages


TEMPLATE_TOKENS = 24  # tokens around a synthetic task: headings, and the options of a closed one


ANSWER_END_TOKENS = 2  # tokens behind an answer in a prompt


@dataclass(frozen=True)
class Device:
    """What a stage runs on."""

    name: str
    size: float  # bytes that one process may use
    gpu: bool
    halves: bool = True  # whether it multiplies bfloat16: `model.dtype=auto` is float32 where it does not
    baseline: float = 0.0  # bytes that Python and its libraries take of it


def memory_by_part(config: Config, kind: str, device: Device, processes: int = 1) -> Mapping[str, float]:
    """Bytes on one device by part, at the moment that takes most.

    Args:
        config: Of the run.
        kind: Of stage: examples (later rounds, too), adapter, scores.
        device: What it runs on.
        processes: That share an adapter, a device each; of other stages each process holds the base whole.
    """
    base = _base(config, device, processes if kind == "adapter" else 1)
    if base is None:
        width = 2 if device.gpu or device.halves else 4
        weights = config.model.parameters * (NF4_BYTES if config.model.quantization == "nf4" else width)
        return {
            "weights": weights,
            "all beside them, at least": weights * (UNKNOWN_ARCHITECTURE_FACTOR - 1),
            "Python": device.baseline,
        }
    if kind == "adapter":
        found = tuning_memory(base, config.lora, _largest_pass(config))
    else:
        batches = _evaluation_batches(config) if kind == "scores" else _generation_batches(config)
        lora = config.lora if kind == "scores" or config.rounds.count > 1 else None
        found = max((completion_memory(base, lora, batch) for batch in batches), key=total_bytes)
    return {**found, "Python": device.baseline} if device.baseline else found


def _base(config: Config, device: Device, processes: int) -> BaseOnDevice | None:
    model, strategy = config.model, config.strategy
    found = model_shape(model)
    if found is None:
        return None
    short = not model.toy and (device.gpu or device.halves) if model.dtype == "auto" else model.dtype != "float32"
    shards = processes if strategy.name in SHARDED else 1
    offload = strategy.cpu_offload or strategy.name == "deepspeed_zero3_offload"
    return BaseOnDevice(found, 2 if short else 4, model.quantization == "nf4", device.gpu, shards, offload)


def _largest_pass(config: Config) -> TrainingPass:
    """The largest pass that can come: as many packed tokens as are allowed, or the longest example alone."""
    tuning, shown = config.tuning, seed_lengths(config.domain, config.prompts)
    batch = tuning.batch_size or (8 if config.data_size.examples <= SMALL_DATA_SIZE else 32)
    writing = config.generation
    written = writing.instructions.instruction_tokens + writing.instructions.input_tokens
    synthetic = shown.head + TEMPLATE_TOKENS + written + writing.responses.max_new_tokens + 1
    longest = min(tuning.max_length, max([synthetic, *map(sum, shown.rows)]))
    tokens = max(longest, min(tuning.micro_batch_tokens, batch * longest))
    return TrainingPass(tokens, _response_tokens(shown, tokens), longest, tuning.activation_checkpointing)


def _response_tokens(shown: SeedLengths, tokens: int) -> int:
    """Tokens learnt in a pass of the seeds whose responses are the largest part of them."""
    left, learnt = tokens, 0
    for prompt, response in sorted(shown.rows, key=lambda row: row[1] / sum(row), reverse=True):
        if left < prompt + response:
            break
        left, learnt = left - prompt - response, learnt + response
    mean_prompt, mean_response = mean_row_lengths(shown)
    return learnt + round(left * mean_response / (mean_prompt + mean_response))


def _generation_batches(config: Config) -> Iterator[CompletionBatch]:
    """The batches of instructions, inputs, answers, and what else the filters ask of the model."""
    asked, shown, generation = (
        config.generation.instructions,
        seed_lengths(config.domain, config.prompts),
        config.generation,
    )
    several = 2 if config.rounds.count > 1 and config.rounds.decoding == "contrastive" else 1  # expert and amateur
    prefix, sampled = shown.list_prefix(asked.shots, longest=True), asked.top_p < 1
    yield CompletionBatch(asked.batch_size, prefix, shown.asked, asked.instruction_tokens, sampled=sampled)
    item = shown.asked + asked.instruction_tokens + ANSWER_END_TOKENS
    yield CompletionBatch(asked.batch_size, prefix, item, asked.input_tokens, sampled=sampled)
    answer = generation.responses
    item = TEMPLATE_TOKENS + asked.instruction_tokens + asked.input_tokens
    if config.retrieval.name != "none":
        item += round(config.retrieval.passages * config.retrieval.passage_words * TOKENS_PER_WORD)
    prefix = min(shown.prefix(answer.shots, longest=True), config.model.context_length - answer.max_new_tokens)
    item = max(1, min(item, config.model.context_length - answer.max_new_tokens - prefix))
    yield CompletionBatch(answer.batch_size * several, prefix, item, answer.max_new_tokens)
    if generation.filters.self_consistency:
        rows = max(answer.batch_size, generation.self_consistency.samples)
        yield CompletionBatch(rows, prefix, item, answer.max_new_tokens, sampled=True)
    if generation.filters.judge:
        judged = shown.prefix(generation.judge.shots, longest=True)
        yield CompletionBatch(
            generation.judge.batch_size, judged, item + answer.max_new_tokens, 1, options=2, choices=2
        )


def _evaluation_batches(config: Config) -> Iterator[CompletionBatch]:
    """The batches of questions, at the largest number of shots."""
    evaluation, asked = config.evaluation, question_lengths(config)
    room = max(1, config.model.context_length - asked.longest - asked.new)
    prefix = min(asked.seeds.prefix(max(evaluation.shots), longest=True), room)
    yield CompletionBatch(evaluation.batch_size, prefix, asked.longest, asked.new, asked.options, asked.choices)
