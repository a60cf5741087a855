"""Submission of job arrays with submitit (>=1.5,<2): the only module that uses submitit's private interfaces.

submitit's public interface submits pickled functions. Our tasks are commands that read a spec file, which only private
interfaces submit: `SlurmExecutor._submit_command`, `SlurmExecutor._make_submission_file_text` and the parameter
`map_count`. tests/unit/test_private_interfaces.py fails when one of them changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from submitit import SlurmExecutor


class _ArrayExecutor(SlurmExecutor):  # type: ignore[misc]
    """submitit's executor, which can also be created on machines without SLURM: a plan prints the sbatch text."""

    @classmethod
    def affinity(cls) -> int:
        """Return a positive number: SLURM is available."""
        return 2


def sbatch_text(folder: Path, command: str, array_size: int, parameters: Mapping[str, Any]) -> str:
    """Return the text of the sbatch file that `submit_array` submits."""
    return str(_array_executor(folder, array_size, parameters)._make_submission_file_text(command, ""))


def submit_array(folder: Path, command: str, array_size: int, parameters: Mapping[str, Any]) -> str:
    """Submit a job array with sbatch and return the job's number.

    Args:
        folder: An existing folder, for the sbatch file and the logs.
        command: Run by each task of the array.
        array_size: Number of tasks.
        parameters: Keywords of submitit's `SlurmExecutor.update_parameters`.
    """
    return str(_array_executor(folder, array_size, parameters)._submit_command(command).job_id)


def _array_executor(folder: Path, array_size: int, parameters: Mapping[str, Any]) -> _ArrayExecutor:
    executor = _ArrayExecutor(folder)
    executor.update_parameters(**parameters)
    executor.parameters["map_count"] = array_size
    return executor
