"""Filters by samples, margins and counts of labels: self-consistency, judge (its AUC is sklearn's), balance."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from filter_candidates import CLOSED, of
from selfspec.data.records import Draft, Seed
from selfspec.filters.balance import LabelBalance
from selfspec.filters.judge import Calibration, Judge, calibrate_judge, corrupt_answer
from selfspec.filters.protocol import Candidate
from selfspec.filters.self_consistency import SelfConsistency

YES_NO = Draft("verdict", "Did the rates rise?", "Rates rose twice in the spring.", ("yes", "no", "not sure"))


def vote(kind: str, samples: list[str], majority: float) -> tuple[str, str]:
    """(the label after self-consistency, "maybe" if it did not change; the reason for dropping it)."""
    candidate = Candidate("row", YES_NO, kind, output="maybe", samples=tuple(samples))
    reason = SelfConsistency(majority).check(candidate)
    return candidate.output, reason


@settings(deadline=None)
@given(st.integers(1, 12), st.lists(st.sampled_from(["no", "maybe", "", "yes and no"]), max_size=20))
def test_a_label_with_exactly_three_fifths_of_all_samples_has_a_majority(count: int, others: list[str]) -> None:
    samples = random.Random(count).sample(["yes"] * count + others, count + len(others))
    label, times = Counter(text for text in samples if text in ("yes", "no")).most_common(1)[0]
    enough = Fraction(times, len(samples)) >= Fraction(3, 5)
    assert vote("label", samples, 0.6) == ((label, "") if enough else ("maybe", "no majority"))


@pytest.mark.parametrize(
    ("samples", "kind", "majority", "expected"),
    [
        (["yes"] * 3 + ["no"] * 2, "label", 0.6, ("yes", "")),
        (["yes"] * 3 + ["junk"] * 2, "label", 0.6, ("yes", "")),
        (["yes"] * 2 + ["junk"] * 3, "label", 0.6, ("maybe", "no majority")),  # junk counts against
        (["junk"] * 5, "label", 0.6, ("maybe", "no majority")),  # and is no label itself
        ([" YES.", "yes", "Yes!\n", "no", "No"], "label", 0.6, ("yes", "")),
        (["Not  sure", "not sure.", "NOT SURE"], "label", 0.6, ("not sure", "")),
        (["no; yes", "Yes, no", "yes; no", "yes", "none"], "labels", 0.6, ("yes; no", "")),
        (["none"] * 4 + ["yes"], "labels", 0.6, ("none", "")),
        (["yes"] * 14 + ["no"] * 11, "label", 0.56, ("yes", "")),  # 0.56 * 25 is more than 14 in floats
        (["yes"] * 5, "label", 1.0, ("yes", "")),
        (["yes"] * 4 + ["no"], "label", 1.0, ("maybe", "no majority")),
    ],
)
def test_samples_are_spelled_as_their_options_before_they_are_counted(
    samples: list[str], kind: str, majority: float, expected: tuple[str, str]
) -> None:
    assert vote(kind, samples, majority) == expected


def test_self_consistency_applies_to_closed_tasks_only() -> None:
    kinds = ("label", "labels", "short", "list", "entities", "number", "text")
    assert [kind for kind in kinds if SelfConsistency(0.6).applies(Candidate("row", YES_NO, kind))] == [
        "label",
        "labels",
    ]


def judged(margin: float, calibration: Calibration) -> str:
    """The judge's verdict on a candidate with this margin."""
    return Judge(lambda: calibration).check(replace(of(YES_NO), margin=margin))


MARGINS = st.lists(
    st.sampled_from([-2.0, -0.5, -0.0, 0.25, 0.25000001, 3.0]) | st.floats(-9, 9), min_size=1, max_size=15
)


@settings(deadline=None)
@given(MARGINS, MARGINS, st.floats(0, 1))
def test_the_judges_auc_equals_sklearns_and_its_threshold_separates_best(
    right: list[float], wrong: list[float], least: float
) -> None:
    calibration = calibrate_judge(right, wrong, least)
    assert calibration.auc == pytest.approx(roc_auc_score([1] * len(right) + [0] * len(wrong), [*right, *wrong]))
    assert (calibration.seeds, calibration.filters) == (len(right), calibration.auc >= least)

    def youden(threshold: float) -> float:
        return sum(m >= threshold for m in right) / len(right) - sum(m >= threshold for m in wrong) / len(wrong)

    every = [*right, *wrong]
    assert youden(calibration.threshold) == pytest.approx(max(map(youden, every)))
    kept = [judged(margin, calibration) == "" for margin in every]
    assert kept == [not calibration.filters or margin >= calibration.threshold for margin in every]


