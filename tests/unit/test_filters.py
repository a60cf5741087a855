"""Each built-in filter drops a candidate for its own reasons alone; novelty equals rouge_score, the AUC sklearn's."""

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import roc_auc_score

from selfspec.config.schema import DomainConfig, TaskType
from selfspec.data.reading import read_question_texts
from selfspec.data.records import Draft, Seed
from selfspec.data.text import words
from selfspec.filters.answer import Answer
from selfspec.filters.balance import LabelBalance
from selfspec.filters.contamination import Contamination
from selfspec.filters.duplicate import DuplicateInputs
from selfspec.filters.echo import Echo
from selfspec.filters.form import Form
from selfspec.filters.grounding import extractive_task_types
from selfspec.filters.judge import Calibration, Judge, calibrate_judge, corrupt_answer
from selfspec.filters.labels import canonical_label
from selfspec.filters.novelty import Novelty
from selfspec.filters.numbers import check_number
from selfspec.filters.protocol import Candidate
from selfspec.filters.self_consistency import SelfConsistency

THRESHOLD = 0.7
SCORER = RougeScorer(["rougeL"], use_stemmer=False)
# few words, so that many scores fall at 0.7 or near it; they differ in what a tokenizer may treat differently
TEXT = st.lists(st.sampled_from(["Alpha", "alpha,", "beta", "GAMMA-beta", "é", "3"]), max_size=12).map(" ".join)
DRAFTS = st.builds(Draft, st.just("summary"), TEXT, TEXT, st.just(()))


def of(draft: Draft, name: str = "row") -> Candidate:
    """A candidate of a free text task."""
    return Candidate(name, draft, "text")


@cache
def is_near(one: str, other: str) -> bool:
    """Self-Instruct's decision, by the package that it uses."""
    return bool(SCORER.score(one, other)["rougeL"].fmeasure > THRESHOLD)


def expected_novelty(draft: Draft, kept: list[tuple[str, Draft]]) -> str:
    """The verdict of novelty, computed pair by pair."""
    for name, earlier in kept:
        if is_near(f"{earlier.instruction} {earlier.input}", f"{draft.instruction} {draft.input}"):
            return f"near {name}"
    return ""


@settings(deadline=None, max_examples=400)
@given(st.lists(DRAFTS, min_size=1, max_size=2), DRAFTS)
def test_novelty_against_seeds_equals_rouge_score(earlier: list[Draft], draft: Draft) -> None:
    kept = [(f"s{number}", one) for number, one in enumerate(earlier)]
    seeds = [Seed(name, one.task_type, one.instruction, one.input, "an output") for name, one in kept]
    assert Novelty(seeds, THRESHOLD).check(of(draft)) == expected_novelty(draft, kept)


@settings(deadline=None)
@given(st.lists(DRAFTS, max_size=12))
def test_novelty_of_a_sequence_equals_rouge_score(drafts: list[Draft]) -> None:
    novelty, kept = Novelty([], THRESHOLD), list[tuple[str, Draft]]()
    for place, draft in enumerate(drafts):
        reason = novelty.check(of(draft))
        assert reason == expected_novelty(draft, kept)
        if not reason:
            novelty.keep(of(draft, f"row {place}"))
            kept.append((f"row {place}", draft))


def test_novelty_equals_rouge_score_where_the_score_is_exactly_the_threshold() -> None:
    for total in (20, 40, 60):
        common = round(THRESHOLD * total / 2)
        for length in range(common, total - common + 1):
            one = " ".join([f"c{n}" for n in range(common)] + [f"x{n}" for n in range(length - common)])
            two = " ".join([f"c{n}" for n in range(common)] + [f"y{n}" for n in range(total - length - common)])
            for more in ("", " c0"):  # at the threshold, and just below it
                draft = Draft("summary", two + more, "", ())
                reason = Novelty([Seed("s1", "summary", one, "", "an output")], THRESHOLD).check(of(draft))
                assert bool(reason) == is_near(f"{one} ", f"{two}{more} "), (one, two + more)


@settings(deadline=None)
@given(st.lists(TEXT, max_size=4), st.lists(TEXT, max_size=12))
def test_the_first_candidate_with_an_input_passes_unless_a_seed_has_that_input(
    inputs: list[str], texts: list[str]
) -> None:
    seeds = [Seed(f"s{n}", "summary", "Shorten it.", text, "Words.") for n, text in enumerate(inputs)]
    duplicates, first = DuplicateInputs(seeds), dict[tuple[str, ...], str]()
    for seed in seeds:
        first.setdefault(tuple(words(seed.input)), seed.id)
    for place, text in enumerate(texts):
        key = tuple(words(text))
        original = first.get(key) if key else None  # an input without words is never a duplicate
        candidate = of(Draft("verdict", f"Look at number {place}.", text, ()), f"row {place}")
        reason = duplicates.check(candidate)
        assert reason == (f"same input as {original}" if original else "")
        if not reason:
            duplicates.keep(candidate)
            first[key] = f"row {place}"


