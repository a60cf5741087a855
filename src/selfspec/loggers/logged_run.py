"""What a logger records of a run: id, name, tags, group and the flat configuration."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from selfspec import __version__
from selfspec.config.schema import Config
from selfspec.runtime.code_snapshot import git_commit
from selfspec.runtime.stage import Stage

MAX_TAG_CHARACTERS = 64  # W&B refuses longer ones
MAX_NAME_CHARACTERS = 128
SECTIONS_NOT_LOGGED = ("paths", "logger")
_SECRET_KEY = re.compile(r"(?:^|[._])(?:api_?key|key|token|secret|password|credentials?)$", re.IGNORECASE)
_PATH = re.compile(r"(?:^|[\s\"'=(:,\[])(?:~|\.{1,2})?/(?=[^/\s])")  # at the start or inside a text; no URL


@dataclass(frozen=True)
class LoggedRun:
    """One run of a logger: an adapter's curve, or a job's result."""

    id: str  # derived from stage keys: a resumed stage continues the same run
    name: str
    job_type: str  # tune, result
    folder_name: str  # unique among the runs of a job
    config: Mapping[str, Any]  # flat


def tune_run(config: Config, stage: Stage) -> LoggedRun:
    """The run of an adapter's curve.

    Args:
        config: The job that tunes the adapter.
        stage: The adapter's stage.
    """
    facts = {
        "stage.label": stage.label,
        "stage.key": stage.key,
        **{f"stage.inputs.{name}": key for name, key in stage.inputs.items()},
    }
    overrides = " ".join(overrides_of_stage(config.logger.job_overrides, stage))
    name = join_name(config.logger.run_name, overrides, stage.label)
    return LoggedRun(stage.key, name, "tune", config_key(stage.label), {**flat_config(stage.config), **facts})


def join_name(*parts: str | None) -> str:
    """The parts that are not empty, at most `MAX_NAME_CHARACTERS` together."""
    return shorten_text(", ".join(filter(None, parts)), MAX_NAME_CHARACTERS)


def run_tags(config: Config) -> list[str]:
    """The job's choices, and the tags of `logger.tags`."""
    choices = [
        config.domain.name,
        config.model.name,
        f"examples={config.data_size.examples}",
        f"r={config.lora.r}",
    ]
    return list(dict.fromkeys([*(shorten_text(text, MAX_TAG_CHARACTERS) for text in choices), *config.logger.tags]))


def shorten_text(text: str, max_characters: int) -> str:
    """`text`, its end replaced by an ellipsis where it is too long."""
    return text if len(text) <= max_characters else text[: max_characters - 1] + "…"


def flat_config(config: Config) -> dict[str, Any]:
    """The configuration by dotted keys, without paths, secrets, and the settings of loggers."""
    values = {
        key: value
        for key, value in _flatten("", dataclasses.asdict(config))
        if key.partition(".")[0] not in SECTIONS_NOT_LOGGED and not is_secret_key(key) and not _has_path(value)
    }
    return {**values, "selfspec.version": __version__, "selfspec.commit": git_commit()}


def is_secret_key(key: str) -> bool:
    """Whether a key names a password, a token or the like."""
    return bool(_SECRET_KEY.search(key))


def config_key(label: str) -> str:
    """A stage's label as part of a configuration key: `adapter (seeds only)` becomes `adapter_seeds_only`."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", label).strip("_")


def _flatten(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list | tuple) and any(isinstance(item, dict) for item in value):
        value = dict(enumerate(value))
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _flatten(f"{key}.{name}" if key else str(name), item)
    else:
        yield key, list(value) if isinstance(value, tuple) else value


def _has_path(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_has_path, value))
    return isinstance(value, str) and bool(_PATH.search(value))


def overrides_of_stage(overrides: Iterable[str], stage: Stage) -> list[str]:
    """Those that can change the stage's output: several jobs of a sweep may share it."""
    used = _sections_used(stage)
    unused = {item.name for item in dataclasses.fields(Config)} - used
    return [text for text in overrides if re.split(r"[=.@/]", text.lstrip("+~"), maxsplit=1)[0] not in unused]


def _sections_used(stage: Stage) -> set[str]:
    """Config sections that the stage and its ancestors declare."""
    return set(stage.sections()).union(*map(_sections_used, stage.parents))