def test_a_judge_under_the_least_auc_drops_nothing() -> None:
    blind = calibrate_judge([0.0, 1.0], [0.0, 1.0], 0.6)
    assert (blind.auc, blind.filters) == (0.5, False)
    assert judged(-1e9, blind) == ""
    good = calibrate_judge([1.0, 2.0, -3.0], [-1.0, 0.0, -2.0], 0.6)
    assert (good.auc, good.threshold, good.filters) == (pytest.approx(6 / 9), 1.0, True)
    assert (judged(0.9, good), judged(1.0, good)) == ("judged wrong", "")


OUTPUTS = st.sampled_from(["yes", "no", "perhaps"])
OPEN_ROWS = st.builds(lambda task, text: (task, text, ()), st.sampled_from(["why", "when"]), st.sampled_from("abcd"))
CLOSED_ROWS = st.builds(lambda text: ("verdict", text, ("yes", "no", "perhaps")), OUTPUTS)


@settings(deadline=None)
@given(st.lists(OPEN_ROWS | CLOSED_ROWS, min_size=1, max_size=12), st.integers(0, 5))
def test_a_corrupted_answer_is_another_answer_and_for_labels_another_option(
    rows: list[tuple[str, str, tuple[str, ...]]], number: int
) -> None:
    seeds = [Seed(f"s{n}", task, "What?", "A text.", text, options=o) for n, (task, text, o) in enumerate(rows)]
    for seed in seeds:
        wrong = corrupt_answer(seed, seeds, random.Random(number))
        assert wrong != seed.output
        assert wrong == corrupt_answer(seed, seeds, random.Random(number))
        alike = {other.output for other in seeds if other.task_type == seed.task_type} - {seed.output}
        anything = {other.output for other in seeds} - {seed.output}
        assert wrong in (set(seed.options) or alike or anything or {""})


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "c"]), max_size=64), st.lists(st.sampled_from(["yes", "no"]), max_size=64))
def test_in_a_block_no_label_leads_the_rarest_of_its_task_type_by_more_than_two(
    three: list[str], two: list[str]
) -> None:
    rows = [("topic", label, ("a", "b", "c")) for label in three] + [("verdict", label, ("yes", "no")) for label in two]
    balance, kept = LabelBalance(), Counter[tuple[str, str]]()

    def lead(task: str, label: str, options: Sequence[str]) -> int:
        return kept[task, label] - min(kept[task, option] for option in options)

    for task, label, options in random.Random(len(rows)).sample(rows, len(rows)):
        candidate = Candidate("row", Draft(task, "Which?", "A text.", options), "label", output=label)
        assert balance.applies(candidate)
        reason = balance.check(candidate)
        kept[task, label] += 1
        if reason:
            assert reason == f"label {label} leads" and lead(task, label, options) > 2  # not dropped for less
            kept[task, label] -= 1
        else:
            assert lead(task, label, options) <= 2
            balance.keep(candidate)


def test_label_counts_start_at_zero_in_every_block() -> None:
    balance = LabelBalance()

    def check(block: int, label: str) -> str:
        candidate = Candidate("row", CLOSED, "label", block, output=label)
        if not (reason := balance.check(candidate)):
            balance.keep(candidate)
        return reason

    for block in range(2):
        assert [check(block, "yes") for _ in range(3)] == ["", "", "label yes leads"]
        assert [check(block, label) for label in ("no", "yes")] == ["", ""]


def test_balance_applies_to_single_labels_among_the_options_only() -> None:
    assert LabelBalance().applies(Candidate("row", CLOSED, "label", output="yes"))
    assert not LabelBalance().applies(Candidate("row", CLOSED, "label", output="maybe"))
    assert not LabelBalance().applies(Candidate("row", CLOSED, "labels", output="yes"))
