"""Everything that is checked, and prepared, before any work: values, data, weights, devices."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from selfspec.config.composition import freeze
from selfspec.config.schema import Config, DomainConfig
from selfspec.config.validation import check_unknown_keys, validate
from selfspec.data.reading import read_all_questions, read_question_texts, read_questions, read_seeds
from selfspec.data.splits import split_seeds
from selfspec.errors import UserError
from selfspec.evaluation.benchmarks.prepare import prepare_benchmarks
from selfspec.evaluation.harness import check_harness
from selfspec.filters.custom import check_custom_filters
from selfspec.launch.resources import devices_of
from selfspec.models.nf4 import check_bitsandbytes
from selfspec.models.weights import check_weights
from selfspec.planning.devices import check_devices, processes_here
from selfspec.tuning.strategies.limits import check_deepspeed_installed, check_strategy_device


@cache
def _print_once(note: str) -> None:
    """Say something once, also when a sweep's jobs all come to it."""
    print(note, file=sys.stderr)


def prepare_config(composed: DictConfig) -> Config:
    """The frozen config of one experiment, checked.

    Raises:
        UserError: the first thing that is wrong, in one sentence.
    """
    try:
        config = freeze(composed)
    except Exception as error:
        check_unknown_keys(OmegaConf.to_container(composed), Config, "")  # an unknown key is told before anything else
        if isinstance(error, MissingMandatoryValue):
            raise UserError(f"{error.full_key} has no value; give one with {error.full_key}=....") from None
        raise
    launcher = HydraConfig.get().launcher if HydraConfig.initialized() else {}
    check_custom_filters(config.generation.filters.extra)
    config = _with_prepared_data(validate(config, devices_of("adapter", launcher)))
    _check_data(config)
    if config.plan:  # of what may be done elsewhere
        return config
    sharing, neighbours = processes_here(launcher)
    if sharing:  # else each stage looks at its own node
        check_devices(config, processes=sharing, neighbours=neighbours)
        check_strategy_device(config.strategy)
    check_weights(config.model)
    if config.model.quantization == "nf4":
        check_bitsandbytes()
    check_deepspeed_installed(config.strategy)
    return config


def _with_prepared_data(config: Config) -> Config:
    """With the files of the public sets that `evaluation.sets` names, and the corpus and the harness at hand."""
    check_harness(config.evaluation)
    evaluation, domain = config.evaluation, config.evaluation.domain
    if not evaluation.sets or domain is None:
        return config
    sets, notes = prepare_benchmarks(evaluation, domain.name, Path(config.paths.cache))
    for note in notes:
        _print_once(note)
    files = (*evaluation.files, *(str(item.questions) for item in sets))
    shown = tuple(str(item.shots) for item in sets if item.shots)
    return replace(config, evaluation=replace(evaluation, files=files, shot_files=shown, notes=tuple(notes)))


def _check_data(config: Config) -> None:
    """Seeds and questions are read once now, so that a bad line stops nobody halfway."""
    for path in map(Path, config.generation.contamination.against):
        read_question_texts(path)
    for domain in {id(domain): domain for domain in _domains(config)}.values():
        read_questions(Path(domain.evaluation), domain.tasks)
        check_seed_counts(config, domain)
    if config.evaluation.domain and config.evaluation.files:
        read_all_questions([Path(file) for file in config.evaluation.files], config.evaluation.domain.tasks)


def _domains(config: Config) -> list[DomainConfig]:
    """Those whose files a run reads."""
    general = [config.general] if config.baselines.generic or config.baselines.off_domain else []
    return [config.domain, *([config.evaluation.domain] if config.evaluation.domain else []), *general]


def check_seed_counts(config: Config, domain: DomainConfig) -> None:
    """Refuse fewer shown seeds than a prompt needs."""
    seeds = read_seeds(Path(domain.seeds), domain.tasks)
    shown, held_out = split_seeds(seeds)
    written = {
        "generation.instructions.shots": config.generation.instructions.shots,
        "generation.responses.shots": config.generation.responses.shots,
    }
    most = max(written, key=lambda key: written[key])
    if len(shown) >= written[most] > (domain.seed_count or len(shown)):
        raise UserError(
            f"domain.seed_count={domain.seed_count} is fewer than {most}={written[most]} needs; raise it, or lower the "
            "shots."
        )
    shots = {**written, "evaluation.shots": max(config.evaluation.shots)}
    most = max(shots, key=lambda key: shots[key])
    if len(shown) < shots[most]:
        raise UserError(
            f"{domain.seeds} has {len(seeds)} seeds, of which {len(held_out)} are held out and {len(shown)} "
            f"shown, fewer than {most}={shots[most]} needs; write at least {shots[most] + len(held_out)} seeds."
        )
