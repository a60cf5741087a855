"""Folders that appear complete or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from selfspec.runtime import code_snapshot
from selfspec.runtime.files import atomic_folder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_folder_appears_when_its_content_is_complete(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "new" / "final") as draft:
        (draft / "file").write_text("content")
        assert not (tmp_path / "new" / "final").exists()
    assert names(tmp_path / "new") == {"final"} and (tmp_path / "new" / "final" / "file").read_text() == "content"


def test_an_error_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "final") as draft:
        (draft / "file").write_text("content")
        raise KeyboardInterrupt
    assert not names(tmp_path)


def test_the_folder_of_the_process_that_was_first_stays(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "final") as second:
        with atomic_folder(tmp_path / "final") as first:
            (first / "file").write_text("first")
        (second / "file").write_text("second")
    assert names(tmp_path) == {"final"} and (tmp_path / "final" / "file").read_text() == "first"


def test_a_folder_that_cannot_be_put_in_its_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "final").write_text("a file")
    with pytest.raises(OSError) as caught, atomic_folder(tmp_path / "final"):
        pass
    assert caught.value.errno == errno.ENOTDIR and names(tmp_path) == {"final"}


def test_two_sweeps_may_copy_the_package_into_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = []

    def copy_at_the_same_time() -> str:
        monkeypatch.setattr(code_snapshot, "git_commit", str)
        copies.append(code_snapshot.copy_package(tmp_path))
        return ""

    monkeypatch.setattr(code_snapshot, "git_commit", copy_at_the_same_time)
    copies.append(code_snapshot.copy_package(tmp_path))
    assert copies[0] == copies[1] and names(tmp_path) == {copies[0].name}
    assert names(copies[0]) == {"selfspec", "commit.txt", "diff.patch"}
