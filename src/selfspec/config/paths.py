"""Paths of a config, made absolute: relative ones start at the folder where the command was typed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from selfspec.config.schema import Config, DomainConfig


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


def _absolute_domain(domain: DomainConfig) -> DomainConfig:
    return replace(domain, seeds=str(_path(domain.seeds)), evaluation=str(_path(domain.evaluation)))


def _optional_path(text: str | None) -> str | None:
    return str(_path(text)) if text else None


def _path(text: str) -> Path:
    return Path(text).expanduser().absolute()
