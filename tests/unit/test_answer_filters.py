"""The filter of answers: empty answers, echoes, labels outside the options, spans, entities and numbers."""

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from filter_candidates import CLOSED, SHOTS
from selfspec.config.schema import DomainConfig, TaskType
from selfspec.data.records import Draft, Seed
from selfspec.filters.answer import Answer
from selfspec.filters.grounding import extractive_task_types
from selfspec.filters.labels import canonical_label
from selfspec.filters.numbers import check_number
from selfspec.filters.protocol import Candidate


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
