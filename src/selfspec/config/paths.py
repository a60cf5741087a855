"""Paths of a config, made absolute: relative ones start at the folder where the command was typed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from selfspec.config.schema import Config, DomainConfig

PATH_KEYS = re.compile(  # of values that are relative to the folder where the command is typed
    r"paths\.\w+|model\.path|retrieval\.corpus|generation\.contamination\.against|"
    r"(domain|general|evaluation\.domain)\.(seeds|evaluation|corpus)|evaluation\.(files|tasks_path|sets\.\w+\.path)"
)
PATH_IN_VALUE = re.compile(r"[^\[\],'\"]+")  # the value is a path, or a list of paths


def make_paths_absolute(config: Config) -> Config:
    """The config with absolute paths."""
    evaluation = replace(
        config.evaluation,
        files=tuple(str(_path(file)) for file in config.evaluation.files),
        tasks_path=_optional_path(config.evaluation.tasks_path),
        sets={name: replace(item, path=_optional_path(item.path)) for name, item in config.evaluation.sets.items()},
    )
    retrieval = config.retrieval
    corpus = retrieval.corpus
    if isinstance(corpus, str) and _path(corpus).exists():  # else it names a hub dataset or embedded corpus
        retrieval = replace(retrieval, corpus=str(_path(corpus)))
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


def with_absolute_path(override: str) -> str:
    """An override with the paths in its value made absolute, so that it can be typed in another folder."""
    key, _, value = override.partition("=")
    if not PATH_KEYS.fullmatch(key.lstrip("+")):
        return override
    is_path = key.lstrip("+").startswith("paths.")  # others may be null, or name a dataset of the hub

    def absolute(match: re.Match[str]) -> str:
        return str(_path(match[0])) if is_path or _path(match[0]).exists() else match[0]

    return f"{key}={PATH_IN_VALUE.sub(absolute, value)}"


def _absolute_domain(domain: DomainConfig) -> DomainConfig:
    return replace(domain, seeds=str(_path(domain.seeds)), evaluation=str(_path(domain.evaluation)))


def _optional_path(text: str | None) -> str | None:
    return str(_path(text)) if text else None


def _path(text: str) -> Path:
    return Path(text).expanduser().absolute()