def test_a_candidate_that_was_not_kept_has_no_duplicates() -> None:
    duplicates = DuplicateInputs([])
    candidate = of(Draft("summary", "Shorten it.", "Rates rose twice.", ()))
    assert duplicates.check(candidate) == duplicates.check(candidate) == ""


OPEN = Draft("summary", "Shorten the text below.", "Rates rose twice in the spring.", ())
CLOSED = Draft("verdict", "Did the rates rise?", "Rates rose twice in the spring.", ("yes", "no"))


@pytest.mark.parametrize(
    ("draft", "finished", "reason"),
    [
        (OPEN, True, ""),
        (CLOSED, True, ""),
        (replace(OPEN, instruction="word " * 150), True, ""),
        (replace(OPEN, input="Rates rose in the spring."), True, ""),
        (OPEN, False, "truncated"),
        (replace(OPEN, instruction="Shorten it."), True, "instruction too short"),
        (replace(OPEN, instruction="word " * 151), True, "instruction too long"),
        (replace(OPEN, input="Rates rose in spring."), True, "input too short"),
    ],
)
def test_an_incomplete_task_or_one_of_wrong_length_is_dropped(draft: Draft, finished: bool, reason: str) -> None:
    assert Form().check(replace(of(draft), finished=finished)) == reason


def test_an_instruction_of_three_words_is_dropped_as_in_self_instruct() -> None:
    assert Form().check(of(replace(OPEN, instruction="Shorten this text."))) == "instruction too short"
    assert Form().check(of(replace(OPEN, instruction="Shorten this text, please."))) == ""


SHOTS = (
    Seed("s1", "summary", "Say it again now.", "one two three four five six seven eight", "an output of no note"),
    Seed("s2", "summary", "Name the three noble gases.", "", "alpha beta gamma delta epsilon zeta eta theta iota"),
)


@pytest.mark.parametrize(
    ("instruction", "text", "reason"),
    [
        ("Shorten it.", "One, two, three, four, five a b c d e", "echo of s1"),
        ("Shorten it.", "one two three four five a b c d e f", ""),  # under a half of its own words
        ("Shorten it.", "one two three four", ""),  # all of it, but too little
        ("Shorten it.", "one two x three four five six", ""),  # no run of five
        ("Please name the three noble gases", "", "echo of s2"),
        ("Name the three noble gases.", "a b c d e f", ""),  # instructions may repeat, inputs not
    ],
)
def test_a_task_that_repeats_a_seed_of_its_prompt_is_dropped(instruction: str, text: str, reason: str) -> None:
    assert Echo().check(replace(of(Draft("summary", instruction, text, ())), seeds=SHOTS)) == reason


def check_answer(
    draft: Draft, kind: str, text: str, finished: bool = True, extractive: bool = False
) -> tuple[str, str]:
    """(the answer as it is kept, the reason for dropping it or an empty string)."""
    tasks = {draft.task_type: TaskType(kind, "about")}
    seeds = [Seed("x1", draft.task_type, "What?", "Rates; rose", "rates; rose")] if extractive else []
    answer = Answer(seeds, DomainConfig("d", "an expert", tasks, seeds="", evaluation=""))
    candidate = Candidate("row", draft, kind, output=text.strip(), output_finished=finished, output_seeds=SHOTS)
    reason = answer.check(candidate)
    return candidate.output, reason


TALE = Draft("summary", "Shorten it.", "Rates rose twice in the spring and then fell again in the autumn", ())


