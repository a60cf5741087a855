"""The way from seeds to report on a toy model, through the real command line."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest

from conftest import PROJECT, Warm, cold, places
from selfspec.config.hashing import file_hash
from selfspec.runtime.files import list_files
from toys import toy

ALONE = ["baselines.seeds_only=false", "baselines.off_domain=false"]  # what the specialized model is held against


def rows(folder: Path, stage: str, name: str) -> list[bytes]:
    """Lines of the file `name` in every finished output of a stage."""
    return [line for path in sorted((folder / "store" / stage).glob(f"*/{name}")) for line in path.open("rb")]


def test_a_run_leaves_report_results_config_and_log(smoke: Path) -> None:
    run = smoke / "run"
    names = {path.name for path in run.iterdir()}
    assert {"report.html", "results.json", "config.yaml", "stages.json", "selfspec.log", ".hydra"} <= names
    report = json.loads((run / "results.json").read_text())
    assert {row["model"] for row in report["scores"]} == {"base", "seeds_only", "specialized"}
    assert {row["shots"] for row in report["scores"]} == {0, 5}
    measured = {row["measure"] for row in report["scores"] if row["task"] == "all"}
    assert {
        "token_f1",
        "rouge_l",
        "primary_metric",
        "compliant",
        "label_accuracy",
        "option_accuracy",
        "option_auc",
    } <= measured
    assert all(row["low"] <= row["value"] <= row["high"] for row in report["scores"])
    assert {(row["model"], row["minus"]) for row in report["differences"]} >= {("specialized", "base")}
    assert report["rounds"] == {"losses": [report["held_out_loss"]], "kept": 1}
    elsewhere = report["off_domain"]
    assert elsewhere["name"] == "general" and {row["model"] for row in elsewhere["scores"]} == {"base", "specialized"}
    assert {"plausibility", "word_problem"} <= {row["task"] for row in elsewhere["scores"]}
    assert set(report["metrics"]) == {row["task"] for row in report["scores"]} - {"all"}
    assert report["overlap"]["questions"] == 20 and set(report["overlap"]["counts"]) == {"seeds", "examples"}


def test_a_limit_is_a_total_and_task_types_share_it(smoke: Path) -> None:
    for path in (smoke / "store" / "scores").glob("*/answers.jsonl"):
        answers = [json.loads(line) for line in path.open()]
        asked = Counter((row["task_type"], row["shots"], row["draw"]) for row in answers)
        assert set(asked.values()) == {2} and len(asked) == 2 * 10  # 20 questions at 0 and at 5 shots


def test_the_page_stands_alone(smoke: Path) -> None:
    page = (smoke / "run" / "report.html").read_text()
    assert "http://" not in page and "https://" not in page and "<script" not in page
    assert "token F1" in page and "kept rows" in page


def test_every_row_carries_its_past(smoke: Path) -> None:
    made = [json.loads(line) for line in rows(smoke, "examples", "rows.jsonl")]
    assert len(made) >= 12
    for row in made:
        assert len(row["seeds"]) == 3 and row["prompt"] and row["verdicts"] and row["sampler_seed"]
    kept = [row for row in made if not any(row["verdicts"].values())]
    assert all(len(row["response_seeds"]) == 5 for row in kept)


def test_a_second_call_does_no_model_work_and_starts_no_wandb(smoke: Path, tmp_path: Path) -> None:
    before = {path: file_hash(path) for path in list_files(smoke / "store") if path.suffix != ".lock"}
    started = time.monotonic()
    ended = cold("debug=smoke", f"paths.store={smoke}/store", f"hydra.run.dir={tmp_path}/again")
    seconds = time.monotonic() - started
    assert ended.code == 0, ended.text
    assert ended.text.count("stored  ") == 8
    assert not (tmp_path / "again" / "wandb").exists()
    assert {path: file_hash(path) for path in list_files(smoke / "store") if path.suffix != ".lock"} == before
    assert seconds < 20  # a bound against loading a model; the README's five seconds are measured apart
    again = json.loads((tmp_path / "again" / "results.json").read_text())
    assert again["scores"] == json.loads((smoke / "run" / "results.json").read_text())["scores"]


def test_a_larger_size_begins_with_the_smaller_one(warm: Warm, smoke: Path, tmp_path: Path) -> None:
    shutil.copytree(smoke / "store", tmp_path / "store")
    (first,) = (tmp_path / "store" / "examples").iterdir()
    small = (first / "examples.jsonl").read_bytes()
    block = next((tmp_path / "store" / "instructions").iterdir()) / "rows.jsonl"
    written = block.stat().st_mtime_ns
    ended = warm("debug=smoke", "data_size.examples=70", *ALONE, *places(tmp_path))
    assert ended.code == 0, ended.text
    assert "adapter (seeds only)" not in ended.text and "off-domain" not in ended.text
    second = next(path for path in (tmp_path / "store" / "examples").iterdir() if path != first)
    assert (second / "examples.jsonl").read_bytes().startswith(small)
    assert block.stat().st_mtime_ns == written  # the first block was not made again
    assert len(list((tmp_path / "store" / "instructions").iterdir())) == 2


def test_too_few_attempts_are_told_and_a_higher_limit_goes_on(warm: Warm, tmp_path: Path) -> None:
    wanted = ["debug=smoke", "data_size.examples=70", "evaluation.limit=1", "logger=none", *ALONE, *places(tmp_path)]
    ended = warm(*wanted, "generation.max_attempts=64")
    assert ended.code == 1
    assert "Only 64 of 70 examples passed in 64 attempts" in ended.text
    assert "generation.max_attempts" in ended.text and "Traceback" not in ended.text
    error = json.loads((tmp_path / "run" / "error.json").read_text())
    assert error["stage"] == "examples" and "70" in error["what"]
    block = next((tmp_path / "store" / "instructions").iterdir()) / "rows.jsonl"
    written = block.stat().st_mtime_ns
    assert warm(*wanted, "generation.max_attempts=128").code == 0
    assert block.stat().st_mtime_ns == written


SOME = ("smollm2-135m", "llama-2-7b", "mpt-30b", "falcon-40b")  # of each way to attend; the others: slow
REST = sorted({path.stem for path in (PROJECT / "conf" / "model").glob("*.yaml")} - {*SOME})


@pytest.mark.parametrize("model", [*SOME, *(pytest.param(name, marks=pytest.mark.slow) for name in REST)])
def test_each_model_goes_the_whole_way_as_a_toy(warm: Warm, tmp_path: Path, model: str) -> None:
    ended = warm(
        f"model={model}", "debug=smoke", "domain=finance", "logger=none", "evaluation.limit=1", *places(tmp_path)
    )
    assert ended.code == 0, ended.text
    assert (tmp_path / "run" / "report.html").exists()


def test_a_model_that_converses_goes_the_whole_way_in_its_turns(warm: Warm, tmp_path: Path) -> None:
    places = [f"paths.store={tmp_path}/store", f"hydra.run.dir={tmp_path}/run"]
    ended = warm("debug=smoke", "logger=none", "model.prompt=chat", "baselines.off_domain=false", *places)
    assert ended.code == 0, ended.text
    (path, *_) = (tmp_path / "store" / "adapter").glob("*/prompt.json")
    template = json.loads(path.read_text())["template"]
    assert template.startswith("[user]\nYou are ") and template.endswith("### Response:\n[assistant]\n")


def test_any_folder_with_safetensors_is_a_model(warm: Warm, tmp_path: Path) -> None:
    model, tokenizer = toy("llama-2-7b")
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    let_through = ["generation.filters.form=false", "generation.filters.answer=false"]
    arguments = [f"model.path={tmp_path}/model", "model=smollm2-135m", "debug=smoke", "model.toy=false", *let_through]
    ended = warm(*arguments, "logger=none", "evaluation.limit=1", *ALONE, *places(tmp_path))
    assert ended.code == 0, ended.text
    assert ended.results(tmp_path / "run")["subtitle"].count("weights: files:") == 1


@pytest.mark.parametrize("harm", ["truncate", "change", "remove"])
def test_a_damaged_output_is_noticed_set_aside_and_made_again(
    warm: Warm, smoke: Path, tmp_path: Path, harm: str
) -> None:
    shutil.copytree(smoke / "store", tmp_path / "store")
    path = next((tmp_path / "store" / "examples").glob("*/examples.jsonl"))
    whole = path.read_bytes()
    if harm == "truncate":
        path.write_bytes(whole[: len(whole) // 2])
    elif harm == "change":
        path.write_bytes(whole.replace(b"a", b"b", 1))
    else:
        path.unlink()
    ended = warm("debug=smoke", *places(tmp_path))
    assert ended.code == 0, ended.text
    assert "damaged" in ended.text and "set aside" in ended.text
    assert path.read_bytes() == whole
    assert len(list((tmp_path / "store" / "aside").iterdir())) == 1
