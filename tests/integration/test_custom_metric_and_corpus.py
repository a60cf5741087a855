"""A user's metric and corpus, named by `_target_` on the real command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import custom_evaluation
import wandb_file
from conftest import Ended, Warm, places
from selfspec.config.hashing import file_hash

SMOKE = ["debug=smoke", "evaluation.limit=10", "retrieval=bm25"]
SMOKE += ["retrieval.corpus={_target_: custom_evaluation.Notes, count: 30}"]


def metric(words: int) -> str:
    return f"evaluation.metrics=[{{_target_: custom_evaluation.Brevity, words: {words}}}]"


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.open()]


@pytest.fixture(scope="module")
def finished(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended, dict[str, Any]]:
    """The folder of a smoke run with both, how it ended, and its results."""
    folder = tmp_path_factory.mktemp("own")
    ended = warm(*SMOKE, metric(10), *places(folder))
    assert ended.code == 0, ended.text
    return folder, ended, ended.results(folder / "run")


def test_a_custom_metric_is_the_mean_over_the_stored_replies(finished: tuple[Path, Ended, dict[str, Any]]) -> None:
    folder, _, report = finished
    answers = read_rows(folder / "store" / "scores" / report["keys"]["scores (base)"] / "answers.jsonl")
    values: dict[str, list[float]] = {}
    for row in answers:
        if row["shots"] == 0:
            values.setdefault(row["task_type"], []).append(max(0.0, 1 - len(row["reply"].split()) / 10))
    rows = [row for row in report["scores"] if (row["model"], row["shots"], row["measure"]) == ("base", 0, "brevity")]
    by_task = {row["task"]: row for row in rows}
    overall = by_task.pop("all")
    assert by_task and set(by_task) < set(values)  # it does not apply to entities
    for task, row in by_task.items():
        assert row["value"] == pytest.approx(sum(values[task]) / len(values[task]))
        assert 0 <= row["low"] <= row["value"] <= row["high"] <= 1
    assert overall["value"] == pytest.approx(sum(row["value"] for row in by_task.values()) / len(by_task))
    gaps = [row for row in report["differences"] if row["measure"] == "brevity" and row["task"] == "all"]
    assert {(row["model"], row["minus"]) for row in gaps} >= {("specialized", "base"), ("seeds_only", "base")}
    assert any(row["measure"] == "brevity" for row in report["off_domain"]["scores"])


def test_a_custom_metric_is_in_the_table_the_page_and_wandb(finished: tuple[Path, Ended, dict[str, Any]]) -> None:
    folder, ended, _ = finished
    assert ended.text.count("  brevity ") == 2  # at 0 and at 5 shots
    assert "<td>brevity</td>" in (folder / "run" / "report.html").read_text()
    runs = [wandb_file.read(path) for path in (folder / "run").rglob("run-*.wandb")]
    names = {name for run in runs for name in run.summary}
    assert "specialized/5-shot/brevity" in names


def test_a_custom_corpus_is_indexed_and_identified_by_its_arguments_and_source(
    finished: tuple[Path, Ended, dict[str, Any]],
) -> None:
    folder, _, report = finished
    manifest = json.loads((folder / "store" / "index" / report["keys"]["index"] / "manifest.json").read_text())
    assert manifest["counts"] == {"documents": 30, "passages": 30}
    source = file_hash(Path(custom_evaluation.__file__))
    assert manifest["values"]["corpus"] == {"_target_": "custom_evaluation.Notes", "count": 30, "source": source}
    rows = read_rows(folder / "store" / "examples" / report["keys"]["examples"] / "examples.jsonl")
    assert {name.partition(":")[0] for row in rows for name in row["documents"]} <= {"note"}


def test_another_metric_changes_no_key(
    warm: Warm, tmp_path: Path, finished: tuple[Path, Ended, dict[str, Any]]
) -> None:
    folder, _, report = finished
    ended = warm(*SMOKE, metric(5), f"paths.store={folder}/store", f"hydra.run.dir={tmp_path}/run")
    assert ended.code == 0, ended.text
    again = ended.results(tmp_path / "run")
    assert again["keys"] == report["keys"] and again["scores"] != report["scores"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "evaluation.metrics=[{_target_: custom_evaluation.Brevety}]",
            "evaluation.metrics[0]: custom_evaluation.Brevety can't be",
        ),
        ("evaluation.metrics=[{_target_: custom_evaluation.Brevity, letters: 3}]", "can't be created"),
        ("evaluation.metrics=[{_target_: custom_evaluation.Notes, count: 3}]", "can't be called"),
        ("evaluation.metrics=[{words: 3}]", "evaluation.metrics[0] has no _target_"),
        (
            "retrieval.corpus={_target_: custom_evaluation.Nots}",
            "retrieval.corpus: custom_evaluation.Nots can't be imported",
        ),
    ],
)
def test_a_wrong_target_is_refused_before_any_work(warm: Warm, tmp_path: Path, override: str, message: str) -> None:
    ended = warm("debug=smoke", "retrieval=bm25", override, *places(tmp_path))
    assert ended.code != 0 and message in ended.text and "Traceback" not in ended.text
    assert not list((tmp_path / "store").glob("*/*/manifest.json"))
