"""Metrics over many replies with bootstrap intervals; questions are resampled within each task type.

The value of a domain is the mean over its task types. Two models answer the same questions, so their difference is a
paired bootstrap: each resample takes the same questions for both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Draws = NDArray[np.int64]  # [1 + resamples, questions] indices of questions; row 0 is the original sample
Measure = Callable[[Draws], Array]  # a metric's value for each row of `Draws`: [1 + resamples]
MAX_BLOCK_CELLS = 1_000_000  # resamples x questions that a measure handles at a time
Counts = Mapping[str, tuple[int, int, int]]  # one question's (true pos., false pos., false neg.) by class


@dataclass(frozen=True)
class Interval:
    """A value with its 95% percentile interval."""

    value: float
    low: float
    high: float


def bootstrap_draws(count: int, resamples: int, name: str) -> Draws:
    """The questions of each resample, the same for every model.

    Args:
        count: Number of questions.
        resamples: Number of resamples.
        name: The task; it seeds the random draws.

    Returns:
        Indices [1 + resamples, count]; row 0 is 0 to count - 1.
    """
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    drawn = np.random.default_rng(seed).integers(0, count, size=(resamples, count))
    return np.vstack([np.arange(count), drawn])


def percentile_interval(values: Array) -> Interval:
    """The interval of a metric from its values [1 + resamples]; the first is the estimate."""
    low, high = np.nanpercentile(values[1:], [2.5, 97.5]) if len(values) > 1 else (np.nan, np.nan)
    return Interval(float(values[0]), float(low), float(high))


def widen(values: Array, count: int) -> Array:
    """Correct the spread of values [1 + resamples] for a small number of questions, where a bootstrap's is too narrow.

    The factor is sqrt(n / (n - 1)), from the variance of a mean. In simulations with 12 questions a task, 95% intervals
    of an overall difference cover the truth in 94% to 95% with the factor, and in 93% without it
    (tests/unit/test_intervals.py).
    """
    return np.asarray(values[0] + (values - values[0]) * np.sqrt(count / max(count - 1, 1)))


def mean_over_tasks(by_task: Mapping[str, Array]) -> Array:
    """The domain's values [1 + resamples]: the mean over task types, resample by resample."""
    return np.asarray(np.mean(list(by_task.values()), axis=0))


def mean_measure(values: Sequence[float]) -> Measure:
    """The mean of one value for each question."""
    array = np.asarray(values, dtype=np.float64)
    return _in_blocks(lambda rows: np.asarray(array[rows].mean(axis=1)))


def mean_of_known_measure(values: Sequence[float | None]) -> Measure | None:
    """The mean of the values that are not None; None if all are. A resample without values has the mean of all."""
    known = np.asarray([value is not None for value in values], dtype=np.float64)
    array = np.asarray([value or 0.0 for value in values], dtype=np.float64)
    if not known.any():
        return None

    def measure(rows: Draws) -> Array:
        counts, sums = known[rows].sum(axis=1), array[rows].sum(axis=1)
        mean_of_all = np.full(len(rows), array.sum() / known.sum())
        return np.asarray(np.divide(sums, counts, out=mean_of_all, where=counts > 0))

    return _in_blocks(measure)


def f1_measure(counts: Sequence[Counts]) -> Measure:
    """Macro F1: the mean over the classes that occur. With one class it is micro F1."""
    sum_counts = _count_sums(counts)

    def measure(rows: Draws) -> Array:
        sums = sum_counts(rows)
        occurs = sums.sum(axis=2) > 0
        summed = _f1_of_sums(sums).sum(axis=1)
        return np.asarray(np.divide(summed, occurs.sum(axis=1), out=np.zeros_like(summed), where=occurs.any(axis=1)))

    return measure


def weighted_f1_measure(counts: Sequence[Counts]) -> Measure:
    """Weighted F1: the mean over the classes, each weighted by its support."""
    sum_counts = _count_sums(counts)

    def measure(rows: Draws) -> Array:
        sums = sum_counts(rows)
        support = sums[:, :, 0] + sums[:, :, 2]  # true positives and false negatives
        summed = (_f1_of_sums(sums) * support).sum(axis=1)
        return np.asarray(np.divide(summed, support.sum(axis=1), out=np.zeros_like(summed), where=summed > 0))

    return measure


