"""Folders of runs and sweeps: no file of the user is overwritten, no old results are left beside a new config.

Hydra writes its log and `.hydra/` into the folder before the task starts, so these are no files of a run.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from selfspec.data.jsonl import read_object
from selfspec.errors import UserError
from selfspec.runtime.files import write_atomic

RESULT_FILES = ("results.json", "report.html")
SWEEP_FILES = ("sweep.json", "stages.json", "report.html", "report.md", "report.csv", "sweep.log")
MAX_NAMES = 3  # of files, in a message


def check_run_folder(folder: Path, key: str) -> None:
    """Check that a run may write into a folder: it is new, empty, or has the `stages.json` of an earlier run.

    Args:
        folder: Of the run.
        key: The setting that names the folder.

    Raises:
        UserError: It has other files.
    """
    stages = read_object(folder / "stages.json")
    is_of_run = stages and all(isinstance(path, str) and "/" in path for path in stages.values())
    if folder.is_dir() and not is_of_run:
        _refuse_files([path for path in folder.iterdir() if not _is_left_by_failed_run(path)], folder, "run", key)


def begin_run(folder: Path, files: Mapping[str, str]) -> None:
    """Write the files that describe a run; the results of a run that they differ from are moved to `earlier/` first.

    Args:
        folder: Of the run.
        files: Text by name, `stages.json` among them.
    """
    is_other = any(_bytes_of(folder / name) != text.encode() for name, text in files.items())
    results = folder / "results.json"
    if results.exists() and is_other:
        time = datetime.fromtimestamp(results.stat().st_mtime)
        earlier = folder / "earlier" / f"{time:%Y-%m-%d_%H-%M-%S}"
        earlier.mkdir(parents=True, exist_ok=True)
        for name in filter(lambda name: (folder / name).exists(), files):
            shutil.copyfile(folder / name, earlier / name)  # copied: stages.json marks the folder as one of a run
        for name in filter(lambda name: (folder / name).exists(), RESULT_FILES):
            (folder / name).rename(earlier / name)
    for name, text in files.items():
        write_atomic(folder / name, text.encode())


def check_sweep_folders(sweep: Path, jobs: Mapping[int, Path]) -> None:
    """Check that a sweep overwrites no file of the user, and that each job has a folder of its own.

    Args:
        sweep: Folder of the sweep.
        jobs: Folder by job number; a search may have started jobs with smaller numbers.

    Raises:
        UserError: A folder has other files, or two jobs have the same.
    """
    record = read_object(sweep / "sweep.json")
    if "jobs" not in record:
        files = [sweep / name for name in SWEEP_FILES if (sweep / name).exists()]
        _refuse_files(files, sweep, "sweep", "hydra.sweep.dir")
    recorded = {Path(job["folder"]): int(job["number"]) for job in record.get("jobs", [])}
    owners = {sweep: "the sweep"}
    owners |= {folder: f"job {number}" for folder, number in recorded.items() if number < min(jobs)}
    for number, folder in jobs.items():
        if folder in owners:
            raise UserError(
                f"hydra.sweep.subdir gives job {number} the folder of {owners[folder]}, {folder}; "
                "write ${hydra:job.num} in it."
            )
        owners[folder] = f"job {number}"
        if folder not in recorded:  # loggers may have written there before a sweep was stopped
            check_run_folder(folder, "hydra.sweep.subdir")


def _refuse_files(files: list[Path], folder: Path, owner: str, key: str) -> None:
    names = sorted(path.name for path in files)
    if names:
        some = ", ".join([*names[:MAX_NAMES], *(["..."] if len(names) > MAX_NAMES else [])])
        raise UserError(f"{folder} has files that no {owner} wrote ({some}); give a new folder with {key}=....")


def _is_left_by_failed_run(path: Path) -> bool:
    """Whether a file is hidden, a log, Hydra's, or the error of a run that failed before it wrote `stages.json`."""
    is_error = path.name == "error.json" and read_object(path).keys() == {"stage", "what"}
    is_of_hydra = (path / "hydra.yaml").exists()  # the folder that hydra.output_subdir names
    return path.name.startswith(".") or path.suffix == ".log" or is_of_hydra or is_error


def _bytes_of(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None
