"""Held: what the method has beside its first round, through the real command line on a toy: later rounds, baselines,
other domains, fewer seeds, a user's own questions, overlap, the judge, and retrieval.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from conftest import Ended, Warm, places
from selfspec.config.hashing import file_hash
from selfspec.data.jsonl import write_jsonl
from selfspec.data.reading import read_examples, read_questions, read_seeds
from selfspec.data.records import Example
from selfspec.data.splits import seed_subset, split_seeds
from selfspec.engines.protocol import PromptBatch, Sampling
from selfspec.engines.transformers import TransformersEngine
from selfspec.models.load import with_adapter
from selfspec.retrieval.bm25 import Index
from toys import prompts, toy, toy_experiment

DOMAINS = Path(__file__).parents[2] / "src" / "selfspec" / "domains"
TASKS = toy_experiment(Path()).domain.tasks
SEEDS = read_seeds(DOMAINS / "biomedicine" / "seeds.jsonl", TASKS)
SMALL = [
    "debug=smoke", "logger=none", "data_size.examples=8", "evaluation.limit=2", "evaluation.shots=[0]",
    "evaluation.resamples=5", "baselines.seeds_only=false", "baselines.off_domain=false",
    "generation.demonstrations=random", "generation.instructions.instruction_tokens=8",
    "generation.instructions.input_tokens=20", "generation.responses.max_new_tokens=8",
]  # fmt: skip


class Runs:
    """Runs that share one store."""

    def __init__(self, warm: Warm, folder: Path) -> None:
        self.warm, self.folder = warm, folder

    def __call__(self, name: str, *overrides: str) -> Run:
        ended = self.warm(*SMALL, *overrides, *places(self.folder, name))
        assert ended.code == 0, ended.text
        return Run(self.folder, name, ended)


class Run:
    """A finished run: what it told, and what it left."""

    def __init__(self, folder: Path, name: str, ended: Ended) -> None:
        self.store, self.text = folder / "store", ended.text
        self.results: dict[str, Any] = json.loads((folder / name / "results.json").read_text())
        self.stages: dict[str, str] = json.loads((folder / name / "stages.json").read_text())

    def output(self, label: str) -> Path:
        return self.store / self.stages[label]

    def rows(self, label: str) -> list[Example]:
        return read_examples(self.output(label) / "rows.jsonl")

    def answers(self, label: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.output(label) / "answers.jsonl").read_text().splitlines()]

    def made(self) -> set[str]:
        """Labels of the stages that it did not find in the store."""
        return {label for label in self.stages if not re.search(rf"{re.escape(label)} +stored", self.text)}


@pytest.fixture(scope="module")
def runs(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(warm, tmp_path_factory.mktemp("method"))


@pytest.fixture(scope="module")
def first(runs: Runs) -> Run:
    """One round, with the generic specialist and the off-domain questions."""
    return runs("first", "baselines.generic=true", "baselines.off_domain=true")


@pytest.fixture(scope="module")
def twice(runs: Runs, first: Run) -> Run:
    return runs("twice", "rounds=2")


# Rounds


def same_adapter(one: Path, other: Path) -> bool:
    mine, theirs = (load_file(path / "adapter_model.safetensors") for path in (one, other))
    assert mine.keys() == theirs.keys()
    return all((mine[name] == theirs[name]).all() for name in mine)


def test_a_second_round_answers_the_same_instructions_and_tunes_the_base_again(first: Run, twice: Run) -> None:
    assert twice.made() == {"examples (round 2)", "adapter (round 2)", "scores (specialized)"}
    before = {row.id: row for row in twice.rows("examples")}
    after = {row.id: row for row in twice.rows("examples (round 2)")}
    both = before.keys() & after.keys()
    assert len(both) >= 8
    for name in both:
        told = [(row.instruction, row.input, row.seeds, row.sampler_seed) for row in (before[name], after[name])]
        assert told[0] == told[1]
    assert [before[name].output for name in both] != [after[name].output for name in both]  # another model answered


def test_the_adapter_of_the_round_with_the_lower_loss_on_held_out_seeds_is_kept(twice: Run) -> None:
    folders = [twice.output(label) for label in ("adapter (specialized)", "adapter (round 2)")]
    alone, both = (json.loads((folder / "rounds.json").read_text()) for folder in folders)
    assert len(alone["losses"]) == 1 and alone["kept"] == 1
    assert len(both["losses"]) == 2 and both["losses"][:1] == alone["losses"]
    curve = json.loads((folders[1] / "curve.json").read_text())
    assert both["losses"][1] == min(point["held_out_loss"] for point in curve if "held_out_loss" in point)
    assert both["kept"] == (2 if both["losses"][1] < both["losses"][0] else 1)
    assert same_adapter(*folders) == (both["kept"] == 1)
    assert twice.results["rounds"] == both
    assert twice.results["held_out_loss"] == min(both["losses"])
    kept = "examples" if both["kept"] == 1 else "examples (round 2)"
    assert twice.results["funnel"] == json.loads((twice.output(kept) / "funnel.json").read_text())


@pytest.mark.parametrize(("loss", "kept"), [(0.001, 1), (1000.0, 2)])
def test_a_better_first_round_stays_and_a_worse_one_goes(
    warm: Warm, twice: Run, tmp_path: Path, loss: float, kept: int
) -> None:
    shutil.copytree(twice.store, tmp_path / "store")
    again = Run(twice.store.parent, "twice", Ended(0, ""))
    again.store = tmp_path / "store"
    before = again.output("adapter (specialized)")
    (before / "rounds.json").write_text(json.dumps({"losses": [loss], "kept": 1}))
    manifest = json.loads((before / "manifest.json").read_text())
    manifest["files"]["rounds.json"] = file_hash(before / "rounds.json")
    (before / "manifest.json").write_text(json.dumps(manifest))
    for label in ("adapter (round 2)", "scores (specialized)"):
        shutil.rmtree(again.output(label))
    ended = warm(*SMALL, "rounds=2", *places(tmp_path))
    assert ended.code == 0, ended.text
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["rounds"]["kept"] == kept and results["rounds"]["losses"][0] == loss
    assert results["held_out_loss"] == results["rounds"]["losses"][kept - 1]
    assert same_adapter(before, again.output("adapter (round 2)")) == (kept == 1)
    assert f"{kept} round kept" in ended.text


def test_new_instructions_are_written_for_a_round_when_asked(runs: Runs, twice: Run) -> None:
    run = runs("new", "rounds=2", "rounds.instructions=new")
    assert run.output("examples") == twice.output("examples")
    blocks = list((run.store / "instructions").glob("*-00000"))
    old, new = ({row.input for row in run.rows(label)} for label in ("examples", "examples (round 2)"))
    assert len(blocks) >= 2 and not old & new
    assert not {row.sampler_seed for row in run.rows("examples")} & {
        r.sampler_seed for r in run.rows("examples (round 2)")
    }


def test_in_a_contrastive_round_the_expert_alone_names_labels_and_other_answers_are_contrasted(
    runs: Runs, twice: Run
) -> None:
    run = runs("contrastive", "rounds=2", "rounds.decoding=contrastive", "rounds.contrast=2.0")
    config = toy_experiment(Path("unused"), "model=gemma-3-270m")
    by_id, differ = {seed.id: seed for seed in SEEDS}, Counter[bool]()
    network, tokenizer = toy("gemma-3-270m")
    with with_adapter(network, run.output("adapter (specialized)")) as expert:
        engine = TransformersEngine(expert, tokenizer)
        for row in run.rows("examples (round 2)"):
            prefix = prompts().prefix(config.domain.role, [by_id[name] for name in row.response_seeds])
            (reply,) = engine.complete(
                PromptBatch(prefix, (prompts().task(row),), Sampling(8), prompts().templates.response_stop)
            )
            closed = TASKS[row.task_type].kind in ("label", "labels")
            differ[closed] += reply.text.strip() != row.output
    assert not differ[True] and differ[False]
    old, new = ({row.id: row.input for row in some.rows("examples (round 2)")} for some in (twice, run))
    assert all(old[name] == new[name] for name in old.keys() & new.keys())


# Baselines and domains


def test_the_generic_specialist_has_a_column_beside_base_and_specialized(first: Run) -> None:
    assert {row["model"] for row in first.results["scores"]} == {"base", "generic", "specialized"}
    headings = [line.split() for line in first.text.splitlines() if line.split()[:2] == ["measure", "base"]]
    assert {"generic", "specialized"} <= set(headings[0])
    rows = first.rows("examples (generic)")
    general = {
        seed.id for seed in read_seeds(DOMAINS / "general" / "seeds.jsonl", toy_experiment(Path()).general.tasks)
    }
    assert {seed for row in rows for seed in (*row.seeds, *row.response_seeds)} <= general


def test_what_was_forgotten_is_measured_on_the_general_questions(first: Run) -> None:
    told = first.results["off_domain"]
    assert told["name"] == "general"
    assert {row["model"] for row in told["scores"]} == {"base", "specialized"}
    assert {(row["model"], row["minus"]) for row in told["differences"]} == {("specialized", "base")}
    asked = {row["id"] for row in first.answers("off-domain scores (base)")}
    general = {
        question.id
        for question in read_questions(DOMAINS / "general/evaluation.jsonl", toy_experiment(Path()).general.tasks)
    }
    assert len(asked) == 2 and asked <= general
    assert asked == {row["id"] for row in first.answers("off-domain scores (specialized)")}


def test_the_generalist_asked_in_a_domain_shares_all_that_it_has_in_common_with_the_domains_own_run(
    runs: Runs, first: Run
) -> None:
    run = runs("general", "domain=general", "evaluation.domain=biomedicine")
    assert run.made() == set()
    for mine, theirs in {
        "scores (base)": "scores (base)",
        "scores (specialized)": "scores (generic)",
        "examples": "examples (generic)",
        "adapter (specialized)": "adapter (generic)",
    }.items():
        assert run.output(mine) == first.output(theirs)
    assert "off_domain" not in run.results


def test_the_general_domain_on_its_own_questions_has_nothing_off_domain_and_no_generic_baseline(warm: Warm) -> None:
    ended = warm(*SMALL, "domain=general", "baselines.off_domain=true", "baselines.generic=true", "plan=true")
    assert ended.code == 0, ended.text
    assert "scores (base)" in ended.text
    assert "off-domain" not in ended.text and "generic" not in ended.text


# Seeds


@given(st.integers(1, 72), st.integers(0, 72))
def test_a_smaller_count_of_seeds_is_part_of_a_larger_one_and_takes_task_types_in_turn(count: int, more: int) -> None:
    shown, held_out = split_seeds(SEEDS)
    few, many = seed_subset(shown, count), seed_subset(shown, count + more)
    assert len(few) == count and {seed.id for seed in few} <= {seed.id for seed in many}
    assert not {seed.id for seed in many} & {seed.id for seed in held_out}
    sizes = Counter(seed.task_type for seed in few)
    most = Counter(seed.task_type for seed in shown)
    assert all(sizes[name] >= min(most[name], max(sizes.values()) - 1) for name in most)


def test_with_fewer_seeds_only_they_are_shown_and_learnt_while_the_held_out_and_the_shots_stay(
    runs: Runs, first: Run
) -> None:
    run = runs("fewer", "domain.seed_count=20", "baselines.seeds_only=true")
    twenty, forty = ({seed.id for seed in seed_subset(split_seeds(SEEDS)[0], count)} for count in (20, 40))
    seen = {seed for row in run.rows("examples") for seed in (*row.seeds, *row.response_seeds)}
    assert seen <= twenty < forty and len(seen) > 10
    manifest = json.loads((run.output("adapter (seeds only)") / "manifest.json").read_text())
    assert manifest["counts"]["rows"] == 20
    watched = [
        json.loads((one.output("adapter (specialized)") / "curve.json").read_text())[0]["held_out_loss_before"]
        for one in (run, first)
    ]
    assert watched[0] == pytest.approx(watched[1])  # the untuned model on the same held-out seeds
    assert run.output("scores (base)") == first.output("scores (base)")
    assert run.output("examples") != first.output("examples")


# Questions


@pytest.fixture(scope="module")
def own(runs: Runs, first: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A user's questions: one has a type and kind that the domain lacks, one is a seed in disguise."""
    seed = next(seed for seed in SEEDS if seed.task_type == "yesno_question")
    common = {"instruction": "Answer the question.", "answers": ["yes"], "options": ["yes", "no"]}
    rows = [
        {"id": "mine-1", "task_type": "dose", "kind": "number", "instruction": "How many milligrams in all?",
         "input": "She takes two tablets of 50 mg each, every morning.", "answers": ["100"]},
        {"id": "mine-2", "task_type": "yesno_question", **common, "input": f"Please read: {seed.input.upper()}"},
        {"id": "mine-3", "task_type": "yesno_question", **common, "input": "Do ferns that grow in bogs bear cones?"},
    ]  # fmt: skip
    path = tmp_path_factory.mktemp("own") / "mine.jsonl"
    write_jsonl(path, rows)
    more = ["evaluation.limit=null", "evaluation.shots=[0,5]", "evaluation.draws=3"]
    return runs("own", f"evaluation.files=[{path}]", *more)


