"""The filters form, echo, duplicate and novelty drop a draft for their own reasons; novelty equals rouge_score."""

from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from filter_candidates import CLOSED, SHOTS, of
from selfspec.data.records import Draft, Seed
from selfspec.data.text import words
from selfspec.filters.duplicate import DuplicateInputs
from selfspec.filters.echo import Echo
from selfspec.filters.form import Form
from selfspec.filters.novelty import Novelty

THRESHOLD = 0.7
SCORER = RougeScorer(["rougeL"], use_stemmer=False)
# few words, so that many scores fall at 0.7 or near it; they differ in what a tokenizer may treat differently
TEXT = st.lists(st.sampled_from(["Alpha", "alpha,", "beta", "GAMMA-beta", "e", "3"]), max_size=12).map(" ".join)
DRAFTS = st.builds(Draft, st.just("summary"), TEXT, TEXT, st.just(()))


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
