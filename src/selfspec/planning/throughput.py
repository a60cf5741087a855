"""The time of stages: from `throughput` in the config, or from finished stages of the same model in the store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfspec.config.hashing import digest
from selfspec.data.jsonl import read_object
from selfspec.generation.pools import BLOCK_SIZE, pool_keys
from selfspec.planning.work import ASSUMED_PASS_RATE, Work
from selfspec.runtime.stage import Stage

MAX_MANIFESTS = 50  # that are read for each kind of stage, and for the blocks of each pool
UNIT_COUNTS = {"adapter": "tokens", "scores": "answers"}  # the count in a manifest that is the stage's unit of work
FROM_CONFIG = "the config's throughput"


@dataclass
class FinishedRuns:
    """What the finished stages of a store measured: seconds a unit of work, and the share of attempts that passed."""

    root: Path
    seconds: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)  # (kind, model): (seconds, units)
    num_stages: dict[tuple[str, str], int] = field(default_factory=dict)  # (kind, model)
    pass_counts: dict[str, tuple[int, int]] = field(default_factory=dict)  # pool: (examples, attempts) of the largest

    def __post_init__(self) -> None:
        """Read the newest manifests of each kind of stage."""
        for kind in ("examples", "round_examples", "adapter", "scores"):
            for manifest in self._read_manifests(self.root / kind, "*"):
                self._add_manifest(kind, manifest)

    def _read_manifests(self, folder: Path, pattern: str) -> Iterator[dict[str, Any]]:
        paths = sorted(folder.glob(f"{pattern}/manifest.json"), key=lambda path: path.stat().st_mtime, reverse=True)
        yield from map(read_object, paths[:MAX_MANIFESTS])  # one that can't be read is empty, and not counted

    def _add_manifest(self, kind: str, manifest: Mapping[str, Any]) -> None:
        try:
            values, counts = manifest["values"], manifest["counts"]
            kind_and_model = (kind, _model_key(values))
            if kind in UNIT_COUNTS:
                self._add_seconds(kind_and_model, manifest["seconds"], counts[UNIT_COUNTS[kind]])
                return
            pool = _pool_key(kind, values, manifest["inputs"])
            largest = self.pass_counts.get(pool, (0, 0))
            self.pass_counts[pool] = max(largest, (counts["examples"], counts["attempts"]))
            # Seconds are those of the pool's blocks, added once a pool: a stage's own exclude the blocks it reused.
            if largest == (0, 0):
                self._add_seconds(kind_and_model, *self._pool_seconds(values, manifest["inputs"]))
        except (KeyError, TypeError, ValueError):
            return  # written by another version

    def _add_seconds(self, kind_and_model: tuple[str, str], seconds: float, units: float) -> None:
        if units and seconds:
            total_seconds, total_units = self.seconds.get(kind_and_model, (0.0, 0.0))
            self.seconds[kind_and_model] = (total_seconds + seconds, total_units + units)
            self.num_stages[kind_and_model] = self.num_stages.get(kind_and_model, 0) + 1

    def _pool_seconds(self, values: Mapping[str, Any], inputs: Mapping[str, str]) -> tuple[float, float]:
        """(seconds, attempts) of all blocks of an examples stage's pools."""
        seconds, attempts = 0.0, 0
        for name, key in pool_keys(values, inputs).items():
            blocks = list(self._read_manifests(self.root / name, f"{key}-*"))
            seconds += sum(block["seconds"] for block in blocks)
            attempts = max(attempts, BLOCK_SIZE * len(blocks)) if name == "responses" else attempts
        return seconds, attempts

    def pass_rate(self, stage: Stage) -> tuple[float, str]:
        """(share of the attempts that pass the filters, a sentence on its source)."""
        examples, attempts = self.pass_counts.get(_pool_key(stage.name, stage.values, stage.inputs), (0, 0))
        if attempts:
            return examples / attempts, f"{examples} of {attempts} attempts passed in the same pool"
        return ASSUMED_PASS_RATE, f"{ASSUMED_PASS_RATE:.0%} of the attempts pass, as assumed"

    def estimate_hours(self, stage: Stage, work: Work, devices: int) -> tuple[float | None, str]:
        """(hours of a stage or None if unknown, the source of the estimate).

        Args:
            stage: The stage.
            work: What is left to do of it.
            devices: That it runs on; only the config's throughput is of one device.
        """
        rates = stage.config.throughput
        terms = ((work.generated, rates.generated), (work.read, rates.read), (work.tuned, rates.tuned))
        if work.units and all(rate for tokens, rate in terms if tokens):
            seconds = sum(tokens / rate for tokens, rate in terms if tokens and rate)
            return seconds / devices / 3600, FROM_CONFIG
        kind_and_model = (stage.name, _model_key(stage.values)) if "model" in stage.values else ("", "")
        if kind_and_model not in self.seconds or not work.units:
            return None, ""
        seconds, units = self.seconds[kind_and_model]
        return work.units * seconds / units / 3600, f"{self.num_stages[kind_and_model]} finished {stage.name}"


def _model_key(values: Mapping[str, Any]) -> str:
    """A hash of what decides how fast a model runs."""
    model = values["model"]
    settings = [model.get(name) for name in ("toy", "dtype", "quantization")]
    return digest([values["weights"], model["architecture"], *settings])


def _pool_key(kind: str, values: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """A hash that the data sizes of one pool share."""
    return digest([kind, {name: value for name, value in values.items() if name != "data_size"}, dict(inputs)])
