"""The filter chain: order, what filters see of earlier candidates, model output, and filters of the user's own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfspec.config.keys import key_values
from selfspec.config.schema import FiltersConfig
from selfspec.data.records import Draft, Seed
from selfspec.errors import UserError
from selfspec.filters.chain import accepts_passage, run_filters
from selfspec.filters.context import FilterContext
from selfspec.filters.custom import build_custom_filters, check_custom_filters, filter_name
from selfspec.filters.judge import Calibration
from selfspec.filters.protocol import Candidate
from selfspec.filters.registry import FILTERS, build_filters, summarize_reason
from selfspec.pipeline.build import build_pipeline
from toys import compose_config, toy_experiment

SEEDS = [Seed("s1", "summarization", "Shorten it.", "Rates rose twice in the spring.", "Rates rose.")]


def candidates(*texts: str) -> list[Candidate]:
    return [
        Candidate(f"c{place}", Draft("summary", "Shorten it.", text, ()), "text", place=place)
        for place, text in enumerate(texts)
    ]


def reads_nothing(name: str, batch: Sequence[Candidate]) -> None:
    raise AssertionError(f"{name} was read")


@dataclass
class Limit:
    """Lets `most` candidates through that begin with an allowed letter, and records its calls."""

    letters: str
    most: int = 99
    phase: str = "task"
    calls: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)

    def check(self, candidate: Candidate) -> str:
        self.calls.append(candidate.id)
        if candidate.draft.input[:1] not in self.letters:
            return "letter"
        return "" if len(self.kept) < self.most else "full"

    def keep(self, candidate: Candidate) -> None:
        self.kept.append(candidate.id)


class Votes(Limit):
    model_output = "votes"


class OnlyShort(Limit):
    def applies(self, candidate: Candidate) -> bool:
        return len(candidate.draft.input) < 3


@settings(deadline=None)
@given(st.lists(st.text("abc", min_size=1, max_size=3), max_size=12), st.integers(0, 4))
def test_a_candidate_is_checked_up_to_the_first_filter_that_drops_it(texts: list[str], most: int) -> None:
    first, second, last = Limit("ab"), Limit("ac", most), Limit("a")
    batch = candidates(*texts)
    run_filters({"first": first, "second": second, "last": last}, "task", batch, reads_nothing)
    accepted = 0
    for text, candidate in zip(texts, batch, strict=True):
        expected = {"first": "" if text[0] in "ab" else "letter"}
        if not expected["first"]:
            expected["second"] = "letter" if text[0] == "b" else "full" if accepted >= most else ""
            if not expected["second"]:
                expected["last"] = ""
                accepted += 1
        assert candidate.verdicts == expected and list(candidate.verdicts) == list(expected)
    passed = [candidate.id for candidate in batch if candidate.is_accepted]
    assert first.kept == second.kept == last.kept == passed  # a filter sees only what passed all of them


def test_only_filters_of_the_phase_run_and_dropped_candidates_are_left_alone() -> None:
    task, answer = Limit("a"), Limit("a", phase="answer")
    batch = candidates("a", "b")
    filters = {"task": task, "answer": answer}
    run_filters(filters, "task", batch, reads_nothing)
    assert (task.calls, answer.calls) == (["c0", "c1"], [])
    run_filters(filters, "answer", batch, reads_nothing)
    assert (task.calls, answer.calls) == (["c0", "c1"], ["c0"])


def test_model_output_is_read_once_for_all_candidates_that_passed_the_filters_before() -> None:
    before, votes, after = Limit("ab"), Votes("ac"), Limit("a")
    reads: list[tuple[str, list[str], list[str]]] = []

    def read(name: str, batch: Sequence[Candidate]) -> None:
        reads.append((name, [candidate.id for candidate in batch], list(before.calls)))

    run_filters({"before": before, "votes": votes, "after": after}, "task", candidates("a", "c", "b", "a"), read)
    assert reads == [("votes", ["c0", "c2", "c3"], ["c0", "c1", "c2", "c3"])]
    assert votes.calls == ["c0", "c2", "c3"] and after.calls == ["c0", "c3"]


def test_a_filter_gives_no_verdict_on_a_candidate_to_which_it_does_not_apply() -> None:
    selective = OnlyShort("a")
    batch = candidates("a", "bbb", "b")
    run_filters({"short": selective}, "task", batch, reads_nothing)
    assert [candidate.verdicts for candidate in batch] == [{"short": ""}, {}, {"short": "letter"}]
    assert selective.kept == ["c0"]


def test_a_filter_that_returns_no_text_is_reported_by_name() -> None:
    wrong: Any = Limit("a")
    wrong.check = lambda candidate: None
    with pytest.raises(UserError, match="filter wrong returned None; check must return a reason"):
        run_filters({"wrong": wrong}, "task", candidates("a"), reads_nothing)


def test_a_passage_is_left_out_if_any_filter_objects() -> None:
    filters: dict[str, Any] = {"plain": Limit("a"), "passages": Limit("a")}
    filters["passages"].check_passage = lambda text: "secret" if "secret" in text else ""
    assert accepts_passage(filters, "A text.") and not accepts_passage(filters, "A secret text.")


def context(folder: Path, *overrides: str, calibrate: Callable[[], Calibration] | None = None) -> FilterContext:
    config = toy_experiment(folder, *overrides)
    calibration = calibrate or (lambda: Calibration(0.5, 0.0, False, 0))
    return FilterContext(SEEDS, SEEDS, [("q1", "A question.")], config.domain, config.generation, calibration)


def test_the_filters_that_are_switched_on_are_built_in_the_registrys_order(tmp_path: Path) -> None:
    every = [f"generation.filters.{name}=true" for name in FILTERS]
    assert list(build_filters(context(tmp_path, *every))) == list(FILTERS)
    for off in FILTERS:
        built = build_filters(context(tmp_path, *every, f"generation.filters.{off}=false"))
        assert list(built) == [name for name in FILTERS if name != off]


def test_every_built_in_filter_is_a_switch_of_the_config_and_the_other_way_round() -> None:
    switches = [name for name, kind in FiltersConfig.__annotations__.items() if kind == "bool"]
    assert switches == list(FILTERS)
    phases = [getattr(FILTERS[name], "phase", "") for name in FILTERS]
    assert phases == sorted(phases, reverse=True) and set(phases) == {"task", "answer"}  # task filters first


@pytest.mark.parametrize(
    ("name", "reason", "summary"),
    [
        ("echo", "echo of s1", "echo"),
        ("duplicate", "same input as 00000-01", "same input"),
        ("novelty", "near s1", "near duplicate"),
        ("contamination", "13 words of q1", "13 words"),
        ("answer", "label outside the options", "label outside the options"),
        ("my_filter", "near the end of the list", "near the end of the list"),
    ],
)
def test_reasons_are_counted_without_the_ids_in_them(name: str, reason: str, summary: str) -> None:
    assert summarize_reason(name, reason) == summary


# Filters of the user's own

SOURCE = """
class TooLong:
    phase = "answer"

    def __init__(self, words):
        self.words = words

    def check(self, candidate):
        return "too long" if len(candidate.output.split()) > self.words else ""


