"""Hyperparameters of an adapter as flat plain values, for `save_hyperparameters` and so for every Lightning logger."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from selfspec.config.schema import Config

Plain = str | int | float | bool | None


def adapter_hyperparameters(config: Config) -> dict[str, Plain]:
    """What an adapter is tuned with, by dotted key; no paths, no secrets.

    Of an objective of one's own only the name of its class is given, since its arguments may be paths.
    """
    objective = config.objective
    values = {
        "domain": {"name": config.domain.name, "seed_count": config.domain.seed_count},
        "model": {name: getattr(config.model, name) for name in ("name", "dtype", "prompt", "quantization", "toy")},
        "data_size": asdict(config.data_size),
        "lora": asdict(config.lora),
        "objective": objective.get("_target_", objective.get("name")),
        "tuning": asdict(config.tuning),
        "trainer": config.trainer,
        "strategy": config.strategy.name,
        "seed": config.seed,
    }
    return dict(_flatten("", values))


def _flatten(key: str, value: Any) -> Iterator[tuple[str, Plain]]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _flatten(f"{key}.{name}" if key else str(name), item)
    elif isinstance(value, list | tuple):
        yield key, ",".join(map(str, value))
    else:
        yield key, value
