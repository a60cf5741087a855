"""A stage that is requeued twice without new work fails; saved work is recognised from the store's work folders."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from selfspec.errors import UserError
from selfspec.launch.worker import requeue
from selfspec.runtime.batches import load_or_compute_rows
from selfspec.runtime.files import write_atomic
from selfspec.runtime.store import Store


@pytest.fixture
def requeued(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The scontrol commands that were run, in place of SLURM."""
    commands: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    return commands


def start(monkeypatch: pytest.MonkeyPatch, num_restarts: int) -> None:
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(num_restarts))


def test_two_starts_in_a_row_without_work_are_a_failure(
    requeued: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(monkeypatch, 0)
    requeue(tmp_path / "idle", has_new_work=False)
    assert requeued == [["scontrol", "requeue", "7"]]
    start(monkeypatch, 1)
    with pytest.raises(UserError, match="stopped twice before one batch of work was done"):
        requeue(tmp_path / "idle", has_new_work=False)
    assert len(requeued) == 1


def test_work_between_two_idle_starts_allows_another_requeue(
    requeued: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for num_restarts, has_new_work in enumerate((False, True, False)):
        start(monkeypatch, num_restarts)
        requeue(tmp_path / "idle", has_new_work)
    assert len(requeued) == 3


def test_a_store_has_no_new_work_until_something_is_saved(tmp_path: Path) -> None:
    earlier = Store(tmp_path)
    with earlier.claim("key") as work:
        load_or_compute_rows(work / "batch-0000.jsonl", lambda: [{"row": 0}])
    assert earlier.has_new_work()
    store = Store(tmp_path)
    with store.claim("key") as work:
        load_or_compute_rows(work / "batch-0000.jsonl", lambda: [{"row": "computed again"}])  # it is only read
        assert not store.has_new_work()
        load_or_compute_rows(work / "batch-0001.jsonl", lambda: [{"row": 1}])
    assert store.has_new_work()


def test_an_overwritten_checkpoint_is_new_work(tmp_path: Path) -> None:
    with Store(tmp_path).claim("key") as work:
        write_atomic(work / "checkpoint.pt", b"step 1")
    store = Store(tmp_path)
    with store.claim("key") as work:
        write_atomic(work / "checkpoint.pt", b"step 2")
    assert store.has_new_work()


def test_a_published_output_is_new_work(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.make("stage", "key", {}, lambda work, output: (output / "rows.jsonl").touch())
    assert store.has_new_work()
    assert not Store(tmp_path).has_new_work()


def test_the_record_of_a_start_without_work_is_removed_with_the_work(
    requeued: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(monkeypatch, 0)
    store = Store(tmp_path)
    requeue(store.work_folder("key") / "requeued", has_new_work=False)
    store.make("scores", "key", {}, lambda work, output: None)
    assert not list((tmp_path / "work").iterdir())