@pytest.mark.parametrize(
    ("draft", "kind", "text", "finished", "kept", "reason"),
    [
        (TALE, "text", " Rates rose, then fell.\n", True, "Rates rose, then fell.", ""),
        (TALE, "text", " \n", True, "", "empty"),
        (TALE, "text", "Rates rose and", False, "Rates rose and", "truncated"),
        (CLOSED, "label", "Yes.", True, "yes", ""),
        (CLOSED, "label", "maybe", True, "maybe", "label outside the options"),
        (CLOSED, "labels", "yes; maybe", True, "yes; maybe", "label outside the options"),
        (TALE, "short", "shorten it", True, "shorten it", "echo"),
        (TALE, "text", TALE.input.upper(), True, TALE.input.upper(), "echo"),
        (TALE, "text", "So rates rose twice in the spring and then", True,
         "So rates rose twice in the spring and then", "echo"),
        (TALE, "short", "twice in the spring and then fell again in", True,
         "twice in the spring and then fell again in", ""),  # a short answer may stand in the input
        (TALE, "list", "alpha; beta; gamma; delta; epsilon; zeta; eta; theta", True,
         "alpha; beta; gamma; delta; epsilon; zeta; eta; theta", "echo"),
        (TALE, "list", "alpha; beta; gamma; delta; epsilon; zeta; eta", True,
         "alpha; beta; gamma; delta; epsilon; zeta; eta", ""),
        (TALE, "text", "It rose. It fell, it rose; It rose!", True, "It rose. It fell, it rose; It rose!",
         "repeated clause"),
        (TALE, "text", "It rose. It fell. It rose.", True, "It rose. It fell. It rose.", ""),
    ],
)  # fmt: skip
def test_an_answer_that_cannot_be_right_is_dropped(
    draft: Draft, kind: str, text: str, finished: bool, kept: str, reason: str
) -> None:
    assert check_answer(draft, kind, text, finished) == (kept, reason)


@pytest.mark.parametrize(
    ("output", "options", "kind", "spelled"),
    [
        (" YES! ", ("yes", "no"), "label", "yes"),
        ("Not  Causal.", ("causal", "not causal"), "label", "not causal"),
        ("yes it is", ("yes", "no"), "label", ""),
        ("yes; no", ("yes", "no"), "label", ""),
        ("none", ("yes", "no"), "label", ""),
        ("cancer, Infection", ("infection", "cancer", "heart"), "labels", "infection; cancer"),
        ("Cancer; cancer", ("infection", "cancer"), "labels", "cancer"),
        ("None.", ("infection", "cancer"), "labels", "none"),
        ("none; cancer", ("infection", "cancer"), "labels", ""),
        ("...", ("infection", "cancer"), "labels", ""),
    ],
)
def test_a_closed_answer_takes_the_spelling_of_its_options(
    output: str, options: tuple[str, ...], kind: str, spelled: str
) -> None:
    assert canonical_label(output, options, kind) == spelled


SPANS = Draft("question", "Which rates?", "The ECB (euro area) raised its deposit rate twice in spring.", ())
LAWS = ("tort", "contract law", "tax")


@pytest.mark.parametrize(
    ("kind", "text", "extractive", "reason"),
    [
        ("short", "deposit rate", True, ""),
        ("short", "The Deposit RATE.", True, "span not in the input"),  # "the deposit rate" is no run of the input
        ("short", "its Deposit RATE.", True, ""),  # case and punctuation don't count
        ("short", "posit rate", True, "span not in the input"),  # whole words
        ("short", "raised deposit", True, "span not in the input"),  # in a row
        ("short", "...", True, "span not in the input"),
        ("short", "a lending rate", False, ""),
        ("list", "ECB; spring", True, ""),
        ("list", "ECB; summer", True, "item not in the input"),
        ("list", "Fed; summer", False, ""),
        ("list", "ECB", True, "no list"),
        ("list", "ECB;", False, "no list"),
        ("list", "ECB;\nspring", False, "no list"),
        ("entities", "ECB (bank); euro area (place)", False, ""),
        ("entities", "none", False, ""),
        ("entities", "ECB (bank); Fed (bank)", False, "entity not in the input"),
        ("entities", "ecb (bank)", False, "entity not in the input"),  # a mention is copied, not written anew
        ("entities", "ECB", False, "no mention (type)"),
        ("entities", "ECB (bank); spring", False, "no mention (type)"),
        ("text", "The Fed cut once.", True, ""),  # free text is never a span
    ],
)
def test_an_answer_that_must_come_from_its_input_is_dropped_if_it_does_not(
    kind: str, text: str, extractive: bool, reason: str
) -> None:
    assert check_answer(SPANS, kind, text, extractive=extractive) == (text, reason)


@pytest.mark.parametrize(
    ("kind", "text", "kept", "reason"),
    [
        ("label", "Contract  LAW.", "contract law", ""),
        ("label", "contract", "contract", "label outside the options"),
        ("label", "tort; tax", "tort; tax", "label outside the options"),
        ("labels", "tax, Tort", "tort; tax", ""),  # in the order and spelling of the options
        ("labels", "none", "none", ""),
        ("labels", "tort; crime", "tort; crime", "label outside the options"),
    ],
)
def test_a_label_must_be_one_of_its_options(kind: str, text: str, kept: str, reason: str) -> None:
    assert check_answer(replace(SPANS, options=LAWS), kind, text) == (kept, reason)


