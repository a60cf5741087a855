"""Generation: requests are spread evenly, candidates pass the filters in order, passages give way to shots, and
neither a kill nor a batch size changes a block.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from conftest import Warm, places
from selfspec.config.schema import DomainConfig, TaskType
from selfspec.config.validation import validate
from selfspec.data.few_shot import draw_few_shot
from selfspec.data.reading import read_examples, read_seeds
from selfspec.data.records import Draft, Example, Seed
from selfspec.data.splits import split_seeds
from selfspec.engines.contrastive import ContrastiveEngine
from selfspec.engines.protocol import Completion, PromptBatch
from selfspec.engines.transformers import TransformersEngine
from selfspec.generation.candidates import CandidateRows, GenerationInputs
from selfspec.generation.funnel import count_reasons
from selfspec.generation.instructions import plan_requests
from selfspec.generation.pools import BLOCK_SIZE, Pool, pool_keys
from selfspec.generation.responses import TOKEN_MARGIN, ResponseSettings, write_responses
from selfspec.generation.votes import sample_votes
from selfspec.pipeline.build import build_pipeline
from selfspec.prompts.templates import prompts_hash
from selfspec.retrieval.passage import Passage
from selfspec.runtime.context import StageContext
from selfspec.runtime.progress import Progress
from selfspec.runtime.signals import StopFlag
from selfspec.runtime.store import Store
from toys import PROJECT, prompts, scale_linear_weights, toy, toy_experiment, with_random_adapter

LADDER = ("form", "echo", "duplicate", "novelty", "contamination", "answer", "self_consistency", "judge", "balance")


def job(folder: Path, *overrides: str) -> StageContext:
    """The stage `examples` of an experiment, about to begin."""
    config = validate(toy_experiment(folder, *overrides))
    (stage,) = (stage for stage in build_pipeline(config).stages if stage.label == "examples")
    (folder / "output").mkdir(parents=True, exist_ok=True)
    quiet = Progress(Console(quiet=True))
    return StageContext(stage, Store(folder / "store"), folder / "work", folder / "output", config, quiet, StopFlag())


def pool(seed: int = 0, **parts: Any) -> Pool:
    """A pool that is used for its random streams alone, or that has these parts."""
    context = SimpleNamespace(stage=SimpleNamespace(values={}))
    defaults = {"context": context, "name": "instructions", "key": "key", "batch_size": 16, "load_engine": never}
    return Pool(**{**defaults, "seed": seed, **parts})


# What is asked for


def domain_of(types: int, topics: int) -> tuple[DomainConfig, list[Seed]]:
    """A domain of that many task types and topics; of every second type the options differ from seed to seed."""
    tasks = {f"type {n}": TaskType("label" if n % 2 else "text", "about") for n in range(types)}
    seeds = [
        Seed(f"{name} {n}", name, "Do it.", "A text.", "a", options=("a", f"b{n}") if task.kind == "label" else ())
        for name, task in tasks.items()
        for n in range(3)
    ]
    names = tuple(f"topic {n}" for n in range(topics))
    tasks["without a seed"] = TaskType("text", "about")
    return DomainConfig("d", "an expert", tasks, seeds="", evaluation="", topics=names), seeds


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(0, 15), st.integers(1, 6), st.integers(0, 99))
def test_every_task_type_is_combined_with_every_topic_equally_often(
    types: int, topics: int, blocks: int, seed: int
) -> None:
    domain, seeds = domain_of(types, topics)
    pairs = {(f"type {n}", topic): 0 for n in range(types) for topic in domain.topics or ("",)}
    for number in range(blocks):
        asked = plan_requests(domain, seeds, pool(seed), number)
        assert len(asked) == BLOCK_SIZE
        shares = Counter(request.task_type for request in asked)
        assert len(shares) == types and max(shares.values()) - min(shares.values()) <= 1
        for request in asked:
            pairs[request.task_type, request.topic] += 1
        assert max(pairs.values()) - min(pairs.values()) <= 1
        allowed = {(seed.task_type, seed.options) for seed in seeds}
        assert {(request.task_type, request.options) for request in asked} <= allowed


def test_requests_depend_on_the_experiment_seed_and_the_block_alone() -> None:
    domain, seeds = domain_of(4, 7)
    plans = [plan_requests(domain, seeds, pool(seed, key="one"), number) for seed in (0, 1) for number in (0, 1, 2)]
    random.seed(7)
    again = [plan_requests(domain, seeds, pool(seed, key="other"), number) for seed in (0, 1) for number in (0, 1, 2)]
    assert plans == again
    assert all(one != other for place, one in enumerate(plans) for other in plans[:place])


@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 15), st.booleans(), st.integers(0, 99))
def test_demonstrations_are_of_the_asked_type_first_and_random_without_one(
    mine: int, others: int, count: int, typed: bool, state: int
) -> None:
    shown = [Seed(f"s{n}", "mine" if n < mine else "other", "Do it.", "", "a") for n in range(mine + others)]
    drawn = draw_few_shot(shown, "mine" if typed else "", count, random.Random(state))
    assert len(drawn) == len({seed.id for seed in drawn}) == min(count, len(shown))
    if typed:
        assert sum(seed.task_type == "mine" for seed in drawn) == min(mine, count)
    assert drawn == draw_few_shot(shown, "mine" if typed else "", count, random.Random(state))


def test_random_demonstrations_are_of_any_type_and_in_any_order() -> None:
    shown = [Seed(f"s{n}", str(n % 4), "Do it.", "", "a") for n in range(20)]
    seen = Counter[tuple[int, str]]()
    for state in range(2000):
        drawn = draw_few_shot(shown, "", 3, random.Random(state))
        seen.update((place, seed.id) for place, seed in enumerate(drawn))
    assert len(seen) == 60 and min(seen.values()) > 50  # of about 100 each
    first = {draw_few_shot(shown, "1", 3, random.Random(state))[0].id for state in range(200)}
    assert first == {seed.id for seed in shown if seed.task_type == "1"}


# The ladder, on what a model might have written


@dataclass
class Scripted:
    """Stands for a model: it says what it is told to, a word is a token, and it remembers what it was asked."""

    says: str = "an answer"
    asked: list[PromptBatch] = field(default_factory=list)

    def complete(self, batch: PromptBatch) -> list[Completion]:
        self.asked.append(batch)
        return [Completion(self.says, 2, True) for _ in batch.items]

    def count(self, text: str) -> int:
        return len(text.split())


def never() -> Any:
    raise AssertionError("no model was needed")


def stored(given_: StageContext, blocks: Mapping[str, Sequence[Mapping[str, Any]]], number: int = 0) -> None:
    """Block `number` of the pools, as if a model had written it."""
    keys = pool_keys(given_.stage.values, given_.stage.inputs)
    for name, some in blocks.items():
        text = "".join(json.dumps(row) + "\n" for row in some)
        given_.store.make(
            name, f"{keys[name]}-{number:05d}", {"counts": {}}, lambda _, out, text=text: put(out / "rows.jsonl", text)
        )


def put(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def calibrated(given_: StageContext, wrong: float = -1.0) -> None:
    """Margins of seeds, as if the judge had been asked: right answers get 0."""
    count = len(split_seeds(SEEDS)[0]) - given_.config.generation.judge.shots
    text = "".join(json.dumps({"margin": margin}) + "\n" for margin in [0.0] * count + [wrong] * count)
    key = f"{pool_keys(given_.stage.values, given_.stage.inputs)['judgements']}-seeds"
    given_.store.make("judgements", key, {"counts": {}}, lambda _, out: put(out / "rows.jsonl", text))


def ladder(given_: StageContext, **changes: Any) -> CandidateRows:
    """Rows of the domain's seeds with no model behind them."""
    domain, generation = given_.config.domain, given_.config.generation
    seeds = read_seeds(Path(domain.seeds), domain.tasks)
    find = changes.pop("find", lambda draft: ())
    material = GenerationInputs(seeds, split_seeds(seeds)[0], QUESTIONS, find)
    return replace(
        CandidateRows(given_, domain, generation, material, 1000, never, never, prompts(), given_.config.seed),
        **changes,
    )


