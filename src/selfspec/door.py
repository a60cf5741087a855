"""The door: a composed config is compared with the schema, checked across fields, and frozen; all before any work."""

from __future__ import annotations

import dataclasses
import sys
import typing
from dataclasses import replace
from functools import cache
from operator import ge, gt, le
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from selfspec.benchmarks.prepare import prepare_all
from selfspec.config import Config, DomainConfig, freeze
from selfspec.errors import UserError, nearest
from selfspec.launch.resources import devices_of
from selfspec.models import nf4, weights
from selfspec.planning import devices
from selfspec.records import KINDS, read_all_questions, read_questions, read_seeds, read_texts, split
from selfspec.scoring import harness
from selfspec.store import writing
from selfspec.tuning import limits

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
AT_LEAST = {
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
ABOVE = {
    "throughput.generated": 0,
    "throughput.read": 0,
    "throughput.tuned": 0,
    "generation.instructions.temperature": 0,
    "generation.instructions.top_p": 0,
    "generation.self_consistency.temperature": 0,
    "rounds.plausible": 0,
}
AT_MOST = {
    "generation.instructions.top_p": 1,
    "generation.filters.novelty_threshold": 1,
    "generation.self_consistency.majority": 1,
    "generation.judge.least_auc": 1,
    "rounds.plausible": 1,
    "lora.dropout": 1,
    "tuning.warmup_ratio": 1,
}


@cache
def _tell(note: str) -> None:
    """Say something once, also when a sweep's jobs all come to it."""
    print(note, file=sys.stderr)


def enter(composed: DictConfig) -> Config:
    """The frozen config of one experiment, checked.

    Raises:
        UserError: the first thing that is wrong, in one sentence.
    """
    try:
        config = freeze(composed)
    except Exception as error:
        _compare(OmegaConf.to_container(composed), Config, "")  # an unknown key is told before anything else
        if isinstance(error, MissingMandatoryValue):
            raise UserError(f"{error.full_key} has no value; give one with {error.full_key}=....") from None
        raise
    launcher = HydraConfig.get().launcher if HydraConfig.initialized() else {}
    config = _prepared(checked(config, devices_of("adapter", launcher)))
    _check_data(config)
    if config.plan:  # of what may be done elsewhere
        return config
    sharing, neighbours = devices.shares(launcher)
    if sharing:  # else each stage looks at its own node
        devices.check(config, processes=sharing, neighbours=neighbours)
        limits.check_device(config.strategy)
    weights.check(config.model)
    if config.model.quantization == "nf4":
        nf4.check()
    limits.check_installed(config.strategy)
    return config


def checked(config: Config, processes: int = 1) -> Config:
    """The config with absolute paths; every value is one that is allowed where so many processes share an adapter.

    Raises:
        UserError: the first that is not.
    """
    config = _filled(_absolute(config))
    _check_values(config)
    limits.check_choice(config.strategy, config.model, config.lora, processes)
    return config


def _prepared(config: Config) -> Config:
    """With the files of the public sets that `evaluation.sets` names, and the corpus and the harness at hand."""
    harness.check(config.evaluation)
    evaluation, domain = config.evaluation, config.evaluation.domain
    if not evaluation.sets or domain is None:
        return config
    sets, notes = prepare_all(evaluation, domain.name, Path(config.paths.cache))
    for note in notes:
        _tell(note)
    files = (*evaluation.files, *(str(item.questions) for item in sets))
    shown = tuple(str(item.shots) for item in sets if item.shots)
    return replace(config, evaluation=replace(evaluation, files=files, shown=shown, notes=tuple(notes)))


def _filled(config: Config) -> Config:
    """Scored is the experiment's own domain, unless another is named; its shots come from all of its shown seeds."""
    domain = config.evaluation.domain or config.domain
    evaluation = replace(config.evaluation, domain=replace(domain, seed_count=None))
    return replace(config, evaluation=evaluation)


def _compare(found: Any, schema: Any, place: str) -> None:
    """Refuse a key that the schema does not know: Hydra lets `+lora.rr=4` through."""
    if not dataclasses.is_dataclass(schema) or not isinstance(found, dict):
        return
    hints = typing.get_type_hints(schema)
    for name, value in found.items():
        if name not in hints:
            raise UserError(_unknown_key(f"{place}{name}", hints, place))
        _compare(value, hints[name], f"{place}{name}.")


def _unknown_key(key: str, allowed: typing.Iterable[str], place: str) -> str:
    name = key.rpartition(".")[2]
    where = place.rstrip(".") or "the config"
    return f"There is no key {key}; {nearest(name, allowed)}{where} has: {', '.join(sorted(allowed))}."


def _absolute(config: Config) -> Config:
    """Paths as a user typed them are relative to where they were typed."""
    evaluation = replace(
        config.evaluation,
        files=tuple(str(_path(file)) for file in config.evaluation.files),
        tasks_path=_maybe(config.evaluation.tasks_path),
        sets={name: replace(item, path=_maybe(item.path)) for name, item in config.evaluation.sets.items()},
    )
    retrieval = config.retrieval
    if retrieval.corpus and _path(retrieval.corpus).exists():  # not a hub's name, nor an embedded one
        retrieval = replace(retrieval, corpus=_maybe(retrieval.corpus))
    if evaluation.domain:
        evaluation = replace(evaluation, domain=_absolute_domain(evaluation.domain))
    against = dict.fromkeys(str(_path(file)) for file in config.generation.contamination.against)
    generation = replace(
        config.generation, contamination=replace(config.generation.contamination, against=tuple(sorted(against)))
    )
    model = replace(config.model, path=str(_path(config.model.path))) if config.model.path else config.model
    names = ("store", "cache", "output")
    paths = replace(config.paths, **{name: str(_path(getattr(config.paths, name))) for name in names})
    return replace(
        config,
        domain=_absolute_domain(config.domain),
        general=_absolute_domain(config.general),
        model=model,
        paths=paths,
        evaluation=evaluation,
        generation=generation,
        retrieval=retrieval,
    )


def _absolute_domain(domain: DomainConfig) -> DomainConfig:
    return replace(domain, seeds=str(_path(domain.seeds)), evaluation=str(_path(domain.evaluation)))


def _maybe(text: str | None) -> str | None:
    return str(_path(text)) if text else None


def _path(text: str) -> Path:
    return Path(text).expanduser().absolute()


def _value(config: Config, key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _check_values(config: Config) -> None:
    for key, allowed in CHOICES.items():
        value = _value(config, key)
        if value not in allowed:
            raise UserError(f"{key}={value} is none of {', '.join(allowed)}; {nearest(str(value), allowed)}choose one.")
    for bounds, right, words in ((AT_LEAST, ge, "at least"), (ABOVE, gt, "more than"), (AT_MOST, le, "at most")):
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


def _check_data(config: Config) -> None:
    """Seeds and questions are read once now, so that a bad line stops nobody halfway."""
    for path in map(Path, config.generation.contamination.against):
        read_texts(path)
    for domain in {id(domain): domain for domain in _domains(config)}.values():
        read_questions(Path(domain.evaluation), domain.tasks)
        check_split(config, domain)
    if config.evaluation.domain and config.evaluation.files:
        read_all_questions([Path(file) for file in config.evaluation.files], config.evaluation.domain.tasks)


def _domains(config: Config) -> list[DomainConfig]:
    """Those whose files a run reads."""
    general = [config.general] if config.baselines.generic or config.baselines.off_domain else []
    return [config.domain, *([config.evaluation.domain] if config.evaluation.domain else []), *general]


def check_split(config: Config, domain: DomainConfig) -> None:
    """Refuse fewer shown seeds than a prompt needs."""
    seeds = read_seeds(Path(domain.seeds), domain.tasks)
    shown, held_out = split(seeds)
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


def explain(error: Exception, folders: list[Path]) -> str:  # noqa: PLR0911 (a ladder of kinds of errors)
    """One sentence for an error on the way to the experiment: the key, the value, what is allowed, what to type."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MissingConfigException):
        return _unknown_option(error, folders)
    if isinstance(error, OverrideParseException):
        return (
            f"'{error.override}' can't be read as an override; write key=value, with quotes around special characters."
        )
    cause = error.__cause__ if isinstance(error, ConfigCompositionException) and error.__cause__ else error
    if isinstance(cause, OmegaConfBaseException):
        return _config_error(cause)
    if isinstance(error, HydraException):
        return " ".join(str(error).split())
    try:
        with writing(Path()):
            raise error
    except UserError as told:
        return str(told)
    except Exception as unknown:
        return f"{type(unknown).__name__}: {unknown} (this is a fault of selfspec; HYDRA_FULL_ERROR=1 shows where)"


def _unknown_option(error: MissingConfigException, folders: list[Path]) -> str:
    missing = (error.missing_cfg_file or "").removesuffix(".yaml")
    if missing == "hydra/sweeper/optuna":
        return "hydra/sweeper=optuna is not installed; get it with: pip install -e '.[optuna]' -c constraints.txt"
    group, _, option = missing.rpartition("/")
    options = sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})
    if not group or not options:
        groups = sorted({path.name for folder in folders for path in folder.iterdir() if path.is_dir()})
        return f"There is no group or file '{missing}'; {nearest(missing, groups)}groups are {', '.join(groups)}."
    return f"There is no {group}={option}; {nearest(option, options)}{group} is one of {', '.join(options)}."


def _config_error(error: OmegaConfBaseException) -> str:
    key = error.full_key or str(error.key or "")
    if isinstance(error, ConfigAttributeError | ConfigKeyError):
        schema: Any = Config
        *above, _ = key.split(".")
        for name in above:
            schema = typing.get_type_hints(schema).get(name) if dataclasses.is_dataclass(schema) else None
        if dataclasses.is_dataclass(schema):
            names = [item.name for item in dataclasses.fields(schema)]
            return _unknown_key(key, names, ".".join(above) + "." if above else "")
    problem = " ".join(str(error.msg or error).split("full_key")[0].split())
    return f"{key}: {problem}; give another value with {key}=...."