def extractive_seeds(kind: str, matches: int, others: int) -> list[Seed]:
    """Seeds of one task type, of which `matches` have their answer in their input."""
    outputs = ["rose" if kind == "short" else "rose; rates"] * matches
    outputs += ["fell" if kind == "short" else "rose; fell"] * others
    return [Seed(f"s{n}", kind, "What?", "Rates rose.", output) for n, output in enumerate(outputs)]


@pytest.mark.parametrize("kind", ["short", "list"])
@pytest.mark.parametrize(
    ("matches", "misses", "extractive"), [(1, 0, True), (9, 1, True), (18, 2, True), (8, 1, False)]
)
def test_a_task_type_is_extractive_if_nine_tenths_of_its_seeds_have_the_answer_in_the_input(
    kind: str, matches: int, misses: int, extractive: bool
) -> None:
    kinds = {"short": "short", "list": "list", "free": "text"}
    seeds = [*extractive_seeds(kind, matches, misses), Seed("o1", "free", "Shorten it.", "Rates rose.", "Rates rose.")]
    assert extractive_task_types(seeds, kinds) == ({kind} if extractive else set())


AMOUNT = st.decimals(1, 9999, places=2).map(lambda number: f"{number.normalize():f}")
SUMS = {
    "sum": lambda a, b: a + b,
    "difference": lambda a, b: a - b,
    "product": lambda a, b: a * b,
    "quotient": lambda a, b: a / b,
    "share in percent": lambda a, b: 100 * a / b,
    "change in percent": lambda a, b: 100 * (a - b) / b,
    "percentage of": lambda a, b: a * b / 100,
}


@settings(deadline=None)
@given(AMOUNT, AMOUNT, st.sampled_from(sorted(SUMS)), st.integers(0, 3), st.booleans())
def test_the_result_of_two_numbers_passes_rounded_to_the_decimals_that_are_written(
    one: str, other: str, name: str, decimals: int, commas: bool
) -> None:
    assume(one != other)
    result = SUMS[name](float(one), float(other))
    written = f"{result:,.{decimals}f}" if commas else f"{result:.{decimals}f}"
    assert check_number(f"Find the {name}.\nSales of {one} euros, and costs of {other}.", written) == ""


@pytest.mark.parametrize(
    ("task", "right", "wrong"),
    [
        ("Sales of 120 and costs of 45.", ["75", "75.0", "165", "2.67", "2.7", "37.5%", "-75", "120"],
         ["76", "2.68", "74.9", "166", "50"]),
        ("Sales were 1,250,000 and costs 400,000.50 dollars.", ["849,999.5", "849999.50", "850000", "1650000.5"],
         ["849", "849998.5", "851,000", "250000"]),  # 1, 250 and 000 are no numbers of the task
        ("It sold 10, 20 and 60 units.", ["90", "30", "-30", "50", "70"], ["91", "40.5", "29"]),
        ("Mean of 3, 4, 5, 8 and 9.", ["5.8", "29", "6"], ["5.9", "28", "31"]),
        ("A rate of 2.5% on 8000.", ["200", "200.00", "8002.5"], ["201", "8003.5", "210"]),
        ("In 2019 there were 7.", ["7", "2,026", "2012"], ["8", "2027", "14000"]),
    ],
)  # fmt: skip
def test_a_number_that_no_short_formula_gives_is_dropped(task: str, right: list[str], wrong: list[str]) -> None:
    assert {text: check_number(task, text) for text in right} == dict.fromkeys(right, "")
    assert {text: check_number(task, text) for text in wrong} == dict.fromkeys(wrong, "number does not follow")


@pytest.mark.parametrize("written", ["80", "0", "1600", "1.0"])
def test_a_number_that_a_task_has_twice_may_be_used_twice(written: str) -> None:
    assert check_number("It sold 40 units in May and 40 in June.", written) == ""


@pytest.mark.parametrize("text", ["", "about 75", "75 euros", "nan", "inf", "-", "%", "7 5"])
def test_an_answer_that_is_not_a_bare_number_is_dropped(text: str) -> None:
    assert check_number("Sales of 120 and costs of 45.", text) == "no number"


def test_a_number_that_follows_from_its_input_is_kept_as_written() -> None:
    draft = Draft("numeric", "What is the profit?", "Sales of 1,200 and costs of 450.", ())
    assert check_answer(draft, "number", " 750\n") == ("750", "")
    assert check_answer(draft, "number", "751") == ("751", "number does not follow")


QUESTION = [f"q{n}" for n in range(40)]
OTHER_WORDS = st.lists(st.integers(0, 99).map(lambda n: f"x{n}"), max_size=15)


