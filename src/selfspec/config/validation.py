"""Bounds, choices and unknown keys of a config: the first violation is one sentence."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import replace
from operator import ge, gt, le
from typing import Any

from selfspec.config.paths import make_paths_absolute
from selfspec.config.schema import Config
from selfspec.data.records import KINDS
from selfspec.errors import UserError, did_you_mean
from selfspec.tuning.lora_settings import check_lora_extra
from selfspec.tuning.objectives import check_objective
from selfspec.tuning.strategies.limits import check_strategy_choice
from selfspec.tuning.trainer_settings import check_callbacks, check_trainer_options

CHOICES = {
    "tuning.schedule": ("constant", "linear", "cosine"),
    "tuning.keep": ("best", "last"),
    "logger.name": ("wandb", "csv", "none"),
    "logger.mode": ("offline", "online"),
    "engine.name": ("transformers",),
    "strategy.name": ("auto", "ddp", "fsdp", "deepspeed_zero2", "deepspeed_zero3", "deepspeed_zero3_offload"),
    "generation.demonstrations": ("own_type", "random"),
    "retrieval.name": ("none", "bm25"),
    "rounds.instructions": ("same", "new"),
    "rounds.decoding": ("plain", "contrastive"),
    "model.prompt": ("base", "chat"),
    "model.quantization": ("none", "nf4"),
    "model.dtype": ("auto", "bfloat16", "float16", "float32"),
}


MINIMA = {
    "domain.seed_count": 1,
    "tuning.patience": 1,
    "data_size.examples": 1,
    "lora.r": 1,
    "lora.alpha": 1,
    "lora.dropout": 0,
    "generation.instructions.shots": 1,
    "generation.instructions.instruction_tokens": 1,
    "generation.instructions.input_tokens": 1,
    "generation.instructions.batch_size": 1,
    "generation.responses.shots": 1,
    "generation.responses.max_new_tokens": 1,
    "generation.responses.batch_size": 1,
    "generation.max_attempts": 1,
    "generation.filters.novelty_threshold": 0,
    "generation.contamination.words": 5,
    "generation.self_consistency.samples": 1,
    "generation.self_consistency.majority": 0,
    "generation.judge.shots": 0,
    "generation.judge.least_auc": 0,
    "generation.judge.batch_size": 1,
    "retrieval.passages": 1,
    "retrieval.passage_words": 1,
    "retrieval.limit": 1,
    "rounds.count": 1,
    "rounds.contrast": 0,
    "tuning.learning_rate": 0,
    "tuning.epochs": 1,
    "tuning.batch_size": 1,
    "tuning.warmup_ratio": 0,
    "tuning.weight_decay": 0,
    "tuning.max_grad_norm": 0,
    "tuning.max_length": 1,
    "tuning.micro_batch_tokens": 1,
    "tuning.checkpoint_minutes": 0,
    "evaluation.limit": 1,
    "evaluation.draws": 1,
    "evaluation.batch_size": 1,
    "evaluation.resamples": 1,
    "seed": 0,
}


EXCLUSIVE_MINIMA = {
    "throughput.generated": 0,
    "throughput.read": 0,
    "throughput.tuned": 0,
    "generation.instructions.temperature": 0,
    "generation.instructions.top_p": 0,
    "generation.self_consistency.temperature": 0,
    "rounds.plausible": 0,
}


MAXIMA = {
    "generation.instructions.top_p": 1,
    "generation.filters.novelty_threshold": 1,
    "generation.self_consistency.majority": 1,
    "generation.judge.least_auc": 1,
    "rounds.plausible": 1,
    "lora.dropout": 1,
    "tuning.warmup_ratio": 1,
}


def validate(config: Config, processes: int = 1) -> Config:
    """The config with absolute paths; every value is one that is allowed where so many processes share an adapter.

    Raises:
        UserError: the first that is not.
    """
    config = _with_evaluation_domain(make_paths_absolute(config))
    _check_values(config)
    check_lora_extra(config.lora, config.model.quantization)
    check_objective(config.objective)
    check_trainer_options(config.trainer)
    check_callbacks(config.callbacks)
    check_strategy_choice(config.strategy, config.model, config.lora, processes)
    return config


def _with_evaluation_domain(config: Config) -> Config:
    """Scored is the experiment's own domain, unless another is named; its shots come from all of its shown seeds."""
    domain = config.evaluation.domain or config.domain
    evaluation = replace(config.evaluation, domain=replace(domain, seed_count=None))
    return replace(config, evaluation=evaluation)


def check_unknown_keys(found: Any, schema: Any, place: str) -> None:
    """Refuse a key that the schema does not know: Hydra lets `+lora.rr=4` through."""
    if not dataclasses.is_dataclass(schema) or not isinstance(found, dict):
        return
    hints = typing.get_type_hints(schema)
    for name, value in found.items():
        if name not in hints:
            raise UserError(unknown_key_message(f"{place}{name}", hints, place))
        check_unknown_keys(value, hints[name], f"{place}{name}.")


def unknown_key_message(key: str, allowed: typing.Iterable[str], place: str) -> str:
    """One sentence on a key that the schema does not have."""
    name = key.rpartition(".")[2]
    where = place.rstrip(".") or "the config"
    return f"There is no key {key}; {did_you_mean(name, allowed)}{where} has: {', '.join(sorted(allowed))}."


def _value(config: Config, key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _check_values(config: Config) -> None:
    for key, allowed in CHOICES.items():
        value = _value(config, key)
        if value not in allowed:
            raise UserError(
                f"{key}={value} is none of {', '.join(allowed)}; {did_you_mean(str(value), allowed)}choose one."
            )
    for bounds, right, words in (
        (MINIMA, ge, "at least"),
        (EXCLUSIVE_MINIMA, gt, "more than"),
        (MAXIMA, le, "at most"),
    ):
        for key, bound in bounds.items():
            value = _value(config, key)
            if value is not None and not right(value, bound):
                raise UserError(f"{key}={value} must be {words} {bound}.")
    if not config.evaluation.shots or min(config.evaluation.shots) < 0:
        shots = list(config.evaluation.shots)
        raise UserError(f"evaluation.shots={shots} must name at least one number of shots, none of them negative.")
    for name, task in config.domain.tasks.items():
        if task.kind not in KINDS:
            raise UserError(f"domain.tasks.{name}.kind={task.kind} is none of {', '.join(KINDS)}.")
