"""The folder of a run: no file of the user is overwritten, no old result is left beside a new config."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from conftest import Warm, places

QUICK = ["debug=smoke", "logger=none", "evaluation.limit=1", "baselines.off_domain=false", "baselines.seeds_only=false"]
OWN_FILES = ("config.yaml", "results.json", "report.html", "error.json", "stages.json")


@pytest.mark.parametrize(
    ("names", "override"),
    [
        (OWN_FILES, "seed=0"),
        (OWN_FILES, "plan=true"),
        (("notes.txt",), "seed=0"),
        (("error.json",), "domain.seeds=missing.jsonl"),
    ],
)
def test_a_run_in_a_folder_with_files_of_the_user_changes_none(
    warm: Warm, tmp_path: Path, names: tuple[str, ...], override: str
) -> None:
    for name in names:
        (tmp_path / name).write_text('{"written by": "the user"}')
    ended = warm(*QUICK, override, f"paths.store={tmp_path}/.store", "hydra.run.dir=.", cwd=tmp_path)
    assert ended.code == 1 and "Traceback" not in ended.text
    shown = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
    message = f"{tmp_path} has files that no run wrote ({shown}); give a new folder with hydra.run.dir=...."
    assert ended.text == message + "\n"
    assert {path.name for path in tmp_path.iterdir() if path.suffix != ".log"} <= {*names, ".hydra"}
    assert {(tmp_path / name).read_text() for name in names} == {'{"written by": "the user"}'}


def copy_run(smoke: Path, folder: Path) -> Path:
    shutil.copytree(smoke / "store", folder / "store")
    shutil.copytree(smoke / "run", folder / "run")
    return folder / "run"


def test_a_run_in_its_own_folder_sets_results_of_another_config_aside(warm: Warm, smoke: Path, tmp_path: Path) -> None:
    run = copy_run(smoke, tmp_path)
    before = {name: (run / name).read_bytes() for name in ("config.yaml", "stages.json", "results.json", "report.html")}
    (run / "error.json").write_text(json.dumps({"stage": None, "what": "An earlier error."}))
    ended = warm("debug=smoke", "data_size.examples=70", "generation.max_attempts=64", *places(tmp_path))
    assert ended.code == 1 and "Only 64 of 70 examples passed" in ended.text
    assert not (run / "results.json").exists() and not (run / "report.html").exists()
    assert "examples: 70" in (run / "config.yaml").read_text()
    (earlier,) = (run / "earlier").iterdir()
    assert {path.name: path.read_bytes() for path in earlier.iterdir()} == before


def test_a_run_that_failed_before_any_stage_may_be_started_again(warm: Warm, tmp_path: Path) -> None:
    arguments = [*QUICK, *places(tmp_path), "plan=true", "hydra.output_subdir=composed"]
    assert warm(*arguments, "domain.seeds=missing.jsonl").code == 1
    assert (tmp_path / "run" / "error.json").exists()
    ended = warm(*arguments)
    assert ended.code == 0 and not (tmp_path / "run" / "error.json").exists(), ended.text


def test_the_same_command_keeps_the_results_in_its_folder(warm: Warm, smoke: Path, tmp_path: Path) -> None:
    shutil.copytree(smoke, tmp_path, dirs_exist_ok=True)
    first, second = (warm("debug=smoke", "logger=none", *places(tmp_path)) for _ in range(2))
    assert (first.code, second.code) == (0, 0), first.text
    assert len(list((tmp_path / "run").glob("earlier/*"))) == 1  # of the run with another logger


@pytest.mark.parametrize(("subdir", "owners"), [("job", "1 the folder of job 0"), (".", "0 the folder of the sweep")])
def test_a_sweep_whose_jobs_share_a_folder_is_refused(warm: Warm, tmp_path: Path, subdir: str, owners: str) -> None:
    arguments = ["-m", *QUICK, "lora=r8,r16", f"hydra.sweep.subdir={subdir}"]
    ended = warm(*arguments, f"paths.store={tmp_path}/store", f"hydra.sweep.dir={tmp_path}/sweep")
    assert ended.code == 1 and "Traceback" not in ended.text
    assert ended.text.startswith(f"hydra.sweep.subdir gives job {owners}, {tmp_path}/sweep"), ended.text
    assert ended.text.endswith("; write ${hydra:job.num} in it.\n")
    assert not list((tmp_path / "store").glob("*/*/manifest.json"))


def test_a_sweep_in_a_folder_with_files_of_the_user_changes_none(warm: Warm, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("of the user")
    ended = warm("-m", *QUICK, "lora=r8,r16", f"paths.store={tmp_path}/store", "hydra.sweep.dir=.", cwd=tmp_path)
    assert ended.code == 1 and "has files that no sweep wrote (report.html)" in ended.text
    assert (tmp_path / "report.html").read_text() == "of the user"