def mean_of_measures(measures: Sequence[Measure]) -> Measure:
    """The mean of several measures of the same questions, resample by resample."""
    return lambda rows: np.asarray(np.mean([measure(rows) for measure in measures], axis=0))


def _count_sums(counts: Sequence[Counts]) -> Callable[[Draws], Array]:
    """A function from rows of `Draws` to summed counts [rows, classes, 3]; one row at a time, for sets may be large."""
    classes = sorted({name for count in counts for name in count})
    array = np.asarray([[count.get(name, (0, 0, 0)) for name in classes] for count in counts], dtype=np.float64)
    return lambda rows: np.stack([array[row].sum(axis=0) for row in rows])


def _f1_of_sums(sums: Array) -> Array:
    """F1 [rows, classes] from summed counts [rows, classes, 3]; 0 without true positives."""
    true_positives = sums[:, :, 0]
    total = true_positives + sums.sum(axis=2)
    return np.asarray(np.divide(2 * true_positives, total, out=np.zeros_like(true_positives), where=true_positives > 0))


def commonest_share(choices: Sequence[str]) -> Measure:
    """The share of the most frequent choice: 1 for a model that always gives the same answer; "" is no choice."""
    names = sorted(set(choices) - {""}) or [""]
    array = np.asarray([[float(choice == name != "") for name in names] for choice in choices])
    return _in_blocks(lambda rows: np.asarray(array[rows].mean(axis=1).max(axis=1)))


def auc_measure(margins: Sequence[Mapping[str, float]], gold: Sequence[str]) -> Measure:
    """Area under the ROC curve of each option's margin, one against the rest, averaged over the options.

    Args:
        margins: For each question, the log-odds of each option.
        gold: The right option of each question.
    """
    options = sorted({option for margin in margins for option in margin})
    by_option = [
        (np.asarray([margin.get(option, -np.inf) for margin in margins]), np.asarray([g == option for g in gold]))
        for option in options
    ]

    def measure(rows: Draws) -> Array:
        weights = np.stack([np.bincount(row, minlength=len(gold)) for row in rows]).astype(np.float64)
        areas = np.asarray([_roc_areas(values, positive, weights) for values, positive in by_option])
        known = ~np.isnan(areas)  # a resample may lack an option, or all others
        sums = np.where(known, areas, 0).sum(0)
        return np.asarray(np.divide(sums, known.sum(0), out=np.full(len(rows), 0.5), where=known.any(0)))

    return _in_blocks(measure)


def _roc_areas(values: Array, positive: NDArray[np.bool_], weights: Array) -> Array:
    """The share of pairs, one positive and one negative, in which the positive has the larger value; ties count half.

    Args:
        values: Of each question.
        positive: Whether each question is positive.
        weights: How often each resample has each question: [resamples, questions].

    Returns:
        One share for each resample; NaN where there is no pair.
    """
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.r_[True, values[order][1:] != values[order][:-1]])  # of each run of equal values
    ordered, is_positive = weights[:, order], positive[order]
    positives = np.add.reduceat(ordered * is_positive, starts, axis=1)
    negatives = np.add.reduceat(ordered * ~is_positive, starts, axis=1)
    won = (positives * (negatives.cumsum(1) - negatives / 2)).sum(1)
    num_pairs = positives.sum(1) * negatives.sum(1)
    return np.asarray(np.divide(won, num_pairs, out=np.full(len(won), np.nan), where=num_pairs > 0))


def _in_blocks(measure: Measure) -> Measure:
    """The measure, a few resamples at a time: its arrays [resamples, questions] are bounded for a large set."""

    def in_blocks(rows: Draws) -> Array:
        size = max(1, MAX_BLOCK_CELLS // rows.shape[1])
        return np.concatenate([measure(rows[start : start + size]) for start in range(0, len(rows), size)])

    return in_blocks
