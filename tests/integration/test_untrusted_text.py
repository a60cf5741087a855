"""Text of models and files breaks no terminal, no table of a spreadsheet and no page."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_sweep_report import write_sweep

from command import selfspec
from conftest import PROJECT, Warm, places
from selfspec.errors import printable
from selfspec.reporting.sweep.report import write_sweep_report

CLEAR_SCREEN = "\x1b[2J"
FORMULA = '=HYPERLINK("http://example.org","a")'
DOMAIN = PROJECT / "src/selfspec/domains/biomedicine"


@given(st.text())
def test_printable_text_has_no_control_character_but_line_breaks_and_tabs(text: str) -> None:
    assert all(character.isprintable() or character in "\n\t" for character in printable(text))
    assert printable(text) == text or not all(character.isprintable() or character in "\n\t" for character in text)


def hostile_seeds(folder: Path, **changes: str) -> Path:
    """The seeds of a domain, of which the first has other fields."""
    first, *others = (DOMAIN / "seeds.jsonl").read_text().splitlines()
    path = folder / "seeds.jsonl"
    path.write_text("\n".join([json.dumps({**json.loads(first), **changes}), *others]))
    return path


def test_errors_and_checks_and_previews_move_no_cursor(warm: Warm, tmp_path: Path) -> None:
    seeds = hostile_seeds(tmp_path, task_type=f"{CLEAR_SCREEN}yes")
    ended = warm("debug=smoke", f"domain.seeds={seeds}", *places(tmp_path))
    assert ended.code == 1 and "\\x1b[2Jyes" in ended.text and "\x1b" not in ended.text
    seeds = hostile_seeds(tmp_path, input=f"{CLEAR_SCREEN} A text.")
    for command in ("check", "preview"):
        printed = selfspec("domain", command, "biomedicine", f"domain.seeds={seeds}", "model.toy=true").stdout
        assert "\x1b" not in printed


@pytest.mark.parametrize("text", [FORMULA, "+1+1", "@SUM(A1)", "-2+3"])
def test_a_spreadsheet_computes_no_cell_of_a_sweeps_table(tmp_path: Path, text: str) -> None:
    folder = write_sweep(tmp_path, {"value": -0.3, "domain": text, "overrides": [text]}, {"value": 0.3})
    write_sweep_report(folder)
    rows = list(csv.reader((folder / "report.csv").open()))
    texts = [cell for row in rows for cell in row if text in cell]
    assert texts and all(cell.startswith("'") for cell in texts)
    assert any(float(row[-4]) < 0 for row in rows[1:])  # numbers are numbers
