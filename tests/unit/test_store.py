"""The store: damaged outputs, processes that lost their lease, and what `gc` removes."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from selfspec.planning.throughput import FinishedRuns
from selfspec.runtime import store as store_module
from selfspec.runtime.batches import make_output
from selfspec.runtime.distributed import ProcessGroup
from selfspec.runtime.signals import StopFlag
from selfspec.runtime.store import Store, find_damage
from selfspec.runtime.store_maintenance import collect_garbage, list_outputs, read_manifest


def write_answer(work: Path, output: Path) -> None:
    (output / "answer").write_text("42")


def test_an_output_that_another_process_set_aside_first_counts_as_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Store(tmp_path).make("scores", "key", {}, write_answer)
    (folder / "answer").write_text("43")
    second = Store(tmp_path)

    def find_damage_slowly(folder: Path) -> str:
        damage = find_damage(folder)
        monkeypatch.setattr(store_module, "find_damage", find_damage)
        assert Store(tmp_path).find("scores", "key") is None  # the other process is faster
        return damage

    monkeypatch.setattr(store_module, "find_damage", find_damage_slowly)
    assert second.find("scores", "key") is None
    assert len(list((tmp_path / "aside").iterdir())) == 1


def publish_in_its_place(root: Path) -> None:
    """What a process does that lost its lease and came back: it publishes the output and removes all work on it."""
    with Store(root).publish("scores", "key", {}) as output:
        write_answer(Path(), output)


def test_a_process_whose_output_another_one_published_takes_that_one(tmp_path: Path) -> None:
    def write_in_removed_folder(work: Path, output: Path) -> None:
        publish_in_its_place(tmp_path)
        (work / "batch").write_text("too late")

    folder = make_output(Store(tmp_path), StopFlag(), "scores", "key", {}, write_in_removed_folder)
    assert (folder / "answer").read_text() == "42" and not find_damage(folder)


def test_a_missing_file_of_a_stage_is_an_error_as_long_as_nothing_is_published(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        make_output(Store(tmp_path), StopFlag(), "scores", "key", {}, lambda work, _: (work / "no").unlink())


def test_one_of_several_processes_does_not_leave_the_others_in_a_collective_operation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_in_removed_folder(work: Path, output: Path) -> None:
        publish_in_its_place(tmp_path)
        (work / "batch").write_text("too late")

    monkeypatch.setattr(ProcessGroup, "all_reduce_max", lambda group, number: number)
    stop = StopFlag()
    stop.process_group = ProcessGroup(0, 2, 2)
    with pytest.raises(FileNotFoundError):
        make_output(Store(tmp_path), stop, "scores", "key", {}, write_in_removed_folder)


def fail(work: Path, output: Path) -> None:
    (work / "batch").write_text("work")
    (output / "answer").write_text("42")
    raise RuntimeError("failed")


def test_gc_removes_drafts_of_failed_stages_and_scratch_of_finished_ones(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(RuntimeError):
        store.make("scores", "failed", {}, fail)
    store.make("scores", "finished", {}, write_answer)
    (tmp_path / "work" / "finished").mkdir()
    removed = collect_garbage(tmp_path)
    assert {path.name for path in removed} == {"failed.draft", "finished"}
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["failed"]  # the next run resumes from it


def test_gc_keeps_what_a_running_process_writes(tmp_path: Path) -> None:
    def write_during_gc(work: Path, output: Path) -> None:
        assert collect_garbage(tmp_path) == []
        write_answer(work, output)

    assert not find_damage(Store(tmp_path).make("scores", "key", {}, write_during_gc))


def test_gc_removes_drafts_of_killed_processes(tmp_path: Path) -> None:
    if os.fork() == 0:
        Store(tmp_path).make("scores", "key", {}, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    os.wait()
    assert [path.name for path in collect_garbage(tmp_path)] == ["key.draft"]


@pytest.mark.parametrize("content", ["", "{", "3", "[]", '{"files": 3}', '{"files": {"answer": 3}, "counts": null}'])
def test_an_unreadable_manifest_is_damage(tmp_path: Path, content: str) -> None:
    store = Store(tmp_path)
    folder = store.make("scores", "key", {"counts": {}}, write_answer)
    (folder / "manifest.json").write_text(content)
    assert find_damage(folder)
    assert isinstance(read_manifest(folder), dict) and list_outputs(tmp_path) == [folder]
    assert FinishedRuns(tmp_path).seconds == {}
    assert Store(tmp_path).find("scores", "key") is None


def test_the_time_of_blocks_with_unreadable_manifests_is_unknown(tmp_path: Path) -> None:
    reader = FinishedRuns(tmp_path)
    for number, content in enumerate(("3", "[]", '{"seconds": 2}')):
        folder = tmp_path / "responses" / f"key-{number}"
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(content)
    manifests: list[dict[str, Any]] = list(reader._read_manifests(tmp_path / "responses", "key-*"))
    assert sorted(map(len, manifests)) == [0, 0, 1]
