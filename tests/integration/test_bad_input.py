"""Errors of users: one sentence that names the error and what to do, exit code 1, no traceback, nothing lost."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import PROJECT, Ended, Warm, cold, places
from selfspec.cli.compose import compose_experiment
from selfspec.config.error_messages import error_message
from selfspec.config.schema import StrategyConfig
from selfspec.errors import UserError
from selfspec.tuning.strategies import limits
from selfspec.tuning.strategies.limits import check_deepspeed_installed, check_strategy_device

SEEDS = (PROJECT / "src/selfspec/domains/biomedicine/seeds.jsonl").read_text().splitlines()


def refusal(run: Callable[..., Ended], tmp_path: Path, *arguments: str, env: dict[str, str] | None = None) -> str:
    """The sentence with which a run is refused; `run` is `warm` or `cold`."""
    ended = run(*places(tmp_path), *arguments, env=env)
    assert ended.code == 1, ended.text
    lines = [line for line in ended.text.splitlines() if line.strip()]
    assert len(lines) == 1 and "Traceback" not in ended.text, ended.text
    assert not list((tmp_path / "store").glob("*/*/manifest.json"))  # before any work
    return lines[0]


@pytest.mark.parametrize(
    ("argument", "parts"),
    [
        ("lora=r9", ["lora=r9", "any rank with lora.r=9 lora.alpha=18"]),
        ("lora=12", ["lora=12", "any rank with lora.r=12 lora.alpha=24"]),
        ("lora.rank=4", ["lora.rank", "did you mean 'lora.r'"]),
        ("lora=[r8,r16]", ["lora has one option", "-m lora=r8,r16"]),
        ("seed=99999999999999999999", ["seed=99999999999999999999", "at most"]),
        ("~seed", ["seed has no value"]),
        ("~lora", ["lora has no value"]),
        ("--shell-completion", ["--hydra-help"]),
        ("+evaluation.domain.foo=1", ["Hydra can't use these arguments"]),
        ("model=gema-3-270m", ["model=gema-3-270m", "did you mean 'gemma-3-270m'"]),
        ("modle=gemma-3-270m", ["modle", "did you mean 'model'"]),
        ("lora.rr=4", ["lora.rr", "did you mean 'r'"]),
        ("+lora.rr=4", ["lora.rr", "did you mean 'r'"]),
        ("+tunning.epochs=2", ["tunning", "did you mean 'tuning'"]),
        ("tuning.epochs=three", ["tuning.epochs", "three"]),
        ("data_size.examples=many", ["data_size.examples", "many"]),
        ("data_size.examples=-5", ["data_size.examples=-5", "at least 1"]),
        ("data_size.examples=0", ["data_size.examples=0", "at least 1"]),
        ("lora.r=-1", ["lora.r=-1", "at least 1"]),
        ("quantization=int8", ["quantization=int8", "nf4"]),
        ("strategy=deepspeed", ["strategy=deepspeed", "ddp"]),
        ("generation.instructions.top_p=1.5", ["generation.instructions.top_p=1.5", "at most 1"]),
        ("generation.instructions.temperature=0", ["temperature=0", "more than 0"]),
        ("tuning.schedule=cosin", ["tuning.schedule=cosin", "did you mean 'cosine'"]),
        ("evaluation.shots=[]", ["evaluation.shots=[]", "at least 1 value"]),
        ("evaluation.shots=[400]", ["biomedicine", "evaluation.shots=400", "write at least 444 seeds"]),
        ("evaluation.shots=[60]", ["general/seeds.jsonl", "evaluation.shots=60", "write at least 68 seeds"]),
        ("evaluation.draws=0", ["evaluation.draws=0", "at least 1"]),
        ("evaluation.files=[/nowhere.jsonl]", ["/nowhere.jsonl", "does not exist"]),
        ("evaluation.domain=finanse", ["domain=finanse", "did you mean 'finance'"]),
        ("generation.contamination.against=[/nowhere.jsonl]", ["/nowhere.jsonl", "does not exist"]),
        ("generation.contamination.words=4", ["generation.contamination.words=4", "at least 5"]),
        ("generation.demonstrations=own", ["generation.demonstrations=own", "did you mean 'own_type'"]),
        ("domain.seed_count=3", ["domain.seed_count=3", "generation.responses.shots=5", "raise it"]),
        ("rounds=0", ["rounds.count=0", "at least 1"]),
        ("rounds.decoding=contrastiv", ["rounds.decoding=contrastiv", "did you mean 'contrastive'"]),
        ("tuning.keep=bets", ["tuning.keep=bets", "did you mean 'best'"]),
        ("experiment=lora_rnk", ["experiment=lora_rnk", "did you mean 'lora_rank'"]),
        ("benchmark=fpd", ["benchmark=fpd", "did you mean 'fpb'"]),
        ("+variant=n25", ["variant=n25", "did you mean 'n250'"]),
        ("domain.seeds=/nowhere.jsonl", ["/nowhere.jsonl", "does not exist"]),
        ("model.path=/nowhere", ["model.path=/nowhere", "safetensors"]),
        ("data_size={", ["can't be read as an override", "key=value"]),
        ("model=falcon-40b", ["falcon-40b needs about", "model.toy=true", "model=gemma-3-270m", "plan.force"]),
    ],
)
def test_a_wrong_argument_is_reported_in_one_sentence(
    warm: Warm, tmp_path: Path, argument: str, parts: list[str]
) -> None:
    sentence = refusal(warm, tmp_path, argument)
    assert all(part in sentence for part in parts) and "fault of selfspec" not in sentence, sentence


def test_an_error_that_no_one_foresaw_says_how_to_report_it() -> None:
    message = error_message(ZeroDivisionError("division by zero"), [])
    assert "fault of selfspec" in message and "open an issue" in message and "HYDRA_FULL_ERROR=1" in message


@pytest.mark.parametrize("command", ["run.py --help", "-m selfspec run --cfg job", "-m selfspec --help"])
def test_a_reader_that_ends_early_ends_the_command_in_silence(command: str) -> None:
    process = subprocess.Popen([sys.executable, *command.split()], cwd=PROJECT, stdout=-1, stderr=-1, text=True)
    assert process.stdout and process.stderr
    process.stdout.close()  # before the first line, as `| true`
    assert process.stderr.read() == "" and process.wait() in (1, 128 + signal.SIGPIPE)  # 1: click's


@pytest.mark.parametrize(
    ("arguments", "counts"),
    [
        (["lora=r8,r16", "-m", "seed=0"], "2 jobs"),
        (["-m", "data_size=range(10,30,10)"], "2 jobs"),
        (["-m", "data_size=choice(12,2k)"], "2 jobs"),
        (["-m", "rounds=choice(1,2)"], "2 jobs"),
        (["data_size=1_000"], "1 job,"),
        (["-m", "+variant=judge,n100"], "2 jobs"),
        (["-m", "variant=judge,n100"], "2 jobs"),
        (["variant=[judge,two_rounds]"], "1 job,"),
    ],
    ids=" ".join,
)
def test_overrides_are_accepted_in_any_place_and_shorthand_in_any_sweep(
    warm: Warm, tmp_path: Path, arguments: list[str], counts: str
) -> None:
    ended = warm("model.toy=true", *arguments, "plan=true", *places(tmp_path), f"hydra.sweep.dir={tmp_path}/sweep")
    assert ended.code == 0 and ended.text.startswith(counts), ended.text


def test_a_folder_of_options_may_have_an_apostrophe_in_its_name(warm: Warm, tmp_path: Path) -> None:
    folder = tmp_path / "law's, and more"
    (folder / "lora").mkdir(parents=True)
    shutil.copy(PROJECT / "conf" / "lora" / "r8.yaml", folder / "lora" / "mine.yaml")
    ended = warm("debug=smoke", "lora=mine", "plan=true", "--config-dir", str(folder), *places(tmp_path))
    assert ended.code == 0, ended.text
    assert compose_experiment(["lora=mine"], folder).lora.r == 8


@pytest.mark.parametrize(
    ("lines", "parts"),
    [
        ([], ["is empty"]),
        (SEEDS[:10], ["10 seeds", "8 are held out", "write at least"]),
        ([*SEEDS[:5], '{"id": "x", ', *SEEDS[5:]], ["line 6", "not valid JSON"]),
        (
            [*SEEDS[:5], '{"id": "x', *SEEDS[5:]],
            ["line 6", "(Unterminated string starting at column 8)"],
        ),
        ([*SEEDS[:2], '{"id": "x", "task_type": "inference"}', *SEEDS[2:]], ["line 3", "'instruction' is missing"]),
        ([*SEEDS, SEEDS[0]], ["line 81", "'id' repeats", "line 1"]),
    ],
)
def test_a_bad_seeds_file_is_named_by_file_line_and_field(
    warm: Warm, tmp_path: Path, lines: list[str], parts: list[str]
) -> None:
    path = tmp_path / "seeds.jsonl"
    path.write_text("\n".join(lines))
    sentence = refusal(warm, tmp_path, f"domain.seeds={path}")
    assert str(path) in sentence and all(part in sentence for part in parts), sentence


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("sharding", ["strategy=fsdp", "hydra.launcher.devices=2"])  # auto, on several devices
def test_dora_is_refused_where_the_base_is_sharded(
    warm: Warm, tmp_path: Path, quantization: str, sharding: str
) -> None:
    sentence = refusal(warm, tmp_path, "lora=dora", sharding, f"quantization={quantization}")
    assert all(part in sentence for part in ("lora=dora", "strategy=fsdp", "strategy=ddp", "lora=r8"))


def test_deepspeed_and_offloading_are_refused_without_gpus(warm: Warm, tmp_path: Path, monkeypatch: Any) -> None:
    sentence = refusal(warm, tmp_path, "strategy=deepspeed_zero3", "quantization=nf4")
    assert all(part in sentence for part in ("quantization=nf4", "strategy=fsdp", "strategy=deepspeed_zero2"))
    monkeypatch.setattr(limits, "gpu_count", lambda: 0)
    monkeypatch.setattr(limits.importlib.util, "find_spec", lambda _: None)
    for name in ("deepspeed_zero2", "deepspeed_zero3", "deepspeed_zero3_offload"):
        with pytest.raises(UserError, match=f"strategy={name} needs GPUs.* choose strategy=fsdp or strategy=ddp"):
            check_strategy_device(StrategyConfig(name))
        with pytest.raises(UserError, match=r"needs DeepSpeed; get it with: pip install -e \"\.\[deepspeed\]\""):
            check_deepspeed_installed(StrategyConfig(name))
    with pytest.raises(UserError, match=r"strategy.cpu_offload=true .* leave it out"):
        check_strategy_device(StrategyConfig("fsdp", cpu_offload=True))
    for name in ("auto", "ddp", "fsdp"):
        check_strategy_device(StrategyConfig(name))
        check_deepspeed_installed(StrategyConfig(name))


def test_an_answer_outside_its_options_is_named(warm: Warm, tmp_path: Path) -> None:
    row = {"id": "q", "task_type": "inference", "instruction": "Do it.", "input": "x", "answers": ["maybe"]}
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps({**row, "options": ["yes", "no"]}))
    sentence = refusal(warm, tmp_path, f"domain.evaluation={path}")
    assert f"{path}, line 1" in sentence and "'maybe'" in sentence and "options" in sentence


def test_missing_weights_offline_name_the_ways_to_get_them(tmp_path: Path) -> None:
    env = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    sentence = refusal(cold, tmp_path, "model=gemma-3-270m", "model.package=null", env=env)
    assert "google/gemma-3-270m" in sentence and "model.path=" in sentence and "HF_HUB_OFFLINE" in sentence


@pytest.mark.parametrize("sweep", [[], ["-m"]], ids=["run", "sweep"])
def test_a_launcher_without_a_slurm_is_refused_before_anything_is_written(
    warm: Warm, tmp_path: Path, sweep: list[str]
) -> None:
    places_ = [*places(tmp_path), f"hydra.sweep.dir={tmp_path}/sweep"]
    env = {"SLURM_CONF": str(tmp_path / "nowhere.conf")}
    ended = warm(*sweep, "debug=smoke", "hydra/launcher=slurm", *places_, env=env)
    assert ended.code == 1 and "Traceback" not in ended.text
    (sentence,) = (line for line in ended.text.splitlines() if line.strip())
    assert sentence.startswith("sinfo") and "set SLURM_CONF, or run this command on a node of the cluster" in sentence
    assert not (tmp_path / "sweep" / "sweep.json").exists() and not (tmp_path / "run" / "config.yaml").exists()


def test_a_store_of_an_older_format_is_refused(warm: Warm, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "format.json").write_text('{"format": 0}')
    sentence = refusal(warm, tmp_path, "debug=smoke")
    assert "format 0" in sentence and "paths.store=" in sentence


def test_a_full_disk_loses_nothing_that_was_finished(warm: Warm, tmp_path: Path, disk: Path) -> None:
    ballast = disk / "ballast"
    ballast.write_bytes(b"\0" * 900_000)
    wanted = ["debug=smoke", "logger=none", "evaluation.limit=1", "baselines.seeds_only=false"]
    wanted += [f"paths.store={disk}/store", f"hydra.run.dir={tmp_path}/run"]
    ended = warm(*wanted)
    assert ended.code == 1 and "Traceback" not in ended.text, ended.text
    assert "No space is left" in ended.text and "continues from what is stored" in ended.text
    kept = {path: path.read_bytes() for path in disk.glob("store/instructions/*/rows.jsonl")}
    assert kept
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
    assert warm(*wanted).code == 0
    assert all(path.read_bytes() == data for path, data in kept.items())


def test_a_store_that_must_not_be_written_is_reported(tmp_path: Path, disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    ended = cold("debug=smoke", f"paths.store={disk}/store", f"hydra.run.dir={tmp_path}/run")
    assert ended.code == 1 and "Traceback" not in ended.text
    assert "no permission to read or write" in ended.text and "paths.store=" in ended.text


def test_a_run_folder_that_must_not_be_written_is_reported(tmp_path: Path, disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    ended = cold("debug=smoke", f"paths.store={tmp_path}/store", f"hydra.run.dir={disk}/run")
    assert ended.code == 1 and "Traceback" not in ended.text
    assert "no permission to read or write" in ended.text


def test_full_error_shows_the_traceback(tmp_path: Path) -> None:
    ended = cold("lora.rr=4", *places(tmp_path), env={"HYDRA_FULL_ERROR": "1"})
    assert ended.code == 1 and "Traceback" in ended.text


def test_a_file_in_place_of_the_store_is_reported(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    ended = cold("debug=smoke", *places(tmp_path))
    assert ended.code == 1 and "Traceback" not in ended.text
    assert f"{tmp_path}/store is a file where a folder is needed; remove it, or" in ended.text
    shutil.rmtree(tmp_path / "run", ignore_errors=True)


def test_names_with_square_brackets_are_shown_as_they_are(warm: Warm, tmp_path: Path) -> None:
    small = ["debug=smoke", "logger=none", "evaluation.limit=1", "evaluation.shots=[0]", "baselines.off_domain=false"]
    small += ["baselines.seeds_only=false", "tuning.epochs=1"]
    names = ['domain.name="[/b]law"', 'model.name="[red]m[/i]"', f'hydra.sweep.dir="{tmp_path}/[b]sweep"']
    ended = warm(*small, *names, f"paths.store={tmp_path}/store", f'hydra.run.dir="{tmp_path}/[/i]run"')
    assert ended.code == 0, ended.text
    assert "[/b]law, [red]m[/i] (toy), 12 examples" in ended.text and f"{tmp_path}/[/i]run/report.html" in ended.text
    ended = warm("-m", *small, *names, "lora.r=4,8", f"paths.store={tmp_path}/store")
    assert ended.code == 0 and f"{tmp_path}/[b]sweep/report.html" in ended.text, ended.text
    planned = warm(*small, *names, "plan=true", f"paths.store={tmp_path}/other", f"hydra.run.dir={tmp_path}/plan")
    assert planned.code == 0 and "[/b]law [red]m[/i]" in planned.text, planned.text