def test_a_users_questions_may_have_kinds_of_their_own_beside_the_domains(own: Run) -> None:
    assert own.made() == {"scores (base)", "scores (specialized)"}
    assert {row["id"]: row["task_type"] for row in own.answers("scores (base)")} == {
        "mine-1": "dose", "mine-2": "yesno_question", "mine-3": "yesno_question"
    }  # fmt: skip
    assert own.results["metrics"] == {"dose": ["within 0.01"], "yesno_question": ["macro F1"]}
    assert {row["task"] for row in own.results["scores"]} == {"dose", "yesno_question", "all"}


def test_a_question_is_asked_once_without_shots_and_as_often_as_shots_are_drawn_with_them(own: Run) -> None:
    rows = own.answers("scores (specialized)")
    asked = Counter((row["id"], row["shots"]) for row in rows)
    assert asked == {(f"mine-{n}", shots): (3 if shots else 1) for n in (1, 2, 3) for shots in (0, 5)}
    assert {row["draw"] for row in rows if row["shots"] == 5} == {0, 1, 2}
    assert {row["draw"] for row in rows if row["shots"] == 0} == {0}
    drawn = {tuple(row["option_logprobs"]) for row in rows if row["id"] == "mine-3" and row["shots"] == 5}
    assert len(drawn) == 3  # each draw is another prompt
    counts = {(row["shots"], row["measure"]) for row in own.results["scores"] if row["task"] == "dose"}
    assert {(0, "token_f1"), (5, "token_f1")} <= counts