QUESTIONS = [("asked-1", "Grey herons in the northern delta have begun to nest a full month before their usual time.")]
SEEDS = read_seeds(PROJECT / "src/selfspec/domains/biomedicine/seeds.jsonl", toy_experiment(Path()).domain.tasks)
BY_TYPE = {seed.task_type: seed for seed in split_seeds(SEEDS)[0]}  # one shown seed of each type
WORD = "amber birch cedar delta ember fjord grove heath inlet jetty knoll ledge marsh north ocean plain quarry ridge"


def text_of(number: int) -> str:
    """A text unlike those of all other numbers."""
    return f"{' '.join(f'{word}{number}' for word in WORD.split()[:9])}."


def attempt(task: str, text: str, **changes: Any) -> dict[str, Any]:
    """One raw attempt of a block of instructions."""
    seed = BY_TYPE[task]
    request = {"task_type": task, "topic": "cardiology", "options": list(seed.options)}
    written = {"instruction": f"Look at this text and do what a {task} wants.", "input": text, "finished": True}
    return {"request": request, **written, "seeds": [seed.id], "sampler_seed": 7, **changes}


ENTAILS = BY_TYPE["inference"].options
TOLD: list[tuple[dict[str, Any], str, list[str], float, str, str]] = [
    # attempt, reply, samples, margin -> where it falls, and why
    (attempt("yesno_question", text_of(0)), "Yes.", ["yes", "no", "yes", "Yes!", "no"], 0.0, "", ""),
    (attempt("yesno_question", text_of(1), finished=False), "yes", [], 1, "form", "truncated"),
    (attempt("yesno_question", text_of(2), instruction="Is it?"), "yes", [], 1, "form", "instruction too short"),
    (attempt("inference", BY_TYPE["inference"].input), "x", [], 1, "echo", f"echo of {BY_TYPE['inference'].id}"),
    (attempt("inference", BY_TYPE["summarization"].input), "x", [], 1, "duplicate",
     f"same input as {BY_TYPE['summarization'].id}"),
    (attempt("long_question", text_of(0).upper()), "x", [], 1, "duplicate", "same input as 00000-00"),
    (attempt("yesno_question", f"{text_of(0)} Indeed."), "yes", [], 1, "novelty", "near 00000-00"),
    (attempt("summarization", f"It seems that {QUESTIONS[0][1]}"), "x", [], 1, "contamination", "13 words of asked-1"),
    (attempt("summarization", text_of(2)), "Short.", [], 3.5, "", ""),  # the text of a row that fell at `form`
    (attempt("summarization", text_of(9)), " ", [], 1, "answer", "empty"),
    (attempt("inference", text_of(10)), "perhaps so", [], 1, "answer", "label outside the options"),
    (attempt("inference", text_of(11)), ENTAILS[0], [*ENTAILS[:2] * 2, "?"], 1, "self_consistency", "no majority"),
    (attempt("summarization", text_of(12)), "Shorter.", [], -0.1, "judge", "judged wrong"),
    (attempt("yesno_question", text_of(13)), "no", ["yes"] * 5, 1, "", ""),  # outvoted: the label is yes
    (attempt("yesno_question", text_of(14)), "yes", ["yes"] * 5, 1, "balance", "label yes leads"),
    (attempt("yesno_question", text_of(15)), "no", ["no"] * 5, 1, "", ""),
    (attempt("yesno_question", text_of(16)), "yes", ["yes"] * 5, 1, "", ""),
    (attempt("summarization", text_of(9)), "x", [], 1, "duplicate", "same input as 00000-09"),  # dropped, but new
    (attempt("summarization", text_of(18), instruction=f"Say this again: {QUESTIONS[0][1]}"), "So.", [], 1, "", ""),
]  # fmt: skip
CLOSED = ("yesno_question", "inference")
ALL_ON = [f"generation.filters.{name}=true" for name in LADDER]


