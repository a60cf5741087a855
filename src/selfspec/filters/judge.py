"""The judge: rows whose answer the base model itself calls wrong, by the log-probability of YES against NO.

A base model says YES to nearly everything, so its margin is compared with those it gives to seeds, right and corrupted:
the threshold is where the two are told apart best. Where they hardly are (a low AUC), nothing is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from selfspec.data.records import Seed


@dataclass(frozen=True)
class Calibration:
    """What the judge's margins are worth on seeds."""

    auc: float  # probability that a right answer's margin is over a corrupted one's
    threshold: float  # least margin of a row that is kept
    filters: bool  # whether the AUC is high enough for that
    seeds: int  # judged, each once right and once corrupted


def calibrate_judge(right: Sequence[float], wrong: Sequence[float], least_auc: float) -> Calibration:
    """From margins, log p(YES) - log p(NO), of right answers and of corrupted ones.

    The threshold is the margin with the largest share of right answers at or over it plus of wrong ones under it.
    """
    wins = sum((mine > other) + 0.5 * (mine == other) for mine in right for other in wrong)
    auc = wins / (len(right) * len(wrong)) if right and wrong else 0.5

    def told_apart(threshold: float) -> float:
        kept = sum(margin >= threshold for margin in right) / max(len(right), 1)
        return kept + sum(margin < threshold for margin in wrong) / max(len(wrong), 1)

    threshold = max(sorted({*right, *wrong}), key=told_apart, default=0.0)
    return Calibration(auc, threshold, auc >= least_auc, len(right))


def check_judgement(margin: float, calibration: Calibration) -> str:
    """Why a row is dropped, or an empty string."""
    return "judged wrong" if calibration.filters and margin < calibration.threshold else ""


def corrupt_answer(seed: Seed, seeds: Sequence[Seed], chance: Random) -> str:
    """A wrong answer in the right form: another label, or the answer of another seed of its type."""
    labels = [option for option in seed.options if option != seed.output]
    others = sorted({other.output for other in seeds if other.task_type == seed.task_type} - {seed.output})
    pool = labels or others or sorted({other.output for other in seeds} - {seed.output})
    return chance.choice(pool) if pool else ""