class LikeASeed:
    name = "like_seed"
    phase = "task"
    needs = ("seeds", "domain")

    def __init__(self, seeds, domain, share=0.5):
        self.given = (seeds, domain, share)

    def check(self, candidate):
        return ""


class NoPhase:
    def check(self, candidate):
        return ""


class WrongPhase(NoPhase):
    phase = "anytime"


class NoCheck:
    phase = "task"


class WrongNeeds(TooLong):
    needs = ("seds",)


class Novelty(LikeASeed):
    name = "novelty"


class Fails(LikeASeed):
    def __init__(self, **constants):
        raise ValueError("no dictionary")


def function(words):
    return None
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the module `own_filters`."""
    path = tmp_path / "own_filters.py"
    path.write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_filters", raising=False)
    return path


def spec(name: str, **arguments: Any) -> dict[str, Any]:
    return {"_target_": f"own_filters.{name}", **arguments}


def test_custom_filters_run_after_the_built_in_ones_in_the_given_order(module: Path, tmp_path: Path) -> None:
    extra = "[{_target_: own_filters.LikeASeed}, {_target_: own_filters.TooLong, words: 40}]"
    built = build_filters(context(tmp_path, f"generation.filters.extra={extra}"))
    assert list(built)[-2:] == ["like_seed", "too_long"] and next(iter(built)) in FILTERS


def test_a_custom_filter_gets_its_arguments_and_the_constants_that_it_needs(module: Path, tmp_path: Path) -> None:
    constants = context(tmp_path)
    built: Any = build_custom_filters([spec("LikeASeed", share=0.7)], constants, used_names=FILTERS)
    seeds, domain, share = built["like_seed"].given
    assert seeds is constants.seeds and domain is constants.domain and share == 0.7


def test_filters_with_the_same_name_get_numbers(module: Path, tmp_path: Path) -> None:
    specs = [spec("TooLong", words=40), spec("TooLong", words=4), spec("Novelty"), spec("TooLong", words=1)]
    built: Any = build_custom_filters(specs, context(tmp_path), used_names=FILTERS)
    assert list(built) == ["too_long", "too_long_2", "novelty_2", "too_long_3"]
    assert [built[name].words for name in ("too_long", "too_long_2", "too_long_3")] == [40, 4, 1]


@pytest.mark.parametrize(
    ("name", "snake_case"), [("TooLong", "too_long"), ("PIIFilter", "pii_filter"), ("Max2Words", "max2_words")]
)
def test_the_name_of_a_filter_is_its_class_name_in_snake_case(name: str, snake_case: str) -> None:
    filter_class: Any = type(name, (), {"phase": "task", "check": lambda self, candidate: ""})
    assert filter_name(filter_class()) == snake_case


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"words": 40}, r"extra\[1\] has no _target_"),
        (spec("Missing"), "own_filters.Missing can't be imported"),
        ({"_target_": "nowhere.TooLong"}, "nowhere.TooLong can't be imported .*nowhere"),
        (spec("function", words=4), "own_filters.function is not a class"),
        (spec("NoPhase"), 'NoPhase needs an attribute phase = "task"'),
        (spec("WrongPhase"), 'WrongPhase needs an attribute phase = "task"'),
        (spec("NoCheck"), r"NoCheck needs a method check\(self, candidate\)"),
        (spec("WrongNeeds", words=4), "WrongNeeds needs 'seds', which is none of seeds, shown_seeds, questions"),
        (spec("TooLong"), "TooLong can't be created .*'words'"),
        (spec("TooLong", words=4, letters=5), "TooLong can't be created .*'letters'"),
    ],
)
def test_a_wrong_filter_is_refused_in_one_sentence(module: Path, wrong: dict[str, Any], message: str) -> None:
    right = spec("TooLong", words=4)
    check_custom_filters([right, spec("LikeASeed"), spec("LikeASeed", share=0.7)])
    with pytest.raises(UserError, match=message) as error:
        check_custom_filters([right, wrong])
    assert str(error.value).startswith("generation.filters.extra[1]") and "\n" not in str(error.value)


def test_a_filter_whose_constructor_fails_is_refused_in_one_sentence(module: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"extra\[0\]: own_filters.Fails can't be created \(no dictionary\)"):
        build_custom_filters([spec("Fails")], context(tmp_path), used_names=FILTERS)


def test_arguments_and_source_of_a_custom_filter_are_in_the_key_of_the_examples(module: Path) -> None:
    def key(*overrides: str) -> str:
        return build_pipeline(compose_config("model.toy=true", *overrides)).rounds[0][0].key

    one, other = (f"generation.filters.extra=[{{_target_: own_filters.TooLong, words: {n}}}]" for n in (40, 41))
    before = key(one)
    assert len({key(), before, key(other)}) == 3
    module.write_text(SOURCE.replace("too long", "longer than allowed"))
    assert len({key(), before, key(one)}) == 3
    module.write_text(SOURCE)
    assert key(one) == before


def test_no_custom_filter_leaves_the_key_unchanged() -> None:
    without, empty = compose_config("model.toy=true"), compose_config("model.toy=true", "generation.filters.extra=[]")
    assert "extra" not in key_values(without)["generation"]["filters"]
    assert build_pipeline(without).rounds[0][0].key == build_pipeline(empty).rounds[0][0].key
