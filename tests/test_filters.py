"""Held: novelty decides as rouge_score does, and each other filter drops for each of its reasons and for no other."""

from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from selfspec.filters import answer, echo, form, words
from selfspec.filters.novelty import Novelty
from selfspec.prompts import Draft
from selfspec.records import Seed

THRESHOLD = 0.7
SCORER = RougeScorer(["rougeL"], use_stemmer=False)
# few words, so that many scores fall at 0.7 or near it; they differ in what a tokenizer may treat differently
TEXT = st.lists(st.sampled_from(["Alpha", "alpha,", "beta", "GAMMA-beta", "é", "3"]), max_size=12).map(" ".join)
DRAFTS = st.builds(Draft, st.just("summary"), TEXT, TEXT, st.just(()))


@cache
def near(one: str, other: str) -> bool:
    """Self-Instruct's decision, by the package that it uses."""
    return bool(SCORER.score(one, other)["rougeL"].fmeasure > THRESHOLD)


def expected(draft: Draft, kept: list[tuple[str, Draft]]) -> str:
    """The verdict that novelty owes, worked out the slow way."""
    for name, earlier in kept:
        if words(draft.input) and words(draft.input) == words(earlier.input):
            return f"same input as {name}"
    for name, earlier in kept:
        if near(f"{earlier.instruction} {earlier.input}", f"{draft.instruction} {draft.input}"):
            return f"near {name}"
    return ""


@settings(deadline=None, max_examples=400)
@given(st.lists(DRAFTS, min_size=1, max_size=2), DRAFTS)
def test_novelty_decides_against_seeds_as_rouge_score_does(earlier: list[Draft], draft: Draft) -> None:
    kept = [(f"s{number}", one) for number, one in enumerate(earlier)]
    seeds = [Seed(name, one.task_type, one.instruction, one.input, "an output") for name, one in kept]
    assert Novelty(seeds, THRESHOLD).check(draft) == expected(draft, kept)


@settings(deadline=None)
@given(st.lists(DRAFTS, max_size=12))
def test_novelty_decides_a_sequence_as_rouge_score_does(drafts: list[Draft]) -> None:
    novelty, kept = Novelty([], THRESHOLD), list[tuple[str, Draft]]()
    for place, draft in enumerate(drafts):
        verdict = novelty.check(draft)
        assert verdict == expected(draft, kept)
        if not verdict:
            novelty.keep(draft, f"row {place}")
            kept.append((f"row {place}", draft))


def test_novelty_decides_as_rouge_score_does_where_the_score_is_exactly_the_threshold() -> None:
    for total in (20, 40, 60):
        common = round(THRESHOLD * total / 2)
        for length in range(common, total - common + 1):
            one = " ".join([f"c{n}" for n in range(common)] + [f"x{n}" for n in range(length - common)])
            two = " ".join([f"c{n}" for n in range(common)] + [f"y{n}" for n in range(total - length - common)])
            for more in ("", " c0"):  # at the threshold, and just below it
                draft = Draft("summary", two + more, "", ())
                verdict = Novelty([Seed("s1", "summary", one, "", "an output")], THRESHOLD).check(draft)
                assert bool(verdict) == near(f"{one} ", f"{two}{more} "), (one, two + more)


def test_of_two_rows_with_the_same_input_the_first_stays() -> None:
    novelty = Novelty([Seed("s1", "summary", "Shorten it.", "A seed's own words.", "Words.")], THRESHOLD)
    first = Draft("summary", "Shorten this passage to one sentence.", "Rates rose twice.", ())
    second = Draft("verdict", "Did anything at all go up here, and how often, would you say?", "rates rose, TWICE", ())
    assert novelty.check(first) == ""
    novelty.keep(first, "row 1")
    assert novelty.check(second) == "same input as row 1"
    assert novelty.check(replace(second, input="A seed's own words!")) == "same input as s1"


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
def test_form_gives_its_reason(draft: Draft, finished: bool, reason: str) -> None:
    assert form.check(draft, finished) == reason


def test_form_drops_an_instruction_of_three_words_as_self_instruct_does() -> None:
    assert form.check(replace(OPEN, instruction="Shorten this text."), True) == "instruction too short"
    assert form.check(replace(OPEN, instruction="Shorten this text, please."), True) == ""


SHOWN = [
    Seed("s1", "summary", "Say it again now.", "one two three four five six seven eight", "an output of no note"),
    Seed("s2", "summary", "Name the three noble gases.", "", "alpha beta gamma delta epsilon zeta eta theta iota"),
]


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
def test_echo_gives_its_reason(instruction: str, text: str, reason: str) -> None:
    assert echo.check(Draft("summary", instruction, text, ()), SHOWN) == reason


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
def test_answer_gives_its_reason_and_what_is_kept(
    draft: Draft, kind: str, text: str, finished: bool, kept: str, reason: str
) -> None:
    assert answer.check(draft, kind, text, finished, SHOWN) == (kept, reason)


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
    assert answer.spell(output, options, kind) == spelled