def told_blocks(off: str = "") -> dict[str, list[dict[str, Any]]]:
    """The pools' blocks of `TOLD`; no row falls at the filter `off`."""

    def reached(name: str) -> list[int]:
        return [n for n, told in enumerate(TOLD) if told[4] in ("", off) or LADDER[LADDER.index(name) :].count(told[4])]

    shots = {"finished": True, "response_seeds": [SEEDS[0].id], "documents": ["d1"]}
    closed = [n for n in reached("self_consistency") if TOLD[n][0]["request"]["task_type"] in CLOSED]
    blocks: dict[str, list[dict[str, Any]]] = {
        "instructions": [{"place": n, **told[0]} for n, told in enumerate(TOLD)],
        "responses": [{"place": n, "text": TOLD[n][1], **shots} for n in reached("answer")],
        "votes": [{"place": n, "samples": TOLD[n][2]} for n in closed],
        "judgements": [{"place": n, "margin": TOLD[n][3]} for n in reached("judge")],
    }
    switched = {"judge": "judgements", "self_consistency": "votes"}
    return {name: some for name, some in blocks.items() if name != switched.get(off)}


def test_a_row_falls_where_it_must_and_nothing_looks_at_it_afterwards(tmp_path: Path) -> None:
    here = job(tmp_path, *ALL_ON)
    stored(here, told_blocks())
    calibrated(here)
    made = ladder(here).block(0)
    assert [row.id for row in made] == [f"00000-{place:02d}" for place in range(len(TOLD))]
    for row, (raw, reply, _, _, where, why) in zip(made, TOLD, strict=True):
        closed = row.task_type in CLOSED
        whole = [name for name in LADDER if closed or name not in ("self_consistency", "balance")]
        names = list(row.verdicts)
        assert names == (whole[: whole.index(where) + 1] if where else whole)
        assert {name: reason for name, reason in row.verdicts.items() if reason} == ({where: why} if where else {})
        assert (row.instruction, row.input, row.seeds) == (raw["instruction"], raw["input"], tuple(raw["seeds"]))
        answered = "answer" in names
        assert row.documents == (("d1",) if answered else ())
        assert row.response_seeds == ((SEEDS[0].id,) if answered else ())
        assert bool(row.output) == (answered and bool(reply.strip()))
        assert row.topic == "cardiology" and row.sampler_seed == 7 and row.prompt == prompts_hash(prompts().templates)
    outputs = {place: made[place].output for place in (0, 8, 13, 15)}
    assert outputs == {0: "yes", 8: "Short.", 13: "yes", 15: "no"}


