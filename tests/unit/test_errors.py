"""Errors of the disk are one sentence that names the problem, the path and what to do."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from selfspec.errors import UserError, explain_disk_errors


def explain(error: Exception, root: Path = Path("/store")) -> str:
    with pytest.raises(UserError) as caught, explain_disk_errors(root, "give another folder"):
        raise error
    return str(caught.value)


def test_a_full_disk_asks_for_free_space() -> None:
    expected = "No space is left on the disk of {}; free some, or give another folder."
    assert explain(OSError(errno.ENOSPC, "", "/data/file")) == expected.format("/data/file")
    assert explain(OSError(errno.EDQUOT, "")) == expected.format("/store")
    assert explain(RuntimeError("I/O error: No space left on device (os error 28)")) == expected.format("/store")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_missing_permission_may_be_one_to_read(number: int) -> None:
    expected = "There is no permission to read or write /data/file; change it, or give another folder."
    assert explain(OSError(number, "", "/data/file")) == expected


@pytest.mark.parametrize("below", ["", "work", "work/key"])
def test_a_file_in_place_of_a_folder_is_named(tmp_path: Path, below: str) -> None:
    (tmp_path / "store").write_text("a file")
    with pytest.raises(OSError) as caught:
        (tmp_path / "store" / below).mkdir()
    sentence = f"{tmp_path}/store is a file where a folder is needed; remove it, or give another folder."
    assert explain(caught.value) == sentence


def test_a_file_in_place_of_the_target_of_a_rename_is_named(tmp_path: Path) -> None:
    (tmp_path / "draft").mkdir()
    (tmp_path / "final").write_text("a file")
    with pytest.raises(OSError) as caught:
        (tmp_path / "draft").rename(tmp_path / "final")
    assert explain(caught.value).startswith(f"{tmp_path}/final is a file where a folder is needed")


def test_other_errors_are_not_explained(tmp_path: Path) -> None:
    for error in (FileExistsError(errno.EEXIST, "", str(tmp_path)), FileNotFoundError(errno.ENOENT, "")):
        with pytest.raises(type(error)), explain_disk_errors(tmp_path):
            raise error