def test_a_question_that_a_seed_gives_away_is_told_and_scores_stand_without_it(own: Run) -> None:
    told = own.results["overlap"]
    assert told["questions"] == 3 and told["touched"] == ["mine-2"]
    assert told["counts"]["seeds"] == {"8": 1, "13": 1}
    assert told["counts"]["examples"] == {"8": 0, "13": 0}
    clean = told["clean"]
    assert {row["task"] for row in clean["scores"]} == {"dose", "yesno_question", "all"}
    assert clean["lines"]["yesno_question"]["count"] == 1 and own.results["lines"]["yesno_question"]["count"] == 2


def test_without_overlap_nothing_is_scored_twice(first: Run) -> None:
    told = first.results["overlap"]
    assert (told["questions"], told["touched"]) == (2, []) and "clean" not in told


def test_a_row_that_has_words_of_a_users_question_is_dropped(runs: Runs, first: Run, tmp_path: Path) -> None:
    kept = [row for row in first.rows("examples") if not any(row.verdicts.values())]
    planted = next(row for row in kept if len(re.findall("[a-z0-9]+", row.input.lower())) >= 8)
    question = {"id": "leak", "instruction": "Is it so?", "input": f"Once, {planted.input} And then?"}
    path = tmp_path / "mine.jsonl"
    write_jsonl(path, [question])
    run = runs("against", f"generation.contamination.against=[{path}]")
    (row,) = (row for row in run.rows("examples") if row.id == planted.id)
    assert row.input == planted.input
    assert re.fullmatch(r"(8|13) words of leak", row.verdicts["contamination"])
    assert run.results["funnel"]["dropped"]["contamination"]
    others = [row.id for row in run.rows("examples") if not any(row.verdicts.values())]
    assert [row.id for row in kept if row.id != planted.id] == others[:-1]  # the next row took its place


