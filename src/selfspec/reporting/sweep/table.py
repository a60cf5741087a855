"""The rows of a sweep's tables: one for each job, number of shots and measure; and their means over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfspec.reporting.cells import MODEL_NAMES
from selfspec.reporting.sweep.state import Estimate, JobState

CHOICES = {"domain": "domain", "model": "model", "examples": "examples", "lora_r": "LoRA rank", "seed": "seed"}


CHOICE_OVERRIDES = {"domain", "model", "data_size", "data_size.examples", "lora", "lora.r", "seed"}  # that set CHOICES


GAIN, BEYOND_SEEDS, BEYOND_GENERIC = "specialized - base", "specialized - seeds_only", "specialized - generic"


DIFFERENCES = (GAIN, BEYOND_SEEDS, BEYOND_GENERIC)


COLUMNS = ("base", "seeds_only", "generic", "specialized", *DIFFERENCES)


LOSS_TITLE = "held-out loss (choose by this)"


TITLES = {
    **MODEL_NAMES,
    GAIN: "specialized − base",
    BEYOND_SEEDS: "specialized − seeds only",
    BEYOND_GENERIC: "specialized − generic",
}


@dataclass(frozen=True)
class Row:
    """One job at one number of shots under one measure.

    Attributes:
        job: The job.
        overrides: Its overrides that differ from other jobs' and that no choice states.
        shots: Number of few-shot examples.
        measure: Name of the measure.
        cells: Estimates by column (of COLUMNS).
    """

    job: JobState
    overrides: str
    shots: int
    measure: str
    cells: Mapping[str, Estimate]


@dataclass(frozen=True)
class Spread:
    """Mean, smallest value, largest value and standard deviation over several seeds."""

    mean: float
    low: float
    high: float
    sd: float | None


@dataclass(frozen=True)
class SeedsRow:
    """Jobs that differ only in the seed; `job` is one of them."""

    job: JobState
    overrides: str
    seeds: tuple[int, ...]
    shots: int
    measure: str
    cells: Mapping[str, Spread]


@dataclass(frozen=True)
class Table:
    """The main table, and what all of its rows have in common.

    Attributes:
        rows: The rows.
        varying: Choices in which jobs differ.
        fixed: Choices that all jobs share, with their values.
        overrides: By job, the overrides that no choice states and that not all jobs have.
        keys: The keys of these overrides; each is a column.
        shots: The numbers of shots.
        measures: Measures with a value, name -> heading.
        columns: Columns with a value (of COLUMNS).
    """

    rows: tuple[Row, ...]
    varying: tuple[str, ...]
    fixed: Mapping[str, Any]
    overrides: Mapping[int, str]
    keys: tuple[str, ...]
    shots: tuple[int, ...]
    measures: Mapping[str, str]
    columns: tuple[str, ...]

    @property
    def has_losses(self) -> bool:
        """Whether a job has a loss on the held-out seeds."""
        return any(row.job.held_out_loss is not None for row in self.rows)

    def name(self, row: Row, without: Sequence[str] = ()) -> str:
        """A name that distinguishes the row's job, but for the choices in `without`: `gemma-3-270m, LoRA rank 8`."""
        values = [(name, row.job.choices.get(name)) for name in self.varying if name not in without]
        parts = [str(value) if name in ("domain", "model") else f"{CHOICES[name]} {value}" for name, value in values]
        return ", ".join([*parts, *([row.overrides] if row.overrides else [])])


def build_table(jobs: Sequence[JobState]) -> Table:
    """The main table: rows of the jobs that are done; the choices that vary among all jobs."""
    values = {name: list(dict.fromkeys(job.choices.get(name) for job in jobs)) for name in CHOICES}
    distinguishing = _distinguishing_overrides(jobs)
    overrides = {number: " ".join(texts) for number, texts in distinguishing.items()}
    rows = []
    for job in jobs:
        for shots in sorted({key[1] for key in job.estimates}):
            for measure in job.measures:
                estimates = {column: job.estimate(column, shots, measure) for column in COLUMNS}
                cells = {column: estimate for column, estimate in estimates.items() if estimate}
                if cells:
                    rows.append(Row(job, overrides[job.number], shots, measure, cells))
    headings = {name: heading for job in jobs for name, heading in job.measures.items()}
    return Table(
        rows=tuple(rows),
        varying=tuple(name for name in CHOICES if len(values[name]) > 1),
        fixed={name: values[name][0] for name in CHOICES if len(values[name]) == 1},
        overrides=overrides,
        keys=tuple(dict.fromkeys(override_key(text) for texts in distinguishing.values() for text in texts)),
        shots=tuple(sorted({row.shots for row in rows})),
        measures={name: heading for name, heading in headings.items() if any(row.measure == name for row in rows)},
        columns=tuple(column for column in COLUMNS if any(column in row.cells for row in rows)),
    )


def average_over_seeds(table: Table) -> list[SeedsRow]:
    """Means over seeds; empty if no two jobs differ only in the seed."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in table.rows:
        choices = tuple(row.job.choices.get(name) for name in CHOICES if name != "seed")
        groups.setdefault((choices, row.overrides, row.shots, row.measure), []).append(row)
    means = [_average(rows) for rows in groups.values()]
    return means if any(len(row.seeds) > 1 for row in means) else []


def format_loss(loss: float | None) -> str:
    """`1.234`; empty if there is no loss."""
    return "" if loss is None else f"{loss:.3f}"


def _average(rows: Sequence[Row]) -> SeedsRow:
    cells = {}
    for column in COLUMNS:
        values = [row.cells[column].value for row in rows if column in row.cells]
        if values:
            sd = statistics.stdev(values) if len(values) > 1 else None
            cells[column] = Spread(statistics.fmean(values), min(values), max(values), sd)
    first, seeds = rows[0], tuple(row.job.choices.get("seed", 0) for row in rows)
    return SeedsRow(first.job, first.overrides, seeds, first.shots, first.measure, cells)


def override_key(override: str) -> str:
    """`lora.r` of `+lora.r=8`."""
    return override.lstrip("+").partition("=")[0]


def _distinguishing_overrides(jobs: Sequence[JobState]) -> dict[int, list[str]]:
    """By job, the overrides that no choice states, without those that all jobs have."""
    overrides = {
        job.number: [text for text in job.overrides if override_key(text) not in CHOICE_OVERRIDES] for job in jobs
    }
    visible = {(*(job.choices.get(name) for name in CHOICES), *overrides[job.number]) for job in jobs}
    if len(visible) < len({job.overrides for job in jobs}):  # choices are not enough: two adapters of one rank, say
        overrides = {job.number: [text for text in job.overrides if not text.startswith("seed=")] for job in jobs}
    common = set.intersection(*(set(texts) for texts in overrides.values())) if overrides else set()
    return {number: [text for text in texts if text not in common] for number, texts in overrides.items()}
