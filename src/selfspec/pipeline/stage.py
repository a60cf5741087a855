"""Stages: their declaration, versions, and the functions that run them."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from selfspec.config.schema import Config

# Raise one when what its stage makes changes.
VERSIONS = {"index": 1, "examples": 5, "round_examples": 4, "adapter": 4, "scores": 3, "harness": 3}


DISTRIBUTED = (
    "examples",
    "round_examples",
    "adapter",
    "scores",
)  # several processes share them; others take one device


# The stage whose SLURM request and memory estimate a stage uses.
RESOURCE_KIND = {
    "index": "index",
    "examples": "examples",
    "round_examples": "examples",
    "adapter": "adapter",
    "scores": "scores",
    "harness": "scores",
}


Files = Path | tuple[Path, ...]


@dataclass(frozen=True)
class Stage:
    """One node of the graph."""

    name: str  # the function in selfspec.stages
    label: str  # for people: "adapter (seeds only)"
    key: str
    config: Config  # which its sections are of: a baseline's differs from the experiment's
    slice: Mapping[str, Any]  # what of the config can change the result
    inputs: Mapping[str, str]  # input -> key of its stage, or hash of its files
    parents: tuple[Stage, ...]
    files: Mapping[str, Files]  # inputs that are files of the user


@dataclass(frozen=True)
class Pipeline:
    """A config's stages, in an order in which they can run, and what each is for."""

    stages: tuple[Stage, ...]
    rounds: tuple[tuple[Stage, Stage], ...]  # (examples, adapter) of each round of self-specialization
    adapters: Mapping[str, Stage]  # by model: seeds_only, generic, specialized
    scores: Mapping[str, Stage]  # by model: base and the adapters
    off_domain: Mapping[str, Stage]  # scores of base and specialized on the general questions
    harness: Mapping[str, Stage]  # of base and specialized, on tasks of lm-evaluation-harness


def stage_function(stage_name: str) -> Callable[..., dict[str, Any]]:
    """The function of a stage."""
    module = importlib.import_module(f"selfspec.stages.{stage_name}")
    return getattr(module, stage_name)  # type: ignore[no-any-return]


def stage_sections(stage: Stage) -> dict[str, Any]:
    """The sections of its config that a stage's signature asks for."""
    return {name: getattr(stage.config, name) for name in _sections(stage.name)}


@cache
def _sections(stage_name: str) -> tuple[str, ...]:
    """Names of the sections in a stage's signature."""
    names = {item.name for item in fields(Config)} & set(inspect.signature(stage_function(stage_name)).parameters)
    return tuple(sorted(names))