def test_the_funnel_counts_each_row_once_by_its_reason(tmp_path: Path) -> None:
    here = job(tmp_path, *ALL_ON)
    stored(here, told_blocks())
    calibrated(here)
    made = ladder(here).block(0)
    counts = count_reasons(made)
    assert list(counts) == [name for name in LADDER if name in counts] == list(LADDER)
    assert counts["form"] == {"truncated": 1, "instruction too short": 1}
    assert counts["echo"] == {"echo": 1}
    assert counts["duplicate"] == {"same input": 3} and counts["novelty"] == {"near duplicate": 1}
    assert counts["contamination"] == {"13 words": 1}
    dropped = sum(sum(some.values()) for some in counts.values())
    assert dropped == sum(any(row.verdicts.values()) for row in made) == sum(bool(told[4]) for told in TOLD)


@pytest.mark.parametrize("off", ["contamination", "self_consistency", "judge", "balance"])
def test_a_filter_that_is_off_says_nothing_and_its_rows_go_on(tmp_path: Path, off: str) -> None:
    here = job(tmp_path, *ALL_ON, f"generation.filters.{off}=false")
    stored(here, told_blocks(off))
    calibrated(here)
    made = ladder(here).block(0)
    assert all(off not in row.verdicts for row in made)
    passed = {place for place, row in enumerate(made) if not any(row.verdicts.values())}
    assert passed >= {place for place, told in enumerate(TOLD) if told[4] in ("", off)}


def test_without_echo_a_repeated_seed_falls_at_the_next_filter_that_knows_it(tmp_path: Path) -> None:
    here = job(tmp_path, *ALL_ON, "generation.filters.echo=false")
    stored(here, told_blocks())
    calibrated(here)
    assert ladder(here).block(0)[3].verdicts == {"form": "", "duplicate": f"same input as {BY_TYPE['inference'].id}"}


def test_a_judge_that_is_not_worth_it_drops_nothing(tmp_path: Path) -> None:
    here = job(tmp_path, *ALL_ON)
    stored(here, told_blocks())
    calibrated(here, wrong=0.0)
    made = ladder(here).block(0)
    assert {row.verdicts["judge"] for row in made if "judge" in row.verdicts} == {""}


def test_a_store_that_holds_other_rows_than_passed_is_told(tmp_path: Path) -> None:
    here = job(tmp_path, *ALL_ON)
    blocks = told_blocks()
    stored(here, {**blocks, "responses": blocks["responses"][1:]})
    with pytest.raises(RuntimeError, match="other rows than passed"):
        ladder(here).block(0)


