"""How long stages take: by the config's throughput, else as finished stages of the same model in the store took."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfspec.config.hashing import digest
from selfspec.generation.pools import BLOCK_SIZE, pool_keys
from selfspec.planning.work import ASSUMED_PASS_RATE, Work
from selfspec.runtime.stage import Stage

MAX_MANIFESTS = 50  # finished stages of a kind, and blocks of a pool, that are read


UNITS = {"adapter": "tokens", "scores": "answers"}  # what the counts of a manifest are timed by


FROM_CONFIG = "the config's throughput"


@dataclass
class FinishedRuns:
    """What finished stages of a store tell: seconds a unit of work, and how many attempts passed."""

    root: Path
    seconds: dict[tuple[str, str], list[float]] = field(default_factory=dict)  # (kind, model) -> [seconds, units]
    stages: dict[tuple[str, str], int] = field(default_factory=dict)
    yields: dict[str, tuple[int, int]] = field(default_factory=dict)  # pool -> (examples, attempts) of the largest

    def __post_init__(self) -> None:
        """Read the newest manifests of each kind."""
        for kind in ("examples", "round_examples", "adapter", "scores"):
            for manifest in self._manifests(self.root / kind, "*"):
                self._note(kind, manifest)

    def _manifests(self, folder: Path, pattern: str) -> Iterator[dict[str, Any]]:
        found = sorted(folder.glob(f"{pattern}/manifest.json"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in found[:MAX_MANIFESTS]:
            try:
                yield json.loads(path.read_text())
            except (OSError, ValueError):
                continue  # damaged: the store sets it aside when it is asked for

    def _note(self, kind: str, manifest: Mapping[str, Any]) -> None:
        try:
            taken, counts = manifest["values"], manifest["counts"]
            name = (kind, _model(taken))
            if kind in UNITS:
                self._add(name, manifest["seconds"], counts[UNITS[kind]])
                return
            pool = _pool(kind, taken, manifest["inputs"])
            largest = self.yields.get(pool, (0, 0))
            self.yields[pool] = max(largest, (counts["examples"], counts["attempts"]))
            if largest == (0, 0):  # its blocks are counted once: a stage's own seconds leave out those that it found
                self._add(name, *self._blocks(taken, manifest["inputs"]))
        except (KeyError, TypeError, ValueError):
            return  # of another version

    def _add(self, name: tuple[str, str], seconds: float, units: float) -> None:
        if units and seconds:
            before = self.seconds.get(name, [0.0, 0.0])
            self.seconds[name] = [before[0] + seconds, before[1] + units]
            self.stages[name] = self.stages.get(name, 0) + 1

    def _blocks(self, taken: Mapping[str, Any], inputs: Mapping[str, str]) -> tuple[float, float]:
        """(seconds, attempts) of the blocks of a pool."""
        seconds, attempts = 0.0, 0
        for name, key in pool_keys(taken, inputs).items():
            blocks = list(self._manifests(self.root / name, f"{key}-*"))
            seconds += sum(block["seconds"] for block in blocks)
            attempts = max(attempts, BLOCK_SIZE * len(blocks)) if name == "responses" else attempts
        return seconds, attempts

    def passing(self, stage: Stage) -> tuple[float, str]:
        """(share of the attempts that passes, whence that is known)."""
        examples, attempts = self.yields.get(_pool(stage.name, stage.values, stage.inputs), (0, 0))
        if attempts:
            return examples / attempts, f"{examples} of {attempts} attempts passed in the same pool"
        return ASSUMED_PASS_RATE, f"{ASSUMED_PASS_RATE:.0%} of the attempts pass, as assumed"

    def hours(self, stage: Stage, todo: Work, devices: int) -> tuple[float | None, str]:
        """(hours of a stage, whence), or None where nothing is known."""
        given = stage.config.throughput
        rates = ((todo.generated, given.generated), (todo.read, given.read), (todo.tuned, given.tuned))
        if todo.units and all(rate for tokens, rate in rates if tokens):
            seconds = sum(tokens / rate for tokens, rate in rates if tokens and rate)
            return seconds / devices / 3600, FROM_CONFIG
        name = (stage.name, _model(stage.values)) if "model" in stage.values else ("", "")
        if name not in self.seconds or not todo.units:
            return None, ""
        seconds, units = self.seconds[name]
        return todo.units * seconds / units / 3600, f"{self.stages[name]} finished {stage.name}"


def _model(taken: Mapping[str, Any]) -> str:
    """What makes two stages run the same model, as fast."""
    model = taken["model"]
    numbers = [model["architecture"], *(model.get(name) for name in ("toy", "dtype", "quantization"))]
    return digest([taken["weights"], *numbers])


def _pool(kind: str, taken: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """What the sizes of one pool share."""
    return digest([kind, {name: value for name, value in taken.items() if name != "data_size"}, dict(inputs)])
