"""The memory that each kind of stage takes on one device, as its config sets batches, lengths and strategy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from selfspec.config import Config
from selfspec.models import memory, shape
from selfspec.models.memory import Base, Completing, Pass
from selfspec.planning import lengths
from selfspec.planning.lengths import Seeds
from selfspec.tuning.batches import SMALL

KINDS = ("examples", "adapter", "scores")
OF = {"iteration": "examples", "harness": "scores", "index": ""}  # stages that need what another kind needs
SHARDED = ("auto", "fsdp", "deepspeed_zero3", "deepspeed_zero3_offload")
AROUND = 1.25  # of an architecture that is not known here: what stands beside its weights, at the least
WORDS = 1.5  # tokens of a word, of passages
TEMPLATE = 24  # tokens around a synthetic task: headings, and the options of a closed one
ENDS = 2  # tokens behind an answer in a prompt


@dataclass(frozen=True)
class Device:
    """What a stage runs on."""

    name: str
    size: float  # bytes that one process may use
    gpu: bool
    halves: bool = True  # whether it multiplies bfloat16: `model.dtype=auto` is float32 where it does not
    baseline: float = 0.0  # bytes that Python and its libraries take of it


def needs(config: Config, kind: str, device: Device, processes: int = 1) -> Mapping[str, float]:
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
        weights = config.model.parameters * (memory.NF4 if config.model.quantization == "nf4" else width)
        return {"weights": weights, "all beside them, at least": weights * (AROUND - 1), "Python": device.baseline}
    if kind == "adapter":
        found = memory.tuning(base, config.lora, _pass(config))
    else:
        batches = _scoring(config) if kind == "scores" else _writing(config)
        lora = config.lora if kind == "scores" or config.rounds.count > 1 else None
        found = max((memory.completing(base, lora, batch) for batch in batches), key=memory.held)
    return {**found, "Python": device.baseline} if device.baseline else found


def _base(config: Config, device: Device, processes: int) -> Base | None:
    model, strategy = config.model, config.strategy
    found = shape.of(model)
    if found is None:
        return None
    short = not model.toy and (device.gpu or device.halves) if model.dtype == "auto" else model.dtype != "float32"
    shards = processes if strategy.name in SHARDED else 1
    offload = strategy.cpu_offload or strategy.name == "deepspeed_zero3_offload"
    return Base(found, 2 if short else 4, model.quantization == "nf4", device.gpu, shards, offload)


def _pass(config: Config) -> Pass:
    """The largest pass that can come: as many packed tokens as are allowed, or the longest example alone."""
    tuning, shown = config.tuning, lengths.seeds(config.domain)
    batch = tuning.batch_size or (8 if config.data_size.examples <= SMALL else 32)
    writing = config.generation
    written = writing.instructions.instruction_tokens + writing.instructions.input_tokens
    synthetic = shown.head + TEMPLATE + written + writing.responses.max_new_tokens + 1
    longest = min(tuning.max_length, max([synthetic, *map(sum, shown.rows)]))
    tokens = max(longest, min(tuning.micro_batch_tokens, batch * longest))
    return Pass(tokens, _responses(shown, tokens), longest, tuning.activation_checkpointing)


def _responses(shown: Seeds, tokens: int) -> int:
    """Tokens learnt in a pass of the seeds whose responses are the largest part of them."""
    left, learnt = tokens, 0
    for prompt, response in sorted(shown.rows, key=lambda row: row[1] / sum(row), reverse=True):
        if left < prompt + response:
            break
        left, learnt = left - prompt - response, learnt + response
    mean_prompt, mean_response = lengths.mean_row(shown)
    return learnt + round(left * mean_response / (mean_prompt + mean_response))


def _writing(config: Config) -> Iterator[Completing]:
    """The batches of instructions, inputs, answers, and what else the filters ask of the model."""
    asked, shown, generation = config.generation.instructions, lengths.seeds(config.domain), config.generation
    several = 2 if config.rounds.count > 1 and config.rounds.decoding == "contrastive" else 1  # expert and amateur
    prefix, sampled = shown.list_prefix(asked.shots, longest=True), asked.top_p < 1
    yield Completing(asked.batch_size, prefix, shown.asked, asked.instruction_tokens, sampled=sampled)
    item = shown.asked + asked.instruction_tokens + ENDS
    yield Completing(asked.batch_size, prefix, item, asked.input_tokens, sampled=sampled)
    answer = generation.responses
    item = TEMPLATE + asked.instruction_tokens + asked.input_tokens
    if config.retrieval.name != "none":
        item += round(config.retrieval.passages * config.retrieval.passage_words * WORDS)
    prefix = min(shown.prefix(answer.shots, longest=True), config.model.context_length - answer.max_new_tokens)
    item = max(1, min(item, config.model.context_length - answer.max_new_tokens - prefix))
    yield Completing(answer.batch_size * several, prefix, item, answer.max_new_tokens)
    if generation.filters.self_consistency:
        rows = max(answer.batch_size, generation.self_consistency.samples)
        yield Completing(rows, prefix, item, answer.max_new_tokens, sampled=True)
    if generation.filters.judge:
        judged = shown.prefix(generation.judge.shots, longest=True)
        yield Completing(generation.judge.batch_size, judged, item + answer.max_new_tokens, 1, options=2, choices=2)


def _scoring(config: Config) -> Iterator[Completing]:
    """The batches of questions, at the largest number of shots."""
    evaluation, asked = config.evaluation, lengths.questions(config)
    room = max(1, config.model.context_length - asked.longest - asked.new)
    prefix = min(asked.seeds.prefix(max(evaluation.shots), longest=True), room)
    yield Completing(evaluation.batch_size, prefix, asked.longest, asked.new, asked.options, asked.choices)