def test_labels_are_balanced_in_a_block_and_rows_of_earlier_blocks_count_for_novelty(tmp_path: Path) -> None:
    here = job(tmp_path, *ALL_ON)
    for number in range(2):
        block = [attempt("yesno_question", text_of(100 * number + place)) for place in range(3)]
        block.append(attempt("summarization", text_of(0)))
        answered = [0, 1, 2]
        past = {"finished": True, "response_seeds": [], "documents": []}
        stored(here, {
            "instructions": [{"place": n, **raw} for n, raw in enumerate(block)],
            "responses": [{"place": n, "text": "yes", **past} for n in answered],
            "votes": [{"place": n, "samples": ["yes"] * 5} for n in answered],
            "judgements": [{"place": n, "margin": 1.0} for n in answered],
        }, number)  # fmt: skip
    calibrated(here)
    made = ladder(here)
    for number in range(2):
        verdicts = [row.verdicts for row in made.block(number)]
        assert [told.get("balance") for told in verdicts[:3]] == ["", "", "label yes leads"]
        assert verdicts[3]["duplicate"] == "same input as 00000-00"


# Passages

DRAFT = Draft("summarization", "Say in a sentence what this text tells.", "Two herons sat on a wall all day.", ())
PASSAGES = [Passage(f"p{n}", " ".join(f"word{n}x{place}" for place in range(20))) for n in range(4)]


def replies(
    here: StageContext, engine: Scripted, drafts: Sequence[Draft], find: Any, context: int
) -> list[dict[str, Any]]:
    domain, generation = here.config.domain, here.config.generation
    key = pool_keys(here.stage.values, here.stage.inputs)["responses"]
    asked = list(enumerate(drafts))
    made = pool(key=key, context=here, name="responses", load_engine=lambda: engine)
    settings = ResponseSettings(generation, domain, split_seeds(SEEDS)[0], prompts(), find, context)
    found = write_responses(made, 0, asked, settings)
    return [found[place] for place in range(len(drafts))]


def test_passages_are_left_out_from_the_last_where_the_context_is_short_and_shots_stay(tmp_path: Path) -> None:
    here, engine = job(tmp_path), Scripted()

    def asked(context: int, found: Sequence[Passage], name: str) -> tuple[dict[str, Any], PromptBatch]:
        apart = replace(here, store=Store(tmp_path / name))
        (row,) = replies(apart, engine, [DRAFT], lambda draft: found, context)
        return row, engine.asked[-1]

    bare, without = asked(10_000, (), "bare")
    items = [prompts().task(DRAFT, [passage.text for passage in PASSAGES[:n]]) for n in range(5)]
    assert without.items == (items[0],)
    answer = here.config.generation.responses.max_new_tokens + TOKEN_MARGIN
    for count, item in enumerate(items):
        context = engine.count(without.prefix) + engine.count(item) + answer
        for short in (0, 1):
            row, batch = asked(context - short, PASSAGES, f"{count}-{short}")
            fits = max(count - short, 0)  # without passages it is asked, fits or not
            assert row["documents"] == [passage.id for passage in PASSAGES[:fits]]
            assert batch.items == (items[fits],) and batch.prefix == without.prefix
            assert row["response_seeds"] == bare["response_seeds"] and len(row["response_seeds"]) == 5


def test_each_row_keeps_the_documents_that_its_own_prompt_showed(tmp_path: Path) -> None:
    found = {text_of(n): PASSAGES[:n] for n in range(4)}
    drafts = [replace(DRAFT, input=text) for text in found]
    engine = Scripted()
    made = replies(job(tmp_path), engine, drafts, lambda draft: found[draft.input], 10_000)
    assert [row["documents"] for row in made] == [[f"p{n}" for n in range(count)] for count in range(4)]
    shown = [item for batch in engine.asked for item in batch.items]
    for draft in drafts:
        (item,) = (item for item in shown if draft.input in item)
        assert [passage.text in item for passage in PASSAGES] == [n < len(found[draft.input]) for n in range(4)]


