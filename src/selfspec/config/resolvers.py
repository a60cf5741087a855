"""Resolvers that `conf/` uses as `${selfspec.NAME:}`, registered before Hydra starts."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from selfspec.config.hashing import digest

PROJECT_VARIABLE = "SELFSPEC_PROJECT"  # tells processes of other launchers (joblib, submitit) where conf/ is
SECTIONS_NOT_IN_SLUG = ("hydra", "paths", "logger", "plan", "force", "throughput")  # the same experiment without them


def register_resolvers(project: Path) -> None:
    """Register all resolvers; `project` is the folder that contains conf/."""
    os.environ[PROJECT_VARIABLE] = str(project)
    domains = Path(__file__).parents[1] / "domains"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "selfspec"
    OmegaConf.register_new_resolver("selfspec.project", lambda name: str(project / name), replace=True)
    OmegaConf.register_new_resolver("selfspec.domains", lambda name: str(domains / name), replace=True)
    shipped = sorted(str(path) for path in domains.glob("*/evaluation.jsonl"))
    OmegaConf.register_new_resolver("selfspec.questions", lambda path: [path, *shipped], replace=True)
    OmegaConf.register_new_resolver("selfspec.cache", lambda: str(cache), replace=True)
    OmegaConf.register_new_resolver("selfspec.not", lambda value: not value, replace=True)
    OmegaConf.register_new_resolver("selfspec.slug", slug, replace=True)


def register_resolvers_from_environment() -> None:
    """Register the resolvers in a process that another launcher started, which has a config but no project folder."""
    if project := os.environ.get(PROJECT_VARIABLE):
        register_resolvers(Path(project))


def slug(*, _root_: DictConfig) -> str:
    """`biomedicine-gemma-3-270m-64-r8-1f0e9c2a`: the main choices, and a hash of all values."""
    sections = {name: _root_[name] for name in _root_ if name not in SECTIONS_NOT_IN_SLUG}
    plain: dict[str, Any] = {
        str(name): OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        for name, value in sections.items()
    }
    toy = ["toy"] if plain["model"]["toy"] else []
    parts = [plain["domain"]["name"], plain["model"]["name"], *toy, plain["data_size"]["examples"]]
    name = "-".join(map(str, [*parts, f"r{plain['lora']['r']}", digest(plain)[:8]]))
    return re.sub(r"[^A-Za-z0-9.-]+", "_", name)
