"""Intervals behave as a bootstrap must, and cover the truth as often as they state."""

import math
import os
import subprocess
import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score

from questions import YESNO
from selfspec.data.records import Question
from selfspec.errors import UserError
from selfspec.evaluation.intervals import (
    Interval,
    auc_measure,
    bootstrap_draws,
    commonest_share,
    f1_measure,
    mean_measure,
    mean_over_tasks,
    percentile_interval,
    widen,
)
from selfspec.evaluation.reported_metrics import ReportedMetric, _mean_of_replies, build_custom_metrics, option_margins
from selfspec.reporting.results import MEASURES, compute_results, score_model


def test_a_margin_is_the_log_odds_of_an_option() -> None:
    shares = {"a": 0.5, "b": 0.3, "c": 0.2}
    for option, margin in option_margins({name: math.log(share) - 700 for name, share in shares.items()}).items():
        assert margin == pytest.approx(math.log(shares[option] / (1 - shares[option])))


def test_the_commonest_choice_is_determined_in_each_resample() -> None:
    rows = np.asarray([[0, 1, 2], [2, 2, 2], [2, 0, 2]])
    assert commonest_share(["a", "a", "b"])(rows).tolist() == pytest.approx([2 / 3, 1, 2 / 3])


def area_of_pairs(margins: list[dict[str, float]], gold: list[str], row: list[int]) -> float:
    """The mean over the options of the share of won pairs, pair by pair."""
    areas = []
    for option in sorted({option for margin in margins for option in margin}):
        values = [margins[place].get(option, -math.inf) for place in row]
        won = [
            (values[i] > values[j]) + (values[i] == values[j]) / 2
            for i, one in enumerate(row)
            for j, other in enumerate(row)
            if gold[one] == option != gold[other]
        ]
        areas += [sum(won) / len(won)] if won else []
    return sum(areas) / len(areas) if areas else 0.5


def test_an_auc_is_the_share_of_won_pairs_and_ties_count_half() -> None:
    rng = np.random.default_rng(2)
    for count in (1, 2, 40):
        margins = [{option: float(rng.integers(4)) for option in "abc"[: rng.integers(2, 4)]} for _ in range(count)]
        gold, rows = rng.choice(["a", "b", "c"], count, p=[0.7, 0.25, 0.05]).tolist(), bootstrap_draws(count, 30, "auc")
        expected = [area_of_pairs(margins, gold, row) for row in rows.tolist()]
        assert auc_measure(margins, gold)(rows).tolist() == pytest.approx(expected, abs=1e-12)


def test_the_memory_of_a_measure_does_not_grow_with_the_square_of_the_questions_or_with_the_resamples() -> None:
    rng = np.random.default_rng(5)
    gold = rng.choice(["a", "b", "c"], 5000).tolist()
    margins = [dict(zip("abc", rng.random(3).tolist(), strict=True)) for _ in gold]
    rows = bootstrap_draws(len(gold), 1000, "large")
    for measure in (auc_measure(margins, gold), commonest_share(gold), mean_measure([0.5] * len(gold))):
        tracemalloc.start()
        measure(rows)
        assert tracemalloc.get_traced_memory()[1] < 64e6
        tracemalloc.stop()