def test_the_passage_of_an_evaluation_question_is_never_shown(tmp_path: Path) -> None:
    planted = [
        Passage("clean", "Herons nest in spring, and the young leave in summer."),
        Passage("whole", f"It was seen that {QUESTIONS[0][1]} That was in spring."),
        Passage("part", "grey herons in the NORTHERN delta have begun: to fish"),
        Passage("too little", "Grey herons in the northern delta have flown away."),
    ]
    here, engine = job(tmp_path), Scripted("An answer.")
    stored(here, {"instructions": [{"place": n, **attempt("summarization", text_of(n))} for n in range(3)]})
    made = ladder(here, load_responder=lambda: engine, find=lambda draft: planted, context_length=10_000).block(0)
    assert [row.documents for row in made] == [("clean", "too little")] * 3
    shown = "".join(item for batch in engine.asked for item in batch.items)
    assert planted[0].text in shown and planted[3].text in shown
    assert planted[1].text not in shown and planted[2].text not in shown


# A toy model


def test_votes_on_labels_are_sampled_from_the_expert_alone_under_contrastive_decoding(tmp_path: Path) -> None:
    model, tokenizer = toy("llama-2-7b")
    model = with_random_adapter(scale_linear_weights(model)).eval()
    engines = (TransformersEngine(model, tokenizer), ContrastiveEngine(model, tokenizer, 2.0, 0.9))
    drafts = [(n, Draft("yesno_question", "Is it so?", text_of(n), ("yes", "no"))) for n in range(2)]
    told = []
    for place, engine in enumerate(engines):
        here = job(tmp_path / str(place), "generation.responses.shots=1", "generation.self_consistency.samples=2")
        mine = pool(key="votes", context=here, name="votes", load_engine=lambda engine=engine: engine)
        settings = ResponseSettings(
            here.config.generation, here.config.domain, split_seeds(SEEDS)[0], prompts(), lambda draft: (), 10_000
        )
        told.append(sample_votes(mine, 0, drafts, settings))
    assert told[0] == told[1]


SMALL = [
    "debug=smoke", "logger=none", "data_size.examples=8", "evaluation.limit=1", "evaluation.shots=[0]",
    "evaluation.resamples=2", "baselines.seeds_only=false", "baselines.off_domain=false",
    "generation.instructions.instruction_tokens=8", "generation.instructions.input_tokens=12",
    "generation.responses.max_new_tokens=6", "generation.self_consistency.samples=3", "generation.judge.shots=2",
    "generation.filters.self_consistency=true", "generation.filters.judge=true",
]  # fmt: skip


