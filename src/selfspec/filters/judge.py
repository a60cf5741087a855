"""The judge: answers that the base model itself calls wrong, by the log-probability of YES against NO.

A base model says YES to nearly everything. So its margin is compared with those that it gives to the seeds, once with
the right answer and once with a corrupted one: the threshold is the margin that separates the two best. Where they
hardly differ (a low AUC), nothing is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import ClassVar, Literal

from selfspec.data.records import Seed
from selfspec.filters.protocol import Candidate, Phase


@dataclass(frozen=True)
class Calibration:
    """What the judge's margins on the seeds show."""

    auc: float  # probability that the margin of a right answer is larger than that of a corrupted one
    threshold: float  # smallest margin of a candidate that passes
    filters: bool  # whether the AUC is high enough to filter
    seeds: int  # judged, each once right and once corrupted


class Judge:
    """Drops an answer whose margin, log p(YES) - log p(NO), is under the judge's threshold.

    Args:
        calibration: Of the judge; called at the first check.
    """

    phase: ClassVar[Phase] = "answer"
    needs: ClassVar = ("calibration",)
    model_output: ClassVar[Literal["judgements"]] = "judgements"

    def __init__(self, calibration: Callable[[], Calibration]) -> None:
        self._calibrate = calibration

    @cached_property
    def calibration(self) -> Calibration:
        """What the judge's margins on the seeds show."""
        return self._calibrate()

    def check(self, candidate: Candidate) -> str:
        """Return the reason for dropping the candidate, or an empty string."""
        is_wrong = self.calibration.filters and candidate.margin < self.calibration.threshold
        return "judged wrong" if is_wrong else ""


def calibrate_judge(right: Sequence[float], wrong: Sequence[float], least_auc: float) -> Calibration:
    """Calibrate the judge on margins of seeds, log p(YES) - log p(NO).

    The threshold maximizes the share of right answers at or over it plus the share of wrong answers under it (Youden).

    Args:
        right: Margins of right answers.
        wrong: Margins of corrupted answers.
        least_auc: Smallest AUC at which the judge filters.
    """
    wins = sum((high > low) + 0.5 * (high == low) for high in right for low in wrong)
    auc = wins / (len(right) * len(wrong)) if right and wrong else 0.5

    def separation(threshold: float) -> float:
        accepted = sum(margin >= threshold for margin in right) / max(len(right), 1)
        return accepted + sum(margin < threshold for margin in wrong) / max(len(wrong), 1)

    threshold = max(sorted({*right, *wrong}), key=separation, default=0.0)
    return Calibration(auc, threshold, auc >= least_auc, len(right))


def corrupt_answer(seed: Seed, seeds: Sequence[Seed], rng: Random) -> str:
    """A wrong answer in the right form: another label, or the answer of another seed of the same task type."""
    labels = [option for option in seed.options if option != seed.output]
    others = sorted({other.output for other in seeds if other.task_type == seed.task_type} - {seed.output})
    choices = labels or others or sorted({other.output for other in seeds} - {seed.output})
    return rng.choice(choices) if choices else ""