def test_resamples_depend_on_the_name_of_the_task_alone() -> None:
    draws = bootstrap_draws(12, 4, "sentiment")
    assert draws.shape == (5, 12)
    assert draws[0].tolist() == list(range(12))
    assert set(draws.flat) <= set(range(12))
    assert draws[1:].tolist() != bootstrap_draws(12, 4, "inference")[1:].tolist()
    code = (
        "from selfspec.evaluation.intervals import bootstrap_draws; print(bootstrap_draws(12, 4, 'sentiment').tolist())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    other = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str(draws.tolist())


def test_the_interval_of_a_mean_shrinks_with_the_root_of_the_count() -> None:
    for count in (100, 400, 1600):
        interval = percentile_interval(mean_measure([0.0, 1.0] * (count // 2))(bootstrap_draws(count, 4000, "task")))
        assert interval.value == 0.5
        assert interval.low < 0.5 < interval.high
        assert interval.high - interval.low == pytest.approx(2 * 1.96 * 0.5 / math.sqrt(count), rel=0.1)


def test_the_difference_of_a_model_from_itself_is_exactly_zero() -> None:
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
    assert {row["measure"] for row in report["differences"]} == set(MEASURES) - {"most_frequent"}
    assert {(row["value"], row["low"], row["high"]) for row in report["differences"]} == {(0.0, 0.0, 0.0)}


CAUSES = ("a", "b", "c")
REPLIES_BY_DRAW = ["aabbc?", "abbbca", "ccbba?"]  # of the shots


def answer_row(question: Question, draw: int, reply: str) -> dict[str, Any]:
    """A row of the stage `scores`."""
    logprobs = [-1.0, -2.0, -3.0] if question.options else []
    columns = {"id": question.id, "task_type": question.task_type, "shots": 5, "draw": draw}
    return {**columns, "reply": reply, "finished": True, "option_logprobs": logprobs}


def macro(gold: list[str], replies: list[str]) -> float:
    """Macro F1 of sklearn over the labels that occur."""
    occur = sorted({*gold, *replies} - {"?"})
    return float(f1_score(gold, replies, labels=occur, average="macro", zero_division=0))


def test_draws_of_the_shots_are_measured_separately_on_the_same_resamples() -> None:
    gold = list("aabbcc")
    questions = {
        f"q{n}": Question(f"q{n}", "cause", "label", "Which?", "x", (g,), options=CAUSES) for n, g in enumerate(gold)
    }
    rows = [
        answer_row(question, n, predicted[i])
        for n, predicted in enumerate(REPLIES_BY_DRAW)
        for i, question in enumerate(questions.values())
    ]
    intervals = score_model(rows, questions, 50, {"cause": ("macro F1",)}).by_task
    resampled = bootstrap_draws(6, 50, "cause")
    each = [
        [macro([gold[i] for i in row], [predicted[i] for i in row]) for predicted in REPLIES_BY_DRAW]
        for row in resampled
    ]
    assert intervals["primary_metric"]["cause"] == pytest.approx(widen(np.mean(each, axis=1), 6))
    # By hand: F1 of a, b, c is 1, 1, 2/3 in the first draw; 1/2, 4/5, 2/3 in the second; 0, 1, 0 in the third.
    assert intervals["primary_metric"]["cause"][0] == pytest.approx((8 / 9 + 59 / 90 + 1 / 3) / 3)
    right = np.asarray(
        [
            [float(reply == answer) for reply, answer in zip(predicted, gold, strict=True)]
            for predicted in REPLIES_BY_DRAW
        ]
    )
    plain = right.mean(axis=0)[resampled].mean(axis=1)
    assert intervals["label_accuracy"]["cause"] == pytest.approx(widen(plain, 6))
    cells = [
        c
        for c in compute_results({"base": rows}, list(questions.values()), 50)["scores"]
        if c["measure"] == "label_accuracy"
    ]
    assert [cell["value"] for cell in cells] == [pytest.approx((5 / 6 + 4 / 6 + 2 / 6) / 3)] * 2
    assert [cell["draws"] for cell in cells if cell["task"] == "all"] == [pytest.approx([5 / 6, 4 / 6, 2 / 6])]


def test_a_further_draw_with_the_same_replies_changes_nothing() -> None:
    questions = [Question(f"n{n}", "figure", "number", "How many?", "x", (str(n),)) for n in range(10)]
    one, three = (
        [answer_row(q, draw, str(n % 4)) for draw in range(count) for n, q in enumerate(questions)] for count in (1, 3)
    )
    same = compute_results({"base": one, "specialized": three}, questions, 100)
    assert max(abs(row[side]) for row in same["differences"] for side in ("value", "low", "high")) < 1e-12


def simulate_labels(rng: np.random.Generator, count: int) -> tuple[list[str], list[list[str]]]:
    """Gold labels, and predictions of two models that find the same questions hard: right in 50% and 60%."""
    gold, hard = rng.choice(CAUSES, count, p=[0.5, 0.3, 0.2]), rng.random(count)
    predicted = []
    for share in (0.5, 0.6):
        luck = np.where(rng.random(count) < 0.5, hard, rng.random(count))
        predicted.append(np.where(luck < share, gold, rng.choice(CAUSES, count)).tolist())
    return gold.tolist(), predicted


def by_class(gold: list[str], predicted: list[str]) -> list[dict[str, tuple[int, int, int]]]:
    """(true positives, false positives, false negatives) of each label, question by question."""
    pairs = list(zip(gold, predicted, strict=True))
    return [{c: (int(g == s == c), int(s == c != g), int(g == c != s)) for c in CAUSES} for g, s in pairs]


def coverage(truths: list[float], intervals: list[list[Interval]]) -> list[float]:
    """The share of intervals that contain each truth."""
    return [
        float(np.mean([i.low <= truth <= i.high for i in column]))
        for truth, column in zip(truths, zip(*intervals, strict=True), strict=True)
    ]


def test_intervals_of_shares_and_their_differences_cover_the_truth() -> None:
    """2,000 simulated evaluations: the standard error of a coverage of 95% is half a point."""
    rng = np.random.default_rng(0)
    for count in (100, 250):
        intervals = []
        for repetition in range(2000):
            rows, hard = bootstrap_draws(count, 400, f"{repetition}"), rng.random(count)
            luck = np.where(rng.random(count) < 0.5, hard, rng.random(count))
            base, better = (mean_measure(list(values))(rows) for values in (1.0 * (hard < 0.6), 1.0 * (luck < 0.7)))
            intervals.append(
                [percentile_interval(base), percentile_interval(better), percentile_interval(better - base)]
            )
        assert all(0.93 <= share <= 0.97 for share in coverage([0.6, 0.7, 0.1], intervals))


def test_the_spread_is_widened_to_that_of_a_sample_and_the_value_is_unchanged() -> None:
    values = np.asarray([0.5, 0.25, 0.75, 0.5])
    assert widen(values, 5) == pytest.approx(0.5 + np.sqrt(5 / 4) * np.asarray([0, -0.25, 0.25, 0]))
    assert widen(values, 1) == pytest.approx(values)  # one question has no spread to correct
    rng = np.random.default_rng(3)
    replies = rng.random(12)
    many = widen(mean_measure(list(replies))(bootstrap_draws(12, 20_000, "many")), 12)
    assert many[1:].std() == pytest.approx(replies.std(ddof=1) / np.sqrt(12), rel=0.02)  # the standard error


def test_intervals_of_an_overall_difference_cover_the_truth_with_few_questions_a_task() -> None:
    """1,000 simulated evaluations of 10 tasks with 12 questions: the standard error of a coverage is 0.7 points."""
    rng, count = np.random.default_rng(4), 12
    intervals, narrow = [], []
    for repetition in range(1000):
        by_task = []
        for task in range(10):
            rows, hard = bootstrap_draws(count, 400, f"{repetition}/{task}"), rng.random(count)
            luck = np.where(rng.random(count) < 0.5, hard, rng.random(count))
            by_task.append(mean_measure(list(1.0 * (luck < 0.7) - 1.0 * (hard < 0.6)))(rows))
        wide = {str(task): widen(values, count) for task, values in enumerate(by_task)}
        intervals.append([percentile_interval(mean_over_tasks(wide))])
        narrow.append([percentile_interval(np.mean(by_task, axis=0))])
    (share,), (without,) = coverage([0.1], intervals), coverage([0.1], narrow)
    assert 0.93 <= share <= 0.97 and without < share


@pytest.mark.slow
@pytest.mark.parametrize("count", [100, 250])
def test_intervals_of_macro_f1_and_its_differences_cover_the_truth(count: int) -> None:
    rng = np.random.default_rng(1)
    gold, predicted = simulate_labels(rng, 400_000)  # an approximation of the population
    truths = [float(f1_score(gold, replies, average="macro")) for replies in predicted]
    intervals = []
    for repetition in range(2000):
        rows, (gold, predicted) = bootstrap_draws(count, 400, f"{repetition}"), simulate_labels(rng, count)
        base, better = (f1_measure(by_class(gold, replies))(rows) for replies in predicted)
        intervals.append([percentile_interval(base), percentile_interval(better), percentile_interval(better - base)])
    assert all(0.93 <= share <= 0.97 for share in coverage([*truths, truths[1] - truths[0]], intervals))


def test_a_custom_metric_is_the_mean_of_its_values_and_undefined_replies_are_left_out() -> None:
    questions = [Question(f"n{n}", "figure", "number", "How many?", "x", (str(n),)) for n in range(6)]
    questions += [Question(f"t{n}", "text", "text", "Tell.", "x", ("a",)) for n in range(6)]
    rows = [{**answer_row(question, 0, question.id), "task_type": question.task_type} for question in questions]

    def last_digit(question: Question, reply: str) -> float | None:
        return int(reply[-1]) / 10 if question.kind == "number" and reply != "n5" else None

    own = {"digit": ReportedMetric("digit", _mean_of_replies("digit", last_digit))}
    report = compute_results({"base": rows, "specialized": rows}, questions, 200, custom_metrics=own)
    cells = {cell["task"]: cell for cell in report["scores"] if cell["measure"] == "digit" and cell["model"] == "base"}
    assert set(cells) == {"figure", "all"} and cells["figure"]["value"] == pytest.approx(0.2)
    assert cells["figure"]["low"] < 0.2 < cells["figure"]["high"]
    assert report["measures"] == {**MEASURES, "digit": "digit"}
    assert {row["value"] for row in report["differences"] if row["measure"] == "digit"} == {0.0}


def test_models_are_compared_on_the_tasks_where_both_have_a_value() -> None:
    """A metric may apply to the replies of one model alone."""
    questions = [
        Question(f"{task}{n}", task, "text", "Tell.", "x", ("a",)) for task in ("one", "two") for n in range(4)
    ]
    base = [{**answer_row(question, 0, "yes"), "task_type": question.task_type} for question in questions]
    tuned = [{**row, "reply": "no" if row["task_type"] == "one" else ""} for row in base]
    values = {"yes": 0.75, "no": 0.25, "": None}
    own = {"given": ReportedMetric("given", _mean_of_replies("given", lambda _, reply: values[reply]))}
    report = compute_results({"base": base, "specialized": tuned}, questions, 100, custom_metrics=own)
    differences = {row["task"]: row["value"] for row in report["differences"] if row["measure"] == "given"}
    assert differences == {"one": -0.5, "all": -0.5}


@pytest.mark.parametrize("result", [1.5, -0.1, float("nan"), "much"])
def test_a_custom_metric_outside_zero_to_one_is_refused(result: Any) -> None:
    question = Question("q7", "task", "text", "Tell.", "x", ("a",))
    own = {"odd": ReportedMetric("odd", _mean_of_replies("odd", lambda _, reply: result))}
    rows = [{**answer_row(question, 0, "a"), "task_type": "task"}]
    with pytest.raises(UserError, match=r"The metric odd of evaluation.metrics .* on the question q7"):
        compute_results({"base": rows}, [question], 10, custom_metrics=own)


def test_names_of_custom_metrics_are_unique() -> None:
    spec = {"_target_": f"{__name__}.named", "name": "mine"}
    assert list(build_custom_metrics([spec, {**spec, "name": "yours"}])) == ["mine", "yours"]
    for name in ("token_f1", "macro F1", "F1 of yes", "macro F1 by topic"):
        with pytest.raises(UserError, match=f"the name '{name}' is taken"):
            build_custom_metrics([{**spec, "name": name}])
    with pytest.raises(UserError, match=r"evaluation.metrics\[1\]: the name 'mine' is taken"):
        build_custom_metrics([spec, spec])


def named(name: str) -> Any:
    """A metric with this name."""

    def metric(question: Question, reply: str) -> float:
        return 1.0

    metric.name = name  # type: ignore[attr-defined]
    return metric
