"""Each job of a sweep has a folder of its own, also in a search, whose jobs start in several batches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from selfspec.errors import UserError
from selfspec.launch.run_folder import check_sweep_folders


def record_jobs(sweep: Path, *folders: Path) -> None:
    sweep.mkdir(exist_ok=True)
    jobs = [{"number": number, "folder": str(folder)} for number, folder in enumerate(folders)]
    (sweep / "sweep.json").write_text(json.dumps({"jobs": jobs, "stages": {}}))


def test_a_later_batch_may_not_use_the_folder_of_an_earlier_job(tmp_path: Path) -> None:
    record_jobs(tmp_path, tmp_path / "first")
    check_sweep_folders(tmp_path, {1: tmp_path / "second"})
    with pytest.raises(UserError, match="gives job 1 the folder of job 0"):
        check_sweep_folders(tmp_path, {1: tmp_path / "first"})


def test_a_sweep_that_is_started_again_uses_its_folders_again(tmp_path: Path) -> None:
    record_jobs(tmp_path, tmp_path / "first")
    (tmp_path / "first" / "csv").mkdir(parents=True)  # of a stage, before the job wrote anything
    check_sweep_folders(tmp_path, {0: tmp_path / "first", 1: tmp_path / "second"})


def test_a_folder_with_files_of_the_user_is_no_folder_of_a_job(tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "notes.txt").touch()
    with pytest.raises(UserError, match=r"no run wrote \(notes.txt\); give a new folder with hydra.sweep.subdir="):
        check_sweep_folders(tmp_path, {0: tmp_path / "job"})
