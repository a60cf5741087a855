"""Held: intervals behave as a bootstrap must, and cover the truth as often as they say."""

import math
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score

from questions import YESNO
from selfspec.data.records import Question
from selfspec.evaluation.intervals import (
    Interval,
    bootstrap_draws,
    commonest_share,
    f1_measure,
    mean_measure,
    mean_over_tasks,
    percentile_interval,
    widen,
)
from selfspec.evaluation.reported_metrics import option_margins
from selfspec.reporting.results import MEASURES, compute_results, score_model


def test_a_margin_is_the_log_odds_of_an_option() -> None:
    shares = {"a": 0.5, "b": 0.3, "c": 0.2}
    for option, margin in option_margins({name: math.log(share) - 700 for name, share in shares.items()}).items():
        assert margin == pytest.approx(math.log(shares[option] / (1 - shares[option])))


def test_the_commonest_choice_is_found_anew_in_each_draw() -> None:
    rows = np.asarray([[0, 1, 2], [2, 2, 2], [2, 0, 2]])
    assert commonest_share(["a", "a", "b"])(rows).tolist() == pytest.approx([2 / 3, 1, 2 / 3])


def test_draws_are_fixed_by_the_name_of_the_task() -> None:
    mine = bootstrap_draws(12, 4, "sentiment")
    assert mine.shape == (5, 12)
    assert mine[0].tolist() == list(range(12))
    assert set(mine.flat) <= set(range(12))
    assert mine[1:].tolist() != bootstrap_draws(12, 4, "inference")[1:].tolist()
    code = (
        "from selfspec.evaluation.intervals import bootstrap_draws; print(bootstrap_draws(12, 4, 'sentiment').tolist())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    other = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str(mine.tolist())


def test_the_interval_of_a_mean_shrinks_with_the_root_of_the_count() -> None:
    for count in (100, 400, 1600):
        found = percentile_interval(mean_measure([0.0, 1.0] * (count // 2))(bootstrap_draws(count, 4000, "task")))
        assert found.value == 0.5
        assert found.low < 0.5 < found.high
        assert found.high - found.low == pytest.approx(2 * 1.96 * 0.5 / math.sqrt(count), rel=0.1)


def test_a_model_differs_from_itself_by_exactly_nothing() -> None:
    questions = [
        Question(f"v{n}", "verdict", "label", "Is it?", "x", (YESNO[n % 2],), options=YESNO) for n in range(20)
    ]
    questions += [Question(f"n{n}", "figure", "number", "How many?", "x", (str(n),)) for n in range(20)]
    rows = [
        {
            "id": question.id,
            "task_type": question.task_type,
            "shots": shots,
            "draw": 0,
            "reply": ["yes", "3", "no", "7 or so"][place % 4],
            "finished": place % 5 > 0,
            "option_logprobs": [-1.0 - place % 3, -2.0] if question.options else [],
        }
        for shots in (0, 5)
        for place, question in enumerate(questions)
    ]
    report = compute_results({"base": rows, "specialized": rows}, questions, 200)
    overall = [cell for cell in report["scores"] if cell["task"] == "all"]
    assert {cell["measure"] for cell in overall} == set(MEASURES)
    assert all(cell["low"] < cell["high"] for cell in overall)
    assert {gap["measure"] for gap in report["differences"]} == set(MEASURES) - {"commonest"}
    assert {(gap["value"], gap["low"], gap["high"]) for gap in report["differences"]} == {(0.0, 0.0, 0.0)}


CAUSES = ("a", "b", "c")
SAID = ["aabbc?", "abbbca", "ccbba?"]  # by draw of the shots


def drawn(question: Question, draw: int, reply: str) -> dict[str, Any]:
    """A row of the stage `scores`."""
    logprobs = [-1.0, -2.0, -3.0] if question.options else []
    place = {"id": question.id, "task_type": question.task_type, "shots": 5, "draw": draw}
    return {**place, "reply": reply, "finished": True, "option_logprobs": logprobs}


def macro(gold: list[str], replies: list[str]) -> float:
    """Macro F1 over the labels that occur, as sklearn has it."""
    occur = sorted({*gold, *replies} - {"?"})
    return float(f1_score(gold, replies, labels=occur, average="macro", zero_division=0))


def test_each_draw_of_shots_is_measured_by_itself_on_the_same_questions_drawn() -> None:
    gold = list("aabbcc")
    asked = {
        f"q{n}": Question(f"q{n}", "cause", "label", "Which?", "x", (g,), options=CAUSES) for n, g in enumerate(gold)
    }
    rows = [drawn(question, n, said[i]) for n, said in enumerate(SAID) for i, question in enumerate(asked.values())]
    found = score_model(rows, asked, 50, {"cause": ("macro F1",)}).by_task
    resampled = bootstrap_draws(6, 50, "cause")
    each = [[macro([gold[i] for i in row], [said[i] for i in row]) for said in SAID] for row in resampled]
    assert found["primary_metric"]["cause"] == pytest.approx(widen(np.mean(each, axis=1), 6))
    # By hand: F1 of a, b, c is 1, 1, 2/3 in the first draw; 1/2, 4/5, 2/3 in the second; 0, 1, 0 in the third.
    assert found["primary_metric"]["cause"][0] == pytest.approx((8 / 9 + 59 / 90 + 1 / 3) / 3)
    right = np.asarray([[float(reply == answer) for reply, answer in zip(said, gold, strict=True)] for said in SAID])
    plain = right.mean(axis=0)[resampled].mean(axis=1)
    assert found["label_accuracy"]["cause"] == pytest.approx(widen(plain, 6))
    cells = [
        c
        for c in compute_results({"base": rows}, list(asked.values()), 50)["scores"]
        if c["measure"] == "label_accuracy"
    ]
    assert [cell["value"] for cell in cells] == [pytest.approx((5 / 6 + 4 / 6 + 2 / 6) / 3)] * 2
    assert [cell["draws"] for cell in cells if cell["task"] == "all"] == [pytest.approx([5 / 6, 4 / 6, 2 / 6])]


def test_a_draw_more_of_the_same_replies_changes_nothing() -> None:
    asked = [Question(f"n{n}", "figure", "number", "How many?", "x", (str(n),)) for n in range(10)]
    one, three = (
        [drawn(q, draw, str(n % 4)) for draw in range(count) for n, q in enumerate(asked)] for count in (1, 3)
    )
    same = compute_results({"base": one, "specialized": three}, asked, 100)
    assert max(abs(gap[side]) for gap in same["differences"] for side in ("value", "low", "high")) < 1e-12


def told(chance: np.random.Generator, count: int) -> tuple[list[str], list[list[str]]]:
    """Gold labels, and what two models say that find the same questions hard: right in 50% and 60%, else anything."""
    gold, hard = chance.choice(CAUSES, count, p=[0.5, 0.3, 0.2]), chance.random(count)
    said = []
    for share in (0.5, 0.6):
        luck = np.where(chance.random(count) < 0.5, hard, chance.random(count))
        said.append(np.where(luck < share, gold, chance.choice(CAUSES, count)).tolist())
    return gold.tolist(), said


def by_class(gold: list[str], said: list[str]) -> list[dict[str, tuple[int, int, int]]]:
    """(right, wrong, missed) of each label, question by question."""
    pairs = list(zip(gold, said, strict=True))
    return [{c: (int(g == s == c), int(s == c != g), int(g == c != s)) for c in CAUSES} for g, s in pairs]


def covered(truths: list[float], found: list[list[Interval]]) -> list[float]:
    """How often each truth lies in its interval."""
    return [
        float(np.mean([i.low <= truth <= i.high for i in column]))
        for truth, column in zip(truths, zip(*found, strict=True), strict=True)
    ]


def test_intervals_of_shares_and_their_differences_cover_the_truth() -> None:
    """2,000 simulated evaluations: the standard error of a coverage of 95% is half a point."""
    chance = np.random.default_rng(0)
    for count in (100, 250):
        found = []
        for repetition in range(2000):
            rows, hard = bootstrap_draws(count, 400, f"{repetition}"), chance.random(count)
            luck = np.where(chance.random(count) < 0.5, hard, chance.random(count))
            base, better = (mean_measure(list(values))(rows) for values in (1.0 * (hard < 0.6), 1.0 * (luck < 0.7)))
            found.append([percentile_interval(base), percentile_interval(better), percentile_interval(better - base)])
        assert all(0.93 <= share <= 0.97 for share in covered([0.6, 0.7, 0.1], found))


def test_a_bootstraps_spread_is_widened_to_that_of_a_sample_around_the_value_itself() -> None:
    values = np.asarray([0.5, 0.25, 0.75, 0.5])
    assert widen(values, 5) == pytest.approx(0.5 + np.sqrt(5 / 4) * np.asarray([0, -0.25, 0.25, 0]))
    assert widen(values, 1) == pytest.approx(values)  # one question has no spread to be corrected
    chance = np.random.default_rng(3)
    replies = chance.random(12)
    many = widen(mean_measure(list(replies))(bootstrap_draws(12, 20_000, "many")), 12)
    assert many[1:].std() == pytest.approx(replies.std(ddof=1) / np.sqrt(12), rel=0.02)  # the standard error


def test_an_overall_difference_of_few_questions_a_task_is_covered() -> None:
    """1,000 simulated evaluations of 10 tasks with 12 questions: the standard error of a coverage is 0.7 points."""
    chance, count = np.random.default_rng(4), 12
    found, narrow = [], []
    for repetition in range(1000):
        by_task = []
        for task in range(10):
            rows, hard = bootstrap_draws(count, 400, f"{repetition}/{task}"), chance.random(count)
            luck = np.where(chance.random(count) < 0.5, hard, chance.random(count))
            by_task.append(mean_measure(list(1.0 * (luck < 0.7) - 1.0 * (hard < 0.6)))(rows))
        wide = {str(task): widen(values, count) for task, values in enumerate(by_task)}
        found.append([percentile_interval(mean_over_tasks(wide))])
        narrow.append([percentile_interval(np.mean(by_task, axis=0))])
    (share,), (without,) = covered([0.1], found), covered([0.1], narrow)
    assert 0.93 <= share <= 0.97 and without < share


@pytest.mark.slow
@pytest.mark.parametrize("count", [100, 250])
def test_intervals_of_macro_f1_and_its_differences_cover_the_truth(count: int) -> None:
    chance = np.random.default_rng(1)
    gold, said = told(chance, 400_000)  # as good as all questions there are
    truths = [float(f1_score(gold, replies, average="macro")) for replies in said]
    found = []
    for repetition in range(2000):
        rows, (gold, said) = bootstrap_draws(count, 400, f"{repetition}"), told(chance, count)
        base, better = (f1_measure(by_class(gold, replies))(rows) for replies in said)
        found.append([percentile_interval(base), percentile_interval(better), percentile_interval(better - base)])
    assert all(0.93 <= share <= 0.97 for share in covered([*truths, truths[1] - truths[0]], found))