@pytest.fixture(scope="module")
def judged(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose labels were voted on and whose rows were judged."""
    folder = tmp_path_factory.mktemp("judged")
    ended = warm(*SMALL, *places(folder))
    assert ended.code == 0, ended.text
    return folder


def all_rows(folder: Path) -> list[Example]:
    (path,) = (folder / "store" / "examples").glob("*/rows.jsonl")
    return read_examples(path)


def test_a_model_s_rows_go_down_the_ladder_in_order_and_the_funnel_counts_them(judged: Path) -> None:
    made, results = all_rows(judged), json.loads((judged / "run" / "results.json").read_text())
    tasks = toy_experiment(judged).domain.tasks
    switched = [name for name in LADDER if name not in ("form", "answer")]  # both off for toys
    for row in made:
        closed = tasks[row.task_type].kind in ("label", "labels")
        whole = [name for name in switched if closed or name != "self_consistency"]
        names = list(row.verdicts)
        assert names == whole[: len(names)] or names == [name for name in whole if name != "balance"]
        assert not any(list(row.verdicts.values())[:-1])
        assert any(row.verdicts.values()) or len(names) >= len(whole) - 1
    kept = [row for row in made if not any(row.verdicts.values())]
    assert kept == read_examples(next((judged / "store" / "examples").glob("*/examples.jsonl")))
    funnel = results["funnel"]
    assert (funnel["attempts"], funnel["accepted"]) == (len(made), len(kept)) and len(kept) == 8
    assert made[-1] == kept[-1]  # a later attempt is no business of this size
    assert sum(sum(some.values()) for some in funnel["dropped"].values()) == len(made) - len(kept)
    assert funnel["dropped"] == count_reasons(made)


def test_a_batch_of_a_model_s_instructions_shows_seeds_of_its_own_type(judged: Path) -> None:
    (path,) = (judged / "store" / "instructions").glob("*/rows.jsonl")
    raw = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(raw) == BLOCK_SIZE
    by_id = {seed.id: seed for seed in split_seeds(SEEDS)[0]}  # nothing held out was shown
    draws: dict[str, set[tuple[str, ...]]] = {}
    for row in raw:
        assert {by_id[seed].task_type for seed in row["seeds"]} == {row["request"]["task_type"]}
        draws.setdefault(row["request"]["task_type"], set()).add(tuple(row["seeds"]))
    assert all(len(shown) == 1 for shown in draws.values()) and len(draws) == 10  # one draw for a type of a block
    assert len({row["sampler_seed"] for row in raw}) == BLOCK_SIZE  # a stream for each row
    for row in all_rows(judged):
        if row.response_seeds:
            assert len(row.response_seeds) == 5
            assert {by_id[seed].task_type for seed in row.response_seeds} == {row.task_type}


def test_kills_among_votes_and_judgements_change_no_byte(warm: Warm, judged: Path, tmp_path: Path) -> None:
    shutil.copytree(judged / "store", tmp_path / "store")
    for name in ("votes", "judgements", "examples", "adapter"):
        shutil.rmtree(tmp_path / "store" / name)

    def kill_in(name: str) -> int:
        (folder,) = (path for path in (judged / "store" / name).iterdir() if not path.name.endswith("-seeds"))
        work = tmp_path / "store" / "work" / folder.name

        def kill(pid: int) -> None:
            while not list(work.glob("*/batch-*.jsonl")):
                time.sleep(0.002)
            os.kill(pid, signal.SIGKILL)

        return warm(*SMALL, *places(tmp_path), kill=kill).code

    for name in ("votes", "judgements"):
        assert kill_in(name) == -signal.SIGKILL
        assert not (tmp_path / "store" / "examples").exists()
    assert warm(*SMALL, *places(tmp_path)).code == 0
    for name in ("votes", "judgements", "examples"):
        whole = {path.relative_to(judged / "store"): path.read_bytes() for path in paths_of(judged, name)}
        assert len(whole) >= 1
        assert {path.relative_to(tmp_path / "store"): path.read_bytes() for path in paths_of(tmp_path, name)} == whole


def paths_of(folder: Path, name: str) -> list[Path]:
    """What a pool or stage made, but for the manifests, which tell the time."""
    return sorted(path for path in (folder / "store" / name).glob("*/*") if path.name != "manifest.json")


# Common random numbers, whatever the batch size


def raw_rows(folder: Path, name: str, *texts: str) -> list[list[Any]]:
    """The raw texts of a pool's first block, with their places."""
    (path,) = (folder / "store" / name).glob("*-00000/rows.jsonl")
    return [[row["place"], *(row[text] for text in texts)] for row in map(json.loads, path.read_text().splitlines())]


@pytest.mark.parametrize("size", [1, 4])
def test_batch_sizes_change_no_generated_text(warm: Warm, judged: Path, tmp_path: Path, size: int) -> None:
    sizes = [f"generation.{part}.batch_size={size}" for part in ("instructions", "responses", "judge")]
    ended = warm(*SMALL, *places(tmp_path), *sizes, f"evaluation.batch_size={size}")
    assert ended.code == 0, ended.text
    keys = [json.loads((folder / "run" / "stages.json").read_text()) for folder in (judged, tmp_path)]
    assert keys[0] == keys[1]  # a batch size is no part of the experiment
    for name, *texts in (
        ("instructions", "instruction", "input", "seeds"),
        ("responses", "text"),
        ("votes", "samples"),
    ):
        assert raw_rows(judged, name, *texts) == raw_rows(tmp_path, name, *texts)
    margins = [raw_rows(folder, "judgements", "margin") for folder in (judged, tmp_path)]
    assert [[place, pytest.approx(margin, abs=1e-5)] for place, margin in margins[0]] == margins[1]


def test_a_filter_changes_no_draw_before_and_behind_it(warm: Warm, judged: Path, tmp_path: Path) -> None:
    """Two variants with the same seeds share every draw: their difference is the filter's."""
    ended = warm(*SMALL, *places(tmp_path), "generation.filters.novelty=false", "generation.filters.duplicate=false")
    assert ended.code == 0, ended.text
    assert raw_rows(judged, "instructions", "instruction", "input") == raw_rows(
        tmp_path, "instructions", "instruction", "input"
    )
    with_filters, without = (
        {place: rest for place, *rest in raw_rows(folder, "responses", "text", "response_seeds")}
        for folder in (judged, tmp_path)
    )
    assert set(with_filters) <= set(without) and with_filters
    assert all(without[place] == rest for place, rest in with_filters.items())
