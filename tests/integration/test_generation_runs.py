"""Generation through the real command line on a toy model: votes, the judge and the funnel, kills, and batch sizes.

Variants with the same seeds have common random numbers, whatever their batch sizes.
"""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from conftest import Warm, places, signal_when
from selfspec.data.reading import read_examples, read_seeds
from selfspec.data.records import Example
from selfspec.data.splits import split_seeds
from selfspec.generation.funnel import count_reasons
from selfspec.generation.pools import BLOCK_SIZE
from toys import PROJECT, toy_experiment

FILTERS = ("form", "echo", "duplicate", "novelty", "contamination", "answer", "self_consistency", "judge", "balance")
SEEDS = read_seeds(PROJECT / "src/selfspec/domains/biomedicine/seeds.jsonl", toy_experiment(Path()).domain.tasks)
SMALL = [
    "debug=smoke", "logger=none", "data_size.examples=8", "evaluation.limit=1", "evaluation.shots=[0]",
    "evaluation.resamples=2", "baselines.seeds_only=false", "baselines.off_domain=false",
    "generation.instructions.instruction_tokens=8", "generation.instructions.input_tokens=12",
    "generation.responses.max_new_tokens=6", "generation.self_consistency.samples=3", "generation.judge.shots=2",
    "generation.filters.self_consistency=true", "generation.filters.judge=true",
]  # fmt: skip


@pytest.fixture(scope="module")
def judged(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with the filters `self_consistency` and `judge`."""
    folder = tmp_path_factory.mktemp("judged")
    ended = warm(*SMALL, *places(folder))
    assert ended.code == 0, ended.text
    return folder


def read_candidates(folder: Path) -> list[Example]:
    """All candidates of a run's examples, accepted or not."""
    (path,) = (folder / "store" / "examples").glob("*/rows.jsonl")
    return read_examples(path)


def test_a_models_rows_pass_the_filters_in_order_and_the_funnel_counts_them(judged: Path) -> None:
    rows, results = read_candidates(judged), json.loads((judged / "run" / "results.json").read_text())
    tasks = toy_experiment(judged).domain.tasks
    enabled = [name for name in FILTERS if name not in ("form", "answer")]  # toys switch these two off
    for row in rows:
        is_closed = tasks[row.task_type].kind in ("label", "labels")
        chain = [name for name in enabled if is_closed or name != "self_consistency"]
        names = list(row.verdicts)
        assert names == chain[: len(names)] or names == [name for name in chain if name != "balance"]
        assert not any(list(row.verdicts.values())[:-1])
        assert any(row.verdicts.values()) or len(names) >= len(chain) - 1
    accepted = [row for row in rows if not any(row.verdicts.values())]
    assert accepted == read_examples(next((judged / "store" / "examples").glob("*/examples.jsonl")))
    funnel = results["funnel"]
    assert (funnel["attempts"], funnel["accepted"]) == (len(rows), len(accepted)) and len(accepted) == 8
    assert rows[-1] == accepted[-1]  # candidates after the last accepted one are not part of this data size
    assert sum(sum(reasons.values()) for reasons in funnel["dropped"].values()) == len(rows) - len(accepted)
    assert funnel["dropped"] == count_reasons(rows)


def test_a_models_instructions_are_written_from_seeds_of_their_own_task_type(judged: Path) -> None:
    (path,) = (judged / "store" / "instructions").glob("*/rows.jsonl")
    raw = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(raw) == BLOCK_SIZE
    by_id = {seed.id: seed for seed in split_seeds(SEEDS)[0]}  # a held-out seed would raise a KeyError
    draws: dict[str, set[tuple[str, ...]]] = {}
    for row in raw:
        assert {by_id[seed].task_type for seed in row["seeds"]} == {row["request"]["task_type"]}
        draws.setdefault(row["request"]["task_type"], set()).add(tuple(row["seeds"]))
    assert all(len(draw) == 1 for draw in draws.values()) and len(draws) == 10  # one draw for each type of a block
    assert len({row["sampler_seed"] for row in raw}) == BLOCK_SIZE  # a stream for each row
    for row in read_candidates(judged):
        if row.response_seeds:
            assert len(row.response_seeds) == 5
            assert {by_id[seed].task_type for seed in row.response_seeds} == {row.task_type}


def test_a_run_killed_while_voting_and_judging_ends_with_the_same_bytes(
    warm: Warm, judged: Path, tmp_path: Path
) -> None:
    shutil.copytree(judged / "store", tmp_path / "store")
    for name in ("votes", "judgements", "examples", "adapter"):
        shutil.rmtree(tmp_path / "store" / name)

    def kill_in(name: str) -> int:
        (folder,) = (path for path in (judged / "store" / name).iterdir() if not path.name.endswith("-seeds"))
        work = tmp_path / "store" / "work" / folder.name

        def kill(pid: int) -> None:
            signal_when(lambda: any(work.glob("*/batch-*.jsonl")), pid, signal.SIGKILL)

        return warm(*SMALL, *places(tmp_path), kill=kill).code

    for name in ("votes", "judgements"):
        assert kill_in(name) == -signal.SIGKILL
        assert not (tmp_path / "store" / "examples").exists()
    assert warm(*SMALL, *places(tmp_path)).code == 0
    for name in ("votes", "judgements", "examples"):
        expected = read_outputs(judged, name)
        assert expected and read_outputs(tmp_path, name) == expected


def read_outputs(folder: Path, name: str) -> dict[Path, bytes]:
    """The files of a pool or stage, without manifests, since these hold times."""
    store = folder / "store"
    return {
        path.relative_to(store): path.read_bytes()
        for path in (store / name).glob("*/*")
        if path.name != "manifest.json"
    }


# Common random numbers, whatever the batch size


def raw_rows(folder: Path, name: str, *fields: str) -> list[list[Any]]:
    """(place, *fields) of each row in a pool's first block."""
    (path,) = (folder / "store" / name).glob("*-00000/rows.jsonl")
    return [[row["place"], *(row[field] for field in fields)] for row in map(json.loads, path.read_text().splitlines())]


@pytest.mark.parametrize("size", [1, 4])
def test_batch_sizes_change_no_generated_text(warm: Warm, judged: Path, tmp_path: Path, size: int) -> None:
    sizes = [f"generation.{part}.batch_size={size}" for part in ("instructions", "responses", "judge")]
    ended = warm(*SMALL, *places(tmp_path), *sizes, f"evaluation.batch_size={size}")
    assert ended.code == 0, ended.text
    keys = [json.loads((folder / "run" / "stages.json").read_text()) for folder in (judged, tmp_path)]
    assert keys[0] == keys[1]  # a batch size is in no key
    for name, *fields in (
        ("instructions", "instruction", "input", "seeds"),
        ("responses", "text"),
        ("votes", "samples"),
    ):
        assert raw_rows(judged, name, *fields) == raw_rows(tmp_path, name, *fields)
    margins = [raw_rows(folder, "judgements", "margin") for folder in (judged, tmp_path)]
    assert [[place, pytest.approx(margin, abs=1e-5)] for place, margin in margins[0]] == margins[1]


def test_a_filter_changes_no_random_draw_before_or_after_it(warm: Warm, judged: Path, tmp_path: Path) -> None:
    """Variants with the same seeds have common random numbers: they differ only by the filter."""
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
