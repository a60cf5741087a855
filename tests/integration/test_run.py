"""A run from seeds to report on a toy model, through the real command line."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from command import selfspec
from conftest import PROJECT, Warm, places
from selfspec.config.hashing import file_hash
from selfspec.runtime.files import list_files
from toys import toy

NO_BASELINES = ["baselines.seeds_only=false", "baselines.off_domain=false"]


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
        "format",
        "label_accuracy",
        "option_accuracy",
        "option_auc",
    } <= measured
    assert all(row["low"] <= row["value"] <= row["high"] for row in report["scores"])
    assert {(row["model"], row["minus"]) for row in report["differences"]} >= {("specialized", "base")}
    assert report["rounds"] == {"losses": [report["held_out_loss"]], "kept": 1}
    off_domain = report["off_domain"]
    assert off_domain["name"] == "general"
    assert {row["model"] for row in off_domain["scores"]} == {"base", "specialized"}
    assert {"plausibility", "word_problem"} <= {row["task"] for row in off_domain["scores"]}
    assert set(report["metrics"]) == {row["task"] for row in report["scores"]} - {"all"}
    assert report["overlap"]["questions"] == 20 and set(report["overlap"]["counts"]) == {"seeds", "examples"}
    assert "Random draws come from seed 0; runs with the same seed share them wherever they can." in report["notes"]


def test_the_limit_of_questions_is_divided_among_task_types(smoke: Path) -> None:
    for path in (smoke / "store" / "scores").glob("*/answers.jsonl"):
        answers = [json.loads(line) for line in path.open()]
        counts = Counter((row["task_type"], row["shots"], row["draw"]) for row in answers)
        assert set(counts.values()) == {2} and len(counts) == 2 * 10  # 20 questions at 0 and at 5 shots


def test_the_page_needs_no_network_and_no_script(smoke: Path) -> None:
    page = (smoke / "run" / "report.html").read_text()
    assert "http://" not in page and "https://" not in page and "<script" not in page
    assert "token F1" in page and "accepted examples" in page and "come from seed 0" in page


def test_every_row_has_its_provenance(smoke: Path) -> None:
    generated = [json.loads(line) for line in rows(smoke, "examples", "rows.jsonl")]
    assert len(generated) >= 12
    for row in generated:
        assert len(row["seeds"]) == 3 and row["prompt"] and row["verdicts"] and row["sampler_seed"]
    accepted = [row for row in generated if not any(row["verdicts"].values())]
    assert all(len(row["response_seeds"]) == 5 for row in accepted)


def test_a_repeated_run_loads_no_model_and_starts_no_wandb(smoke: Path, tmp_path: Path) -> None:
    before = {path: file_hash(path) for path in list_files(smoke / "store") if path.suffix != ".lock"}
    code = (
        "import runpy, sys\n"
        "sys.argv[0] = 'run.py'\n"
        "runpy.run_path('run.py', run_name='__main__')\n"
        "print('torch was imported' if 'torch' in sys.modules else 'no torch')"
    )
    arguments = ["debug=smoke", f"paths.store={smoke}/store", f"hydra.run.dir={tmp_path}/again"]
    command = [sys.executable, "-c", code, *arguments]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert ended.stdout.count("stored  ") == 8 and ended.stdout.endswith("no torch\n")
    assert not (tmp_path / "again" / "wandb").exists()
    assert {path: file_hash(path) for path in list_files(smoke / "store") if path.suffix != ".lock"} == before
    again = json.loads((tmp_path / "again" / "results.json").read_text())
    assert again["scores"] == json.loads((smoke / "run" / "results.json").read_text())["scores"]


def test_the_store_is_listed_with_settings_and_runs(smoke: Path, tmp_path: Path) -> None:
    shutil.copytree(smoke / "store", tmp_path / "store")
    shutil.copytree(smoke / "run", tmp_path / "outputs" / "day" / "time-smoke")
    listed = json.loads(selfspec("store", "ls", "--root", tmp_path / "store", "--json").stdout)
    rows = {row["label"] or row["stage"]: row for row in listed}
    assert len(rows) == len(listed) == 8 + 2  # stages and pools
    expected = {"data_size.examples": 12, "lora.r": 8}
    assert rows["adapter (specialized)"]["settings"] == rows["scores (specialized)"]["settings"] == expected
    assert rows["adapter (seeds only)"]["settings"] == {"lora.r": 8} and rows["scores (base)"]["settings"] == {}
    assert {row["model"] for row in listed} == {"gemma-3-270m"}
    assert rows["instructions"]["domain"] == "biomedicine"
    assert all(row["runs"] == ["outputs/day/time-smoke"] and row["num_bytes"] > 0 for row in listed)


def test_a_larger_data_size_extends_the_examples_of_the_smaller_one(warm: Warm, smoke: Path, tmp_path: Path) -> None:
    shutil.copytree(smoke / "store", tmp_path / "store")
    (first,) = (tmp_path / "store" / "examples").iterdir()
    small = (first / "examples.jsonl").read_bytes()
    block = next((tmp_path / "store" / "instructions").iterdir()) / "rows.jsonl"
    modified = block.stat().st_mtime_ns
    ended = warm("debug=smoke", "data_size.examples=70", "evaluation.limit=1", *NO_BASELINES, *places(tmp_path))
    assert ended.code == 0, ended.text
    assert "adapter (seeds only)" not in ended.text and "off-domain" not in ended.text
    second = next(path for path in (tmp_path / "store" / "examples").iterdir() if path != first)
    assert (second / "examples.jsonl").read_bytes().startswith(small)
    assert block.stat().st_mtime_ns == modified  # the first block is reused
    assert len(list((tmp_path / "store" / "instructions").iterdir())) == 2


def test_too_few_attempts_are_an_error_and_a_higher_limit_continues(warm: Warm, tmp_path: Path) -> None:
    overrides = [
        "debug=smoke",
        "data_size.examples=70",
        "evaluation.limit=1",
        "logger=none",
        *NO_BASELINES,
        *places(tmp_path),
    ]
    ended = warm(*overrides, "generation.max_attempts=64")
    assert ended.code == 1
    assert "Only 64 of 70 examples passed in 64 attempts" in ended.text
    assert "generation.max_attempts" in ended.text and "Traceback" not in ended.text
    error = json.loads((tmp_path / "run" / "error.json").read_text())
    assert error["stage"] == "examples" and "70" in error["what"]
    block = next((tmp_path / "store" / "instructions").iterdir()) / "rows.jsonl"
    modified = block.stat().st_mtime_ns
    assert warm(*overrides, "generation.max_attempts=128").code == 0
    assert block.stat().st_mtime_ns == modified


FAST_MODELS = ("smollm2-135m", "llama-2-7b", "mpt-30b", "falcon-40b")  # one for each kind of attention
SLOW_MODELS = sorted({path.stem for path in (PROJECT / "conf" / "model").glob("*.yaml")} - {*FAST_MODELS})


@pytest.mark.parametrize("model", [*FAST_MODELS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_MODELS)])
def test_each_model_completes_a_run_as_a_toy(warm: Warm, tmp_path: Path, model: str) -> None:
    small = ["debug=smoke", "domain=finance", "logger=none", "evaluation.limit=1", "baselines.seeds_only=false"]
    ended = warm(f"model={model}", *small, *places(tmp_path))
    assert ended.code == 0, ended.text
    assert (tmp_path / "run" / "report.html").exists()


def test_a_chat_model_completes_a_run_with_its_chat_template(warm: Warm, tmp_path: Path) -> None:
    arguments = ["debug=smoke", "logger=none", "model.prompt=chat", "evaluation.limit=5"]
    ended = warm(*arguments, *NO_BASELINES, *places(tmp_path))
    assert ended.code == 0, ended.text
    (path, *_) = (tmp_path / "store" / "adapter").glob("*/prompt.json")
    template = json.loads(path.read_text())["template"]
    assert template.startswith("[user]\nYou are ") and template.endswith("### Response:\n[assistant]\n")


def test_a_folder_with_safetensors_can_be_the_model(warm: Warm, tmp_path: Path) -> None:
    model, tokenizer = toy("llama-2-7b")
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    no_checks = ["generation.filters.form=false", "generation.filters.answer=false"]
    arguments = [f"model.path={tmp_path}/model", "model=smollm2-135m", "debug=smoke", "model.toy=false", *no_checks]
    ended = warm(*arguments, "logger=none", "evaluation.limit=1", *NO_BASELINES, *places(tmp_path))
    assert ended.code == 0, ended.text
    assert ended.results(tmp_path / "run")["subtitle"].count("weights: files:") == 1


@pytest.mark.parametrize("damage", ["truncate", "change", "remove"])
def test_a_damaged_output_is_set_aside_and_made_again(warm: Warm, smoke: Path, tmp_path: Path, damage: str) -> None:
    shutil.copytree(smoke / "store", tmp_path / "store")
    path = next((tmp_path / "store" / "examples").glob("*/examples.jsonl"))
    content = path.read_bytes()
    if damage == "truncate":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "change":
        path.write_bytes(content.replace(b"a", b"b", 1))
    else:
        path.unlink()
    ended = warm("debug=smoke", *places(tmp_path))
    assert ended.code == 0, ended.text
    assert "damaged" in ended.text and "set aside" in ended.text
    assert path.read_bytes() == content
    assert len(list((tmp_path / "store" / "aside").iterdir())) == 1


def test_the_command_in_a_report_repeats_just_that_job_from_any_folder(warm: Warm, tmp_path: Path) -> None:
    typed, elsewhere = tmp_path / "typed", tmp_path / "elsewhere"
    (typed / "my confs" / "lora").mkdir(parents=True)
    elsewhere.mkdir()
    preset = PROJECT / "conf" / "experiment" / "lora_rank.yaml"
    (typed / "my confs" / "experiment").mkdir()
    (typed / "my confs" / "experiment" / "ranks.yaml").write_text(preset.read_text().replace("r16,r32,r64", "mine"))
    r16 = PROJECT / "conf" / "lora" / "r16.yaml"
    shutil.copy(r16, typed / "my confs" / "lora" / "mine.yaml")
    shutil.copy(PROJECT / "src/selfspec/domains/biomedicine/seeds.jsonl", typed)
    arguments = ["--config-dir", "my confs", "experiment=ranks", "debug=smoke", "domain.seeds=seeds.jsonl"]
    small = ["logger=none", "evaluation.limit=1", "evaluation.shots=[0]", "paths.store=store", *NO_BASELINES]
    ended = warm(*arguments, *small, "hydra.sweep.dir=sweep", cwd=typed)
    assert ended.code == 0, ended.text
    reports = [json.loads(path.read_text()) for path in sorted((typed / "sweep").glob("*/results.json"))]
    jobs = json.loads((typed / "sweep" / "sweep.json").read_text())["jobs"]
    assert [report["command"] for report in reports] == [job["command"] for job in jobs]
    for number, report in enumerate(reports):
        program, verb, *words = shlex.split(report["command"])
        assert (program, verb) == ("selfspec", "run")
        repeated = warm(*words, f"hydra.run.dir={tmp_path}/again{number}", cwd=elsewhere)
        assert repeated.code == 0 and repeated.text.count("stored  ") == len(report["keys"]), repeated.text
        again = json.loads((tmp_path / f"again{number}" / "results.json").read_text())
        assert again["keys"] == report["keys"] and again["title"] == report["title"]
    assert selfspec("export", typed / "sweep" / Path(jobs[1]["folder"]).name, tmp_path / "out").returncode == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "\nselfspec run '--config-dir=my confs' hydra.mode=RUN " in card and str(typed) not in card
    texts = [(typed / "sweep" / name).read_text() for name in ("report.csv", "report.md")]
    assert all(job["command"] in text for job in jobs for text in texts)