# The judge, and passages


def test_a_judge_that_knows_nothing_tells_its_auc_and_drops_nothing(runs: Runs, first: Run) -> None:
    run = runs("judge", "generation.filters.judge=true", "generation.judge.shots=2", "generation.judge.least_auc=1")
    told = run.results["funnel"]["judge"]
    assert 0 < told["auc"] < 1 and told["filters"] is False
    assert told["seeds"] == len(split_seeds(SEEDS)[0]) - 2
    rows = run.rows("examples")
    assert {row.verdicts["judge"] for row in rows if "judge" in row.verdicts} == {""}
    assert "judge" not in run.results["funnel"]["dropped"]
    assert [row.id for row in rows] == [row.id for row in first.rows("examples")]


def test_passages_of_a_users_folder_stand_in_the_prompts_of_the_rows_that_name_them(
    runs: Runs, first: Run, tmp_path: Path
) -> None:
    (tmp_path / "corpus").mkdir()
    finance = read_seeds(DOMAINS / "finance" / "seeds.jsonl", toy_experiment(Path(), "domain=finance").domain.tasks)
    texts = [seed.input for seed in [*SEEDS[:40], *finance[:40]]]
    for number, text in enumerate(texts):
        (tmp_path / "corpus" / f"{number}.txt").write_text(text)
    for question in read_questions(DOMAINS / "biomedicine" / "evaluation.jsonl", TASKS):
        (tmp_path / "corpus" / f"asked-{question.id}.txt").write_text(question.input)
    run = runs("retrieval", "retrieval=bm25", f"retrieval.corpus={tmp_path}/corpus", "retrieval.passages=3")
    assert "index" in run.stages
    kept = [row for row in run.rows("examples") if not any(row.verdicts.values())]
    assert sum(bool(row.documents) for row in kept) >= 4
    named = {name.partition("#")[0] for row in kept for name in row.documents}
    assert named <= {f"{number}.txt" for number in range(80)}  # no evaluation question's, though
    best = [passage.id for row in kept for passage in Index(run.output("index")).search(row.input, 3)]
    assert any(name.startswith("asked-") for name in best)
    assert all(len(set(row.documents)) == len(row.documents) <= 3 for row in kept)
    before = {row.id: row.input for row in first.rows("examples")}  # instructions hang on no corpus
    assert all(row.input == before[row.id] for row in kept if row.id in before)
    assert run.results["overlap"]["counts"]["passages"] == {"8": 0, "13": 0}
    leaked = texts[int(next(iter(named)).removesuffix(".txt"))]
    question = {"id": "mine", "task_type": "own", "kind": "text", "instruction": "Go on.", "answers": ["a"]}
    write_jsonl(tmp_path / "mine.jsonl", [question | {"input": leaked}])
    same = ["retrieval=bm25", f"retrieval.corpus={tmp_path}/corpus", "retrieval.passages=3"]
    asked = runs("retrieval-asked", *same, f"evaluation.files=[{tmp_path}/mine.jsonl]")
    assert asked.results["overlap"]["counts"]["passages"] == {"8": 1, "13": 1}
