"""Measures over many replies with bootstrap intervals: questions are drawn anew within each task type.

The value of a whole domain is the mean over its task types. Two models answer the same questions, so their
difference is bootstrapped in pairs: the same questions are drawn for both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


Draws = NDArray[np.int64]  # [resamples + 1, questions]; row 0 is the questions as they are


Measure = Callable[[Draws], Array]  # value of each row of draws


Counts = Mapping[str, tuple[int, int, int]]  # of one question: right, wrong, missed by class


@dataclass(frozen=True)
class Interval:
    """A value with its 95% percentile interval."""

    value: float
    low: float
    high: float


def bootstrap_draws(count: int, resamples: int, name: str) -> Draws:
    """Which questions each resample takes, the same for every model: fixed by the task's `name`."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    drawn = np.random.default_rng(seed).integers(0, count, size=(resamples, count))
    return np.vstack([np.arange(count), drawn])


def percentile_interval(values: Array) -> Interval:
    """From values of all draws: the first is the estimate, the others its spread."""
    low, high = np.nanpercentile(values[1:], [2.5, 97.5]) if len(values) > 1 else (np.nan, np.nan)
    return Interval(float(values[0]), float(low), float(high))


def widen(values: Array, count: int) -> Array:
    """Values of all draws, spread as those of `count` questions should be: a bootstrap's own spread is too small.

    The factor is sqrt(n / (n - 1)), of the variance of a mean. With 12 questions a task, the 95% interval of an overall
    difference then covers 94% to 95%, without it 93%, simulated (`tests/test_intervals.py`).
    """
    return np.asarray(values[0] + (values - values[0]) * np.sqrt(count / max(count - 1, 1)))


def mean_over_tasks(by_task: Mapping[str, Array]) -> Array:
    """The domain's values: the mean over task types, draw by draw."""
    return np.asarray(np.mean(list(by_task.values()), axis=0))


def mean_measure(values: Sequence[float]) -> Measure:
    """The mean of one value a question."""
    array = np.asarray(values, dtype=np.float64)
    return lambda rows: np.asarray(array[rows].mean(axis=1))


def f1_measure(counts: Sequence[Counts]) -> Measure:
    """F1 from (right, wrong, missed) a question and class: the mean over classes that occur (micro F1 with one)."""
    total = _totals(counts)

    def measure(rows: Draws) -> Array:
        sums = total(rows)
        occurs = sums.sum(axis=2) > 0
        summed = _f1_of_sums(sums).sum(axis=1)
        return np.asarray(np.divide(summed, occurs.sum(axis=1), out=np.zeros_like(summed), where=occurs.any(axis=1)))

    return measure


def weighted_f1_measure(counts: Sequence[Counts]) -> Measure:
    """The mean of the classes' F1, each weighted by how often it is the right one."""
    total = _totals(counts)

    def measure(rows: Draws) -> Array:
        sums = total(rows)
        support = sums[:, :, 0] + sums[:, :, 2]  # right and missed
        summed = (_f1_of_sums(sums) * support).sum(axis=1)
        return np.asarray(np.divide(summed, support.sum(axis=1), out=np.zeros_like(summed), where=summed > 0))

    return measure


def mean_of_measures(measures: Sequence[Measure]) -> Measure:
    """The mean of several measures of the same questions, draw by draw."""
    return lambda rows: np.asarray(np.mean([measure(rows) for measure in measures], axis=0))


def _totals(counts: Sequence[Counts]) -> Callable[[Draws], Array]:
    """Sums of (right, wrong, missed) by draw and class: [draws, classes, 3]. One draw at a time: sets may be large."""
    classes = sorted({name for count in counts for name in count})
    array = np.asarray([[count.get(name, (0, 0, 0)) for name in classes] for count in counts], dtype=np.float64)
    return lambda rows: np.stack([array[row].sum(axis=0) for row in rows])


def _f1_of_sums(sums: Array) -> Array:
    """F1 of each draw and class; 0 where nothing is right."""
    right = sums[:, :, 0]
    return np.asarray(np.divide(2 * right, right + sums.sum(axis=2), out=np.zeros_like(right), where=right > 0))


def commonest_share(choices: Sequence[str]) -> Measure:
    """Share of the commonest choice: 1 for a model that always says the same."""
    names = sorted(set(choices))
    array = np.asarray([[float(choice == name) for name in names] for choice in choices])
    return lambda rows: np.asarray(array[rows].mean(axis=1).max(axis=1))


def auc_measure(margins: Sequence[Mapping[str, float]], gold: Sequence[str]) -> Measure:
    """Area under the ROC curve of each option's margin against the rest, averaged over the options.

    Args:
        margins: For each question, by how much each option's log-probability exceeds the other options' together.
        gold: The right option of each question.
    """
    options = sorted({option for margin in margins for option in margin})
    pairs = []
    for option in options:
        values = np.asarray([margin.get(option, -np.inf) for margin in margins])
        positive = np.asarray([float(answer == option) for answer in gold])
        wins = (values[:, None] > values[None, :]) + 0.5 * (values[:, None] == values[None, :])
        pairs.append((positive, wins * positive[:, None] * (1 - positive)[None, :]))

    def measure(rows: Draws) -> Array:
        weights = np.stack([np.bincount(row, minlength=len(gold)) for row in rows]).astype(np.float64)
        areas = []
        for positive, wins in pairs:
            possible = (weights @ positive) * (weights @ (1 - positive))
            won = np.einsum("ri,ij,rj->r", weights, wins, weights, optimize=True)
            areas.append(np.divide(won, possible, out=np.full(len(rows), np.nan), where=possible > 0))
        table = np.asarray(areas)
        known = ~np.isnan(table)  # a draw may lack an option, or hold no other
        sums = np.where(known, table, 0).sum(0)
        return np.asarray(np.divide(sums, known.sum(0), out=np.full(len(rows), 0.5), where=known.any(0)))

    return measure
