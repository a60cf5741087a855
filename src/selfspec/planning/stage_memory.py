"""The memory of each kind of stage on one device, for the batches, lengths and strategy of its config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from selfspec.config.schema import Config, ModelConfig
from selfspec.generation.votes import END_TOKENS
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
from selfspec.tuning.batches import choose_batch_size
from selfspec.tuning.strategies.limits import shards_base

STAGE_KINDS = ("examples", "adapter", "scores")  # the stages whose memory is estimated: those that load a model
UNKNOWN_ARCHITECTURE_FACTOR = 1.25  # at least so many times the bytes of the weights, for an unknown architecture
TOKENS_PER_WORD = 1.5  # of retrieved passages
TEMPLATE_TOKENS = 24  # of a synthetic task beside its texts: headings, and options of a closed one
ANSWER_END_TOKENS = 2  # between an instruction and its input


@dataclass(frozen=True)
class Device:
    """What a stage runs on."""

    name: str
    memory_bytes: float  # that one process may use
    is_gpu: bool
    has_native_bf16: bool = True  # without it `model.dtype=auto` is float32
    python_bytes: float = 0.0  # that Python and its libraries take of the memory


def memory_by_part(config: Config, kind: str, device: Device, processes: int = 1) -> Mapping[str, float]:
    """Bytes on one device by part, at the peak.

    Args:
        config: Of the run.
        kind: Of the stage: examples (all rounds), adapter or scores.
        device: What it runs on.
        processes: That tune one adapter, each on a device. In the other stages each process holds the whole base.
    """
    base = _base_on_device(config, device, processes if kind == "adapter" else 1)
    if base is None:
        return _unknown_architecture_memory(config, device)
    if kind == "adapter":
        parts = tuning_memory(base, config.lora, _largest_pass(config))
    else:
        batches = _evaluation_batches(config) if kind == "scores" else _generation_batches(config)
        lora = config.lora if kind == "scores" or config.rounds.count > 1 else None
        parts = max((completion_memory(base, lora, batch) for batch in batches), key=total_bytes)
    return {**parts, "Python": device.python_bytes} if device.python_bytes else parts


def _unknown_architecture_memory(config: Config, device: Device) -> Mapping[str, float]:
    """A lower bound by the published number of parameters."""
    is_nf4 = config.model.quantization == "nf4"
    weights = config.model.parameters * (NF4_BYTES if is_nf4 else _bytes_per_number(config.model, device))
    return {
        "weights": weights,
        "everything else, at least": weights * (UNKNOWN_ARCHITECTURE_FACTOR - 1),
        "Python": device.python_bytes,
    }


def _base_on_device(config: Config, device: Device, processes: int) -> BaseOnDevice | None:
    model, strategy = config.model, config.strategy
    shape = model_shape(model)
    if shape is None:
        return None
    num_shards = processes if shards_base(strategy, processes) else 1
    cpu_offload = strategy.cpu_offload or strategy.name == "deepspeed_zero3_offload"
    is_nf4, number_bytes = model.quantization == "nf4", _bytes_per_number(model, device)
    return BaseOnDevice(shape, number_bytes, is_nf4, device.is_gpu, num_shards, cpu_offload)


def _bytes_per_number(model: ModelConfig, device: Device) -> int:
    """Bytes of an unquantized weight."""
    if model.dtype == "auto" or model.is_dtype_auto:  # on another device it would be another type
        return 2 if not model.toy and device.has_native_bf16 else 4
    return 4 if model.dtype == "float32" else 2


def _largest_pass(config: Config) -> TrainingPass:
    """The largest possible pass: the allowed number of packed tokens, or the longest example if that is longer."""
    tuning, seeds = config.tuning, seed_lengths(config.domain, config.prompts)
    batch_size = choose_batch_size(tuning, config.data_size.examples)
    instructions, responses = config.generation.instructions, config.generation.responses
    task = seeds.header + TEMPLATE_TOKENS + instructions.instruction_tokens + instructions.input_tokens
    synthetic = task + responses.max_new_tokens + 1
    longest = min(tuning.max_length, max([synthetic, *map(sum, seeds.rows)]))
    num_tokens = max(longest, min(tuning.micro_batch_tokens, batch_size * longest))
    return TrainingPass(num_tokens, _max_response_tokens(seeds, num_tokens), longest, tuning.activation_checkpointing)


def _max_response_tokens(seeds: SeedLengths, num_tokens: int) -> int:
    """Response tokens of a pass that packs the seeds with the largest share of response tokens first."""
    left, response_tokens = num_tokens, 0
    for prompt, response in sorted(seeds.rows, key=lambda row: row[1] / sum(row), reverse=True):
        if left < prompt + response:
            break
        left, response_tokens = left - prompt - response, response_tokens + response
    mean_prompt, mean_response = mean_row_lengths(seeds)
    return response_tokens + round(left * mean_response / (mean_prompt + mean_response))


def _generation_batches(config: Config) -> Iterator[CompletionBatch]:
    """Batches of instructions, inputs, responses, votes and verdicts."""
    generation, seeds = config.generation, seed_lengths(config.domain, config.prompts)
    instructions, responses = generation.instructions, generation.responses
    prefix = seeds.list_prefix(instructions.shots, longest=True)
    batch_size = instructions.batch_size
    yield CompletionBatch(batch_size, prefix, seeds.open_item, instructions.instruction_tokens, is_sampled=True)
    item = seeds.open_item + instructions.instruction_tokens + ANSWER_END_TOKENS
    yield CompletionBatch(batch_size, prefix, item, instructions.input_tokens, is_sampled=True)

    prefix, task = _response_prompt(config, seeds)
    is_contrastive = config.rounds.count > 1 and config.rounds.decoding == "contrastive"
    num_rows = responses.batch_size * (2 if is_contrastive else 1)  # expert and amateur
    yield CompletionBatch(num_rows, prefix, task, responses.max_new_tokens)
    if generation.filters.self_consistency:
        yield CompletionBatch(responses.batch_size, prefix, task, seeds.options + END_TOKENS, is_sampled=True)
    if generation.filters.judge:
        prefix = seeds.prefix(generation.judge.shots, longest=True)
        item = task + responses.max_new_tokens
        yield CompletionBatch(generation.judge.batch_size, prefix, item, 1, option_tokens=2, max_options=2)


def _response_prompt(config: Config, seeds: SeedLengths) -> tuple[int, int]:
    """The most tokens of the prefix, and of the task with its passages, that fit the context beside the response."""
    instructions, responses = config.generation.instructions, config.generation.responses
    task = TEMPLATE_TOKENS + instructions.instruction_tokens + instructions.input_tokens
    if config.retrieval.name != "none":
        task += round(config.retrieval.passages * config.retrieval.passage_words * TOKENS_PER_WORD)
    available = config.model.context_length - responses.max_new_tokens
    prefix = min(seeds.prefix(responses.shots, longest=True), available)
    return prefix, max(1, min(task, available - prefix))


def _evaluation_batches(config: Config) -> Iterator[CompletionBatch]:
    """A batch of questions with the largest number of shots."""
    evaluation, questions = config.evaluation, question_lengths(config)
    available = max(1, config.model.context_length - questions.longest_question - questions.max_new_tokens)
    yield CompletionBatch(
        evaluation.batch_size,
        prefix_tokens=min(questions.seeds.prefix(max(evaluation.shots), longest=True), available),
        item_tokens=questions.longest_question,
        max_new_tokens=questions.max_new_tokens,
        option_tokens=questions.longest_option,
        max_options=questions.max_options,
    )
