"""Preparation of an experiment: its config is frozen, completed and checked before any work.

The checks come in this order: values, public sets, data files, seeds, packages, devices, weights. A plan ends after the
seeds: it may be for another machine.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from selfspec.config.composition import freeze
from selfspec.config.schema import Config, DomainConfig
from selfspec.config.validation import validate
from selfspec.data.reading import (
    join_messages,
    line_numbers,
    read_all_questions,
    read_question_texts,
    read_questions,
    read_seeds,
)
from selfspec.data.records import Seed
from selfspec.data.splits import num_seeds_for, split_seeds
from selfspec.data.text import count_noun
from selfspec.engines.build import build_engine
from selfspec.errors import UserError
from selfspec.evaluation.benchmarks.prepare import prepare_benchmarks
from selfspec.evaluation.harness import check_harness
from selfspec.evaluation.reported_metrics import build_custom_metrics
from selfspec.filters.custom import check_custom_filters
from selfspec.launch.resources import devices_of
from selfspec.loggers.settings import check_logger
from selfspec.models.nf4 import check_bitsandbytes
from selfspec.models.revision import resolve_revision
from selfspec.models.weights import check_weights
from selfspec.planning.context import check_prompts_fit, with_local_context
from selfspec.planning.devices import check_devices, processes_here
from selfspec.planning.parameters import has_known_targets
from selfspec.prompts.templates import check_prompts
from selfspec.runtime.machine import has_native_bf16
from selfspec.tuning.lora_modules import check_lora_modules
from selfspec.tuning.lora_settings import check_lora_extra
from selfspec.tuning.objectives import check_objective
from selfspec.tuning.strategies.limits import check_deepspeed_installed, check_strategy_choice, check_strategy_device
from selfspec.tuning.trainer_settings import check_callbacks, check_trainer_options


def prepare_config(composed: DictConfig) -> Config:
    """The frozen and checked config of one experiment, with everything resolved that its keys need.

    Raises:
        UserError: the first thing that is wrong, in one sentence.
    """
    launcher = HydraConfig.get().launcher if HydraConfig.initialized() else {}
    config = _with_concrete_dtype(validate(freeze(composed)), launcher)
    config = replace(config, model=with_local_context(config.model))
    check_parts(config, devices_of("adapter", launcher))
    config = with_benchmark_files(config)
    _check_data_files(config)
    for domain in _domains(config):
        check_seeds(config, domain)
    check_prompts_fit(config)
    if not config.plan:
        _check_packages(config)
        _check_devices(config, launcher)
        check_weights(config.model)
    revision = resolve_revision(config.model, ask_hub=not config.plan)
    return replace(config, model=replace(config.model, revision=revision))


def check_parts(config: Config, num_processes: int = 1) -> None:
    """Check the options that only the part which uses them can judge, and create the objects of the user's own.

    Args:
        config: Of the experiment.
        num_processes: That share the tuning of an adapter.

    Raises:
        UserError: the first that is wrong.
    """
    check_prompts(config.prompts)
    build_engine(config.engine)
    check_custom_filters(config.generation.filters.extra)
    check_strategy_choice(config.strategy, config.model, config.lora, num_processes)
    check_lora_extra(config.lora, config.model.quantization)
    if config.lora.extra or not has_known_targets(config.model, config.lora):
        check_lora_modules(config.lora, config.model)
    check_objective(config.objective)
    check_trainer_options(config.trainer)
    check_callbacks(config.callbacks)
    check_harness(config.evaluation)
    build_custom_metrics(config.evaluation.metrics)


def print_notes(configs: Iterable[Config]) -> None:
    """Print what was noted about the models and public sets of these experiments, each note once."""
    notes = (note for config in configs for note in (*config.model.notes, *config.evaluation.notes))
    for note in dict.fromkeys(notes):
        print(note, file=sys.stderr)


def _with_concrete_dtype(config: Config, launcher: Mapping[str, Any]) -> Config:
    """`model.dtype=auto` as the type that the stages will use: it changes their results, so it is in their keys."""
    model = config.model
    if model.dtype != "auto":
        return config
    has_bf16 = not model.toy and (_requests_gpus(launcher) or has_native_bf16())
    model = replace(model, dtype="bfloat16" if has_bf16 else "float32", is_dtype_auto=True)
    return replace(config, model=model)


def _requests_gpus(launcher: Mapping[str, Any]) -> bool:
    """Whether stages run as SLURM jobs with GPUs."""
    return any(request.get("gpus") for request in launcher.get("resources", {}).values())


def with_benchmark_files(config: Config) -> Config:
    """The config with the questions and few-shot examples of the public sets in `evaluation.sets`."""
    evaluation, domain = config.evaluation, config.evaluation.domain
    if not evaluation.sets or domain is None:
        return config
    sets, notes = prepare_benchmarks(evaluation, domain.name, Path(config.paths.cache))
    files = (*evaluation.files, *(str(item.questions) for item in sets))
    shot_files = tuple(str(item.shots) for item in sets if item.shots)
    return replace(config, evaluation=replace(evaluation, files=files, shot_files=shot_files, notes=tuple(notes)))


def _check_data_files(config: Config) -> None:
    """Read every file of questions once: a bad line is reported now and not after hours of work."""
    for path in config.generation.contamination.against:
        read_question_texts(Path(path))
    for domain in _domains(config):
        read_questions(Path(domain.evaluation), domain.tasks)
    if config.evaluation.domain:
        read_all_questions([Path(file) for file in config.evaluation.files], config.evaluation.domain.tasks)


def _domains(config: Config) -> list[DomainConfig]:
    """The domains whose files a run reads."""
    general = [config.general] if config.baselines.generic or config.baselines.off_domain else []
    return [config.domain, *([config.evaluation.domain] if config.evaluation.domain else []), *general]


def check_seeds(config: Config, domain: DomainConfig) -> None:
    """Refuse a domain with fewer seeds than a prompt shows, or with a seed that no prompt can hold.

    Raises:
        UserError: every requirement that the seeds do not meet, one a line.
    """
    seeds = read_seeds(Path(domain.seeds), domain.tasks)
    if messages := [*_too_few_seeds(config, domain, seeds), *_too_long_seeds(config, domain, seeds)]:
        raise UserError(join_messages(Path(domain.seeds), messages))


def _too_few_seeds(config: Config, domain: DomainConfig, seeds: Sequence[Seed]) -> Iterator[str]:
    """What the number of seeds is too small for."""
    shown_seeds, held_out = split_seeds(seeds)
    generation_shots = {
        "generation.instructions.shots": config.generation.instructions.shots,
        "generation.responses.shots": config.generation.responses.shots,
    }
    key, shots = _largest({**generation_shots, "evaluation.shots": max(config.evaluation.shots)})
    if len(shown_seeds) < shots:
        verb = "is" if len(held_out) == 1 else "are"
        yield (
            f"{domain.seeds} has {count_noun(len(seeds), 'seed')}, of which {len(held_out)} {verb} held out and "
            f"{len(shown_seeds)} can be shown, fewer than {key}={shots} needs; "
            f"write at least {num_seeds_for(shots)} seeds."
        )
    key, shots = _largest(generation_shots)
    if domain.seed_count is not None and domain.seed_count < shots:
        yield f"domain.seed_count={domain.seed_count} is fewer than {key}={shots} needs; raise it, or lower the shots."


def _too_long_seeds(config: Config, domain: DomainConfig, seeds: Sequence[Seed]) -> Iterator[str]:
    """Seeds with more words than the model's context has tokens; a word has one token at least."""
    context_length = config.model.context_length
    for number, seed in zip(line_numbers(Path(domain.seeds)), seeds, strict=True):
        num_words = len(f"{seed.instruction} {seed.input} {seed.output}".split())
        if num_words > context_length:
            yield (
                f"{domain.seeds}, line {number}: the seed has {num_words} words, and the model's context "
                f"{context_length} tokens; shorten it."
            )


def _largest(counts: Mapping[str, int]) -> tuple[str, int]:
    return max(counts.items(), key=lambda item: item[1])


def _check_packages(config: Config) -> None:
    """Refuse options that need an optional package which is not installed."""
    if config.model.quantization == "nf4":
        check_bitsandbytes()
    check_deepspeed_installed(config.strategy)
    check_logger(config.logger)


def _check_devices(config: Config, launcher: Mapping[str, Any]) -> None:
    """Refuse what this machine can't hold. Stages that run on other machines check those when they start."""
    processes, neighbours = processes_here(launcher)
    if processes:
        check_devices(config, processes=processes, neighbours=neighbours)
        check_strategy_device(config.strategy)
