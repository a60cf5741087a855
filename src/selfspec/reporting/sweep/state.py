"""The state of a sweep: its jobs and stages, from `sweep.json`, `stages.json`, the jobs' folders and the store.

All files but `sweep.json` may be missing or half-written: what can't be read counts as not done.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from selfspec.data.jsonl import read_object
from selfspec.errors import UserError

# (model or difference of two models ("specialized - base"), shots, measure, task)
EstimateKey = tuple[str, int, str, str]


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% interval, if it has one."""

    value: float
    low: float | None
    high: float | None

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class StageState:
    """One distinct stage, and the jobs that share it."""

    key: str
    name: str
    label: str
    jobs: tuple[int, ...]
    state: str  # done (it is in the store), not done, or the state in stages.json
    message: str
    seconds: float | None
    where: str  # "job 123 on node2"
    log: str

    @property
    def seconds_saved(self) -> float | None:
        """Seconds saved by sharing: without it, each further job would have run the stage again."""
        return self.seconds * max(0, len(self.jobs) - 1) if self.state == "done" and self.seconds is not None else None


@dataclass(frozen=True)
class JobState:
    """One job: its choices, and its scores or the reason why there are none."""

    number: int
    overrides: tuple[str, ...]
    command: str  # repeats this job alone
    choices: Mapping[str, Any]
    num_stages: int
    page: str  # relative link to the job's own report
    state: str  # done, failed, cancelled, running, waiting, missing
    message: str
    log: str
    estimates: Mapping[EstimateKey, Estimate]
    measures: Mapping[str, str]  # name -> heading in tables
    chance: float | None  # score of guessing on closed labels
    held_out_loss: float | None  # of the specialized model on the held-out seeds, in nats a token

    @property
    def settings(self) -> dict[str, str]:
        """The job's overrides, value by key; of a key that is given twice the last one, as Hydra takes it."""
        pairs = (text.lstrip("+").partition("=") for text in self.overrides)
        return {key: value for key, _, value in pairs}

    def estimate(self, model: str, shots: int, measure: str, task: str = "all") -> Estimate | None:
        """The estimate with this key, or None."""
        return self.estimates.get((model, shots, measure, task))


@dataclass(frozen=True)
class SweepState:
    """The state of a sweep on disk."""

    folder: Path
    jobs: tuple[JobState, ...]
    stages: tuple[StageState, ...]

    @property
    def seconds_used(self) -> float:
        """Seconds that the stages took, failed ones included."""
        return sum(stage.seconds or 0.0 for stage in self.stages)

    @property
    def seconds_saved(self) -> float:
        """Seconds saved by sharing stages."""
        return sum(stage.seconds_saved or 0.0 for stage in self.stages)


def read_sweep(folder: Path) -> SweepState:
    """Read the state of the sweep in `folder`.

    Raises:
        UserError: the folder is not one of a sweep.
    """
    folder = folder.absolute()
    record = read_object(folder / "sweep.json")
    if "jobs" not in record or "stages" not in record:
        raise UserError(f"{folder} has no readable sweep.json; give the folder of a sweep, multirun/<date>/<time>.")
    states = read_object(folder / "stages.json")
    jobs_by_key: dict[str, list[int]] = {}
    for job in record["jobs"]:
        for path in job["stages"].values():
            jobs_by_key.setdefault(path.split("/")[-1], []).append(job["number"])
    stages = {
        key: _read_stage(key, stage, Path(record["store"]), jobs_by_key.get(key, []), states.get(key) or {}, folder)
        for key, stage in record["stages"].items()
    }
    jobs = tuple(_read_job(job, stages, folder) for job in record["jobs"])
    return SweepState(folder, jobs, tuple(stages.values()))


