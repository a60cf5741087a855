"""How far a sweep is: its jobs and stages, from `sweep.json`, `stages.json`, the jobs' folders and the store.

Everything but `sweep.json` may be missing or half-written: what can't be read is not done.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from selfspec.errors import UserError

Place = tuple[str, int, str, str]  # a model or a difference of two ("specialized - base"), shots, measure, task


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% interval, as far as there is one."""

    value: float
    low: float | None
    high: float | None

    @property
    def clear(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class StageState:
    """One distinct stage, and the jobs that share it."""

    key: str
    name: str
    label: str
    jobs: tuple[int, ...]
    state: str  # done (the store has it), not done, or as stages.json has it
    message: str
    seconds: float | None
    where: str  # "job 123 on node2"
    log: str

    @property
    def saved(self) -> float | None:
        """Seconds that sharing saved: every other job would have made it again."""
        return self.seconds * max(0, len(self.jobs) - 1) if self.state == "done" and self.seconds is not None else None


@dataclass(frozen=True)
class JobState:
    """One job: what was chosen, and its scores or why there are none."""

    number: int
    overrides: tuple[str, ...]
    choices: Mapping[str, Any]
    runs: int  # stages that it would run by itself
    page: str  # its own report, as a relative link
    state: str  # done, failed, cancelled, running, waiting, missing
    message: str
    log: str
    estimates: Mapping[Place, Estimate]
    measures: Mapping[str, str]  # name -> heading in tables
    chance: float | None  # what guessing gives on closed labels

    def at(self, model: str, shots: int, measure: str, task: str = "all") -> Estimate | None:
        """What was measured at a place."""
        return self.estimates.get((model, shots, measure, task))


@dataclass(frozen=True)
class SweepState:
    """A sweep as it lies on the disk."""

    folder: Path
    jobs: tuple[JobState, ...]
    stages: tuple[StageState, ...]

    @property
    def used(self) -> float:
        """Seconds that the stages took, failed ones too."""
        return sum(stage.seconds or 0.0 for stage in self.stages)

    @property
    def saved(self) -> float:
        """Seconds that sharing saved."""
        return sum(stage.saved or 0.0 for stage in self.stages)


def read_sweep(folder: Path) -> SweepState:
    """Everything that a sweep's report is drawn from.

    Raises:
        UserError: the folder is not one of a sweep.
    """
    folder = folder.absolute()
    record = _json(folder / "sweep.json")
    if "jobs" not in record or "stages" not in record:
        raise UserError(f"{folder} has no readable sweep.json; give the folder of a sweep, multirun/<date>/<time>.")
    told = _json(folder / "stages.json")
    shared: dict[str, list[int]] = {}
    for job in record["jobs"]:
        for place in job["stages"].values():
            shared.setdefault(place.split("/")[-1], []).append(job["number"])
    stages = {
        key: _stage(key, stage, Path(record["store"]), shared.get(key, []), told.get(key) or {}, folder)
        for key, stage in record["stages"].items()
    }
    return SweepState(folder, tuple(_job(job, stages, folder) for job in record["jobs"]), tuple(stages.values()))


def _stage(
    key: str, record: Mapping[str, str], store: Path, jobs: Sequence[int], told: Mapping[str, Any], folder: Path
) -> StageState:
    # Hashing every file again, as the store does before it uses an output, is too slow for a report.
    manifest = _json(store / record["name"] / key / "manifest.json")
    state = "done" if manifest else str(told.get("state") or "not done")
    if not manifest and state in ("done", "stored"):
        state = "not done"  # it was removed since
    number, host = told.get("job") or "", told.get("host") or ""
    return StageState(
        key=key,
        name=record["name"],
        label=record["label"],
        jobs=tuple(jobs),
        state=state,
        message="" if manifest else str(told.get("message") or ""),
        seconds=_finite(manifest.get("seconds") if manifest else told.get("seconds") or None),
        where=" ".join([*(["job", str(number)] if number else []), *(["on", str(host)] if host else [])]),
        log=_near(str(told.get("log") or ""), folder),
    )


def _job(record: Mapping[str, Any], stages: Mapping[str, StageState], sweep: Path) -> JobState:
    folder = Path(record["folder"])
    if not folder.exists():  # the sweep's folder was moved, or copied from another machine
        folder = sweep / folder.name
    mine = [stages[key] for place in record["stages"].values() if (key := place.split("/")[-1]) in stages]
    report = _json(folder / "results.json")
    estimates = _estimates(report)
    state, told, log = ("done", "", "") if estimates else _why(folder, mine, sweep)
    chances = [line["chance"] for line in (report.get("lines") or {}).values()] if estimates else []
    page = folder / "report.html"
    return JobState(
        number=record["number"],
        overrides=tuple(record["overrides"]),
        choices=record["choices"],
        runs=len(record["stages"]),
        page=quote(os.path.relpath(page, sweep)) if page.exists() else "",
        state=state,
        message=told,
        log=log,
        estimates=estimates,
        measures=report.get("measures") or {},
        chance=sum(chances) / len(chances) if chances else None,
    )


def _why(folder: Path, stages: Sequence[StageState], sweep: Path) -> tuple[str, str, str]:
    """(state, reason, log) of a job without results."""
    error = _json(folder / "error.json")
    lost = [stage for state in ("failed", "cancelled") for stage in stages if stage.state == state]
    fallback = "sweep.log" if (sweep / "sweep.log").exists() else ""
    log = next((stage.log for stage in lost if stage.log), fallback)
    if error.get("what"):
        return "failed", str(error["what"]), log
    if lost:
        return lost[0].state, f"{lost[0].label} {lost[0].state}{': ' if lost[0].message else ''}{lost[0].message}", log
    left = [stage for stage in stages if stage.state != "done"]
    if left:
        first = next((stage for stage in left if stage.state == "running"), left[0])
        state = {"running": "running", "not done": "missing"}.get(first.state, "waiting")
        return state, f"waiting for {first.label} ({', '.join(filter(None, [first.state, first.where]))})", first.log
    what = "can't be read" if (folder / "results.json").exists() else "is not written"
    return "missing", f"Its stages are done, but its results.json {what}; the same command writes it.", ""


def _estimates(report: Mapping[str, Any]) -> dict[Place, Estimate]:
    """Scores and differences by place; nothing of a file that is not a whole report."""
    found = {}
    try:
        for row in [*report["scores"], *report["differences"]]:
            model = f"{row['model']} - {row['minus']}" if "minus" in row else row["model"]
            value = _finite(row["value"])
            if value is not None:
                place = (str(model), int(row["shots"]), str(row["measure"]), str(row["task"]))
                found[place] = Estimate(value, _finite(row["low"]), _finite(row["high"]))
    except (KeyError, TypeError, ValueError):
        return {}
    return found


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _near(path: str, folder: Path) -> str:
    """A path below the sweep's folder as seen from there."""
    return str(Path(path).relative_to(folder)) if path and Path(path).is_relative_to(folder) else path


def _json(path: Path) -> dict[str, Any]:
    """A file's object; empty if it is missing, half-written or something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
