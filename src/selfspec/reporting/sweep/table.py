"""The rows of a sweep's tables: one a job, shots and measure; and their means over training seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfspec.reporting.sweep.state import Estimate, JobState
from selfspec.reporting.tables import NAMES, format_number

HEADS = {"domain": "domain", "model": "model", "examples": "examples", "lora_r": "LoRA rank", "seed": "seed"}


CHOSEN_BY = {"domain", "model", "data_size", "data_size.examples", "lora", "lora.r", "seed"}  # overrides they stand for


GAIN, BEYOND_SEEDS, BEYOND_GENERIC = "specialized - base", "specialized - seeds_only", "specialized - generic"


GAPS = (GAIN, BEYOND_SEEDS, BEYOND_GENERIC)


SHOWN = ("base", "seeds_only", "generic", "specialized", *GAPS)


TITLES = {
    **NAMES,
    GAIN: "specialized − base",
    BEYOND_SEEDS: "specialized − seeds only",
    BEYOND_GENERIC: "specialized − generic",
}


@dataclass(frozen=True)
class Row:
    """One job at one number of shots under one measure."""

    job: JobState
    other: str  # overrides that no choice tells
    shots: int
    measure: str
    cells: Mapping[str, Estimate]  # of SHOWN


@dataclass(frozen=True)
class Spread:
    """Values of several training seeds."""

    mean: float
    low: float
    high: float
    sd: float | None


@dataclass(frozen=True)
class SeedsRow:
    """Jobs that differ in nothing but the seed."""

    job: JobState  # one of them, for its choices
    other: str
    seeds: tuple[int, ...]
    shots: int
    measure: str
    cells: Mapping[str, Spread]


@dataclass(frozen=True)
class Table:
    """The main table, and what is the same in all of its rows."""

    rows: tuple[Row, ...]
    varying: tuple[str, ...]  # choices that jobs differ in
    fixed: Mapping[str, Any]
    other: Mapping[int, str]  # by job, overrides that no choice tells and that not all jobs have
    shots: tuple[int, ...]
    measures: Mapping[str, str]  # name -> heading
    columns: tuple[str, ...]  # of SHOWN, those with a value somewhere

    @property
    def differ(self) -> bool:
        """Whether jobs differ in more than choices."""
        return any(self.other.values())

    def name(self, row: Row, without: Sequence[str] = ()) -> str:
        """What tells a row's job from the others: `gemma-3-270m, LoRA rank 8`."""
        told = [(name, row.job.choices.get(name)) for name in self.varying if name not in without]
        parts = [str(value) if name in ("domain", "model") else f"{HEADS[name]} {value}" for name, value in told]
        return ", ".join([*parts, *([row.other] if row.other else [])])


def table_of(jobs: Sequence[JobState]) -> Table:
    """The main table of the jobs that are done; which choices vary is said of all jobs."""
    values = {name: list(dict.fromkeys(job.choices.get(name) for job in jobs)) for name in HEADS}
    other = _other(jobs)
    rows = []
    for job in jobs:
        for shots in sorted({place[1] for place in job.estimates}):
            for measure in job.measures:
                found = {model: job.at(model, shots, measure) for model in SHOWN}
                cells = {model: estimate for model, estimate in found.items() if estimate}
                if cells:
                    rows.append(Row(job, other[job.number], shots, measure, cells))
    headings = {name: heading for job in jobs for name, heading in job.measures.items()}
    return Table(
        rows=tuple(rows),
        varying=tuple(name for name in HEADS if len(values[name]) > 1),
        fixed={name: values[name][0] for name in HEADS if len(values[name]) == 1},
        other=other,
        shots=tuple(sorted({row.shots for row in rows})),
        measures={name: head for name, head in headings.items() if any(row.measure == name for row in rows)},
        columns=tuple(model for model in SHOWN if any(model in row.cells for row in rows)),
    )


def over_seeds(table: Table) -> list[SeedsRow]:
    """Means over training seeds, or nothing if no two jobs differ in the seed alone."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in table.rows:
        choices = tuple(row.job.choices.get(name) for name in HEADS if name != "seed")
        groups.setdefault((choices, row.other, row.shots, row.measure), []).append(row)
    means = [_mean(rows) for rows in groups.values()]
    return means if any(len(row.seeds) > 1 for row in means) else []


def _mean(rows: Sequence[Row]) -> SeedsRow:
    values = {model: [row.cells[model].value for row in rows if model in row.cells] for model in SHOWN}
    cells = {
        model: Spread(statistics.fmean(mine), min(mine), max(mine), statistics.stdev(mine) if len(mine) > 1 else None)
        for model, mine in values.items()
        if mine
    }
    seeds = tuple(row.job.choices.get("seed", 0) for row in rows)
    return SeedsRow(rows[0].job, rows[0].other, seeds, rows[0].shots, rows[0].measure, cells)


def _other(jobs: Sequence[JobState]) -> dict[int, str]:
    """Overrides that no choice tells, by job; the same in all jobs, they are left out."""
    left = {job.number: [o for o in job.overrides if o.lstrip("+").split("=")[0] not in CHOSEN_BY] for job in jobs}
    told = [(*(job.choices.get(name) for name in HEADS), *left[job.number]) for job in jobs]
    if len(set(told)) < len({job.overrides for job in jobs}):  # two adapters of one rank, say: choices are not enough
        left = {job.number: [o for o in job.overrides if not o.startswith("seed=")] for job in jobs}
    everywhere = set.intersection(*(set(mine) for mine in left.values())) if left else set()
    return {number: " ".join(o for o in mine if o not in everywhere) for number, mine in left.items()}


def format_estimate(value: float | None, signed: bool = False) -> str:
    """`.123`, `-.045`, `+.010` where signed; nothing where there is no number."""
    if value is None:
        return ""
    text = format_number(round(value, 3) + 0.0)  # never -.000
    return f"+{text}" if signed and round(value, 3) > 0 else text


def row_sentences(estimate: Estimate | None, signed: bool = False) -> str:
    """A value with its interval, as far as there are any."""
    if estimate is None:
        return ""
    if estimate.low is None or estimate.high is None:
        return format_estimate(estimate.value, signed)
    return f"{format_estimate(estimate.value, signed)} ({format_estimate(estimate.low)} to {format_estimate(estimate.high)})"