def longest_run(length: int, question: int, least: int) -> int:
    """The longest run that counts in `length` consecutive words of a question of `question` words."""
    sizes = {min(size, question) for size in (least, 13, 8) if size >= least}
    return max((size for size in sizes if 5 <= size <= length), default=0)


@settings(deadline=None)
@example(13, 27, 13, [], [], 8, 0)
@example(8, 0, 8, ["x1"], ["x1"], 8, 0)
@example(12, 3, 40, [], [], 8, 0)
@example(7, 3, 40, [], [], 8, 0)
@given(
    st.integers(1, 20),
    st.integers(0, 40),
    st.integers(1, 40),
    OTHER_WORDS,
    OTHER_WORDS,
    st.sampled_from([8, 8, 8, 5, 10, 13, 20]),
    st.randoms(use_true_random=False),
)
def test_a_run_of_a_questions_words_is_reported_with_its_length_and_question(
    length: int, start: int, question: int, before: list[str], after: list[str], least: int, rng: object
) -> None:
    question_words = QUESTION[:question]
    run = question_words[start : start + length]
    separators = random.Random(repr(rng)).choices([" ", ", ", "\n", " - "], k=200)
    text = "".join(word.upper() + mark for word, mark in zip([*before, *run, *after], separators, strict=False))
    other = ("other", " ".join(f"y{n}" for n in range(30)))
    size = longest_run(len(run), question, least)
    contamination = Contamination([other, ("q1", " ".join(question_words))], least)
    assert contamination.check_passage(text) == (f"{size} words of q1" if size else "")
    assert contamination.check(of(Draft("summary", " ".join(question_words), text, ()))) == contamination.check_passage(
        text
    )
    assert contamination.overlapping([text, "x1 x2"]) == ({"q1"} if size else set())


@settings(deadline=None)
@given(st.integers(8, 40), st.lists(st.integers(1, 7), min_size=1, max_size=30), st.integers(0, 33))
def test_a_text_that_has_a_questions_words_but_no_run_of_eight_passes(
    question: int, lengths: list[int], start: int
) -> None:
    pieces = [QUESTION[(start + 5 * n) % 33 :][:length] for n, length in enumerate(lengths)]
    text = " x ".join(" ".join(piece) for piece in pieces)
    assert Contamination([("q1", " ".join(QUESTION[:question]))], 8).check_passage(text) == ""


@pytest.mark.parametrize("count", range(1, 10))
def test_a_question_under_eight_words_counts_as_a_whole_and_one_under_five_never(count: int) -> None:
    contamination = Contamination([("q1", " ".join(QUESTION[:count]))], 8)
    whole = " ".join(["x", *QUESTION[:count], "x"])
    assert contamination.check_passage(whole) == ("" if count < 5 else f"{count} words of q1")
    assert contamination.check_passage(" ".join(QUESTION[: min(count, 8) - 1])) == ""


@pytest.mark.parametrize(
    ("of_seed", "length", "reason"),
    [
        (0, 8, "8 words of q1"),
        (7, 8, "8 words of q1"),  # the seed has no whole run
        (8, 8, ""),
        (8, 9, "8 words of q1"),  # the second eight are in no seed
        (12, 13, "13 words of q1"),
        (13, 13, ""),
        (20, 13, ""),
    ],
)
def test_a_run_that_a_seed_has_too_does_not_count(of_seed: int, length: int, reason: str) -> None:
    texts = ["A text of another kind.", f"x {' '.join(QUESTION[:of_seed])} x"]
    seeds = [Seed(f"s{n}", "summary", "Shorten it.", text, "Words.") for n, text in enumerate(texts)]
    contamination = Contamination([("q1", " ".join(QUESTION)), ("other", "y " * 20)], 8, seeds)
    assert contamination.check_passage(f"z, {' '.join(QUESTION[:length]).upper()}!") == reason
    assert contamination.overlapping([" ".join(QUESTION[:length])]) == ({"q1"} if reason else set())


def test_a_question_is_compared_by_its_input_or_without_one_by_its_instruction(tmp_path: Path) -> None:
    instruction, text = (
        "Which of the two drugs lowered the risk most?",
        "In the trial both drugs lowered it by a third.",
    )
    rows = [
        {"id": "q1", "instruction": instruction, "input": text},
        {"id": "q2", "instruction": "Name the largest river of Europe"},
    ]
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    contamination = Contamination(read_question_texts(path), 8)
    assert contamination.check_passage(instruction) == ""
    assert contamination.check_passage(text) == "10 words of q1"
    assert contamination.check_passage("Please name the largest river of Europe!") == "6 words of q2"


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
