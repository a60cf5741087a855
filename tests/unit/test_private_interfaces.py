"""Private interfaces of other libraries that we use: a test fails when a new version changes one."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import submitit
from submitit.slurm import slurm

from selfspec.launch.submitit_adapter import sbatch_text, submit_array

ARRAY = {"job_name": "selfspec-test", "nodes": 1, "setup": ["module load cuda"]}


def test_submitit_has_the_version_that_its_adapter_names() -> None:
    major, minor = map(int, submitit.__version__.split(".")[:2])
    assert (1, 5) <= (major, minor) < (2, 0)


def test_submitit_has_the_private_interface_that_its_adapter_uses() -> None:
    executor = submitit.SlurmExecutor
    assert list(inspect.signature(executor._submit_command).parameters) == ["self", "command"]
    assert list(inspect.signature(executor._make_submission_file_text).parameters) == ["self", "command", "uid"]
    assert isinstance(inspect.getattr_static(executor, "affinity"), classmethod)
    parameters = inspect.signature(slurm._make_sbatch_string).parameters
    assert {"command", "folder", "map_count", *ARRAY} <= set(parameters)


def test_the_sbatch_text_has_the_array_and_the_command(tmp_path: Path) -> None:
    text = sbatch_text(tmp_path, "python -m worker", 3, ARRAY)
    lines = text.splitlines()
    assert "#SBATCH --array=0-2%3" in lines and "#SBATCH --job-name=selfspec-test" in lines
    assert "module load cuda" in lines and text.rstrip().endswith("python -m worker")


def test_an_array_is_submitted_with_sbatch_and_its_number_returned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text('#!/bin/sh\ncp "$1" "$(dirname "$0")/submitted.sh"\necho Submitted batch job 4321\n')
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", str(sbatch.parent), prepend=":")
    assert submit_array(tmp_path, "python -m worker", 3, ARRAY) == "4321"
    assert (sbatch.parent / "submitted.sh").read_text() == sbatch_text(tmp_path, "python -m worker", 3, ARRAY)
