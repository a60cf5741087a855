"""Files of a stage in a process of its own: what a full disk left half-written stops no other stage."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfspec.errors import UserError
from selfspec.launch.stage_files import record_error, recorded_error


def test_a_recorded_error_is_read_back(tmp_path: Path) -> None:
    assert recorded_error(tmp_path) == ""
    record_error(tmp_path, UserError("The disk is full."))
    record_error(tmp_path, UserError("A later error of another process."))
    assert recorded_error(tmp_path) == "The disk is full."


@pytest.mark.parametrize("content", ["", '{"what": "The di', "3", "[]", "{}"])
def test_an_error_file_without_an_error_counts_as_missing(tmp_path: Path, content: str) -> None:
    (tmp_path / "error.json").write_text(content)
    assert recorded_error(tmp_path) == ""