def _read_stage(
    key: str, record: Mapping[str, str], store: Path, jobs: Sequence[int], last: Mapping[str, Any], sweep: Path
) -> StageState:
    """The state of a stage, from the store and from what `stages.json` has of it (`last`)."""
    # Hashing every file again, as the store does before it uses an output, is too slow for a report.
    manifest = read_object(store / record["name"] / key / "manifest.json")
    state = "done" if manifest else str(last.get("state") or "not done")
    if not manifest and state in ("done", "stored"):
        state = "not done"  # the output was removed from the store
    job, host = last.get("job") or "", last.get("host") or ""
    return StageState(
        key=key,
        name=record["name"],
        label=record["label"],
        jobs=tuple(jobs),
        state=state,
        message="" if manifest else str(last.get("message") or ""),
        seconds=_finite(manifest.get("seconds") if manifest else last.get("seconds") or None),
        where=" ".join([*(["job", str(job)] if job else []), *(["on", str(host)] if host else [])]),
        log=_relative_path(str(last.get("log") or ""), sweep),
    )


def _read_job(record: Mapping[str, Any], stages: Mapping[str, StageState], sweep: Path) -> JobState:
    folder = Path(record["folder"])
    if not folder.exists():  # the sweep's folder was moved, or copied from another machine
        folder = sweep / folder.name
    job_stages = [stages[key] for path in record["stages"].values() if (key := path.split("/")[-1]) in stages]
    report = read_object(folder / "results.json")
    estimates = _estimates(report)
    state, message, log = ("done", "", "") if estimates else _explain_missing_results(folder, job_stages, sweep)
    chances = [task["chance"] for task in (report.get("closed_labels") or {}).values()] if estimates else []
    page = folder / "report.html"
    return JobState(
        number=record["number"],
        overrides=tuple(record["overrides"]),
        command=str(record.get("command") or report.get("command") or ""),
        choices=record["choices"],
        num_stages=len(record["stages"]),
        page=quote(os.path.relpath(page, sweep)) if page.exists() else "",
        state=state,
        message=message,
        log=log,
        estimates=estimates,
        measures=report.get("measures") or {},
        chance=sum(chances) / len(chances) if chances else None,
        held_out_loss=_finite(report.get("held_out_loss")),
    )


def _explain_missing_results(folder: Path, stages: Sequence[StageState], sweep: Path) -> tuple[str, str, str]:
    """(state, reason, log) of a job without results."""
    error = read_object(folder / "error.json")
    failed = [stage for state in ("failed", "cancelled") for stage in stages if stage.state == state]
    sweep_log = "sweep.log" if (sweep / "sweep.log").exists() else ""
    log = next((stage.log for stage in failed if stage.log), sweep_log)
    if error.get("what"):
        return "failed", str(error["what"]), log
    if failed:
        first = failed[0]
        return first.state, f"{first.label} {first.state}{': ' if first.message else ''}{first.message}", log
    undone = [stage for stage in stages if stage.state != "done"]
    if undone:
        first = next((stage for stage in undone if stage.state == "running"), undone[0])
        state = {"running": "running", "not done": "missing"}.get(first.state, "waiting")
        return state, f"waiting for {first.label} ({', '.join(filter(None, [first.state, first.where]))})", first.log
    problem = "can't be read" if (folder / "results.json").exists() else "is not written"
    return "missing", f"Its stages are done, but its results.json {problem}; the same command writes it.", ""


def _estimates(report: Mapping[str, Any]) -> dict[EstimateKey, Estimate]:
    """Scores and differences of a job's `results.json`; empty if the file is incomplete."""
    estimates = {}
    try:
        for row in [*report["scores"], *report["differences"]]:
            model = f"{row['model']} - {row['minus']}" if "minus" in row else row["model"]
            value = _finite(row["value"])
            if value is not None:
                key = (str(model), int(row["shots"]), str(row["measure"]), str(row["task"]))
                estimates[key] = Estimate(value, _finite(row["low"]), _finite(row["high"]))
    except (KeyError, TypeError, ValueError):
        return {}
    return estimates


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _relative_path(path: str, folder: Path) -> str:
    """The path relative to the folder if it is below it, else unchanged."""
    return str(Path(path).relative_to(folder)) if path and Path(path).is_relative_to(folder) else path
