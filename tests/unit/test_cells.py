"""Numbers and score grids are the same in every table."""

from __future__ import annotations

import pytest

from selfspec.reporting.cells import OFF_DOMAIN_MEASURES, format_cell, format_number, score_grids
from selfspec.reporting.notes import COMPARED_MEASURES
from selfspec.reporting.results import MEASURES


@pytest.mark.parametrize(
    ("value", "plain", "signed"),
    [
        (0.1234, ".123", "+.123"),
        (-0.045, "-.045", "-.045"),
        (1.0, "1.000", "+1.000"),
        (0.9996, "1.000", "+1.000"),
        (-0.9996, "-1.000", "-1.000"),
        (0.0003, ".000", ".000"),  # a plus sign would claim a gain
        (-0.0003, ".000", ".000"),
        (0.0, ".000", ".000"),
        (None, "", ""),
    ],
)
def test_a_number_has_three_decimals_and_a_sign_where_it_is_not_zero(
    value: float | None, plain: str, signed: str
) -> None:
    assert (format_number(value), format_number(value, signed=True)) == (plain, signed)


def test_a_cell_has_brackets_if_there_is_an_interval() -> None:
    assert format_cell({"value": 0.0003, "low": -0.1, "high": 0.2}, signed=True) == ".000 (-.100 to .200)"
    assert format_cell({"value": 0.25, "low": None, "high": None}, signed=True) == "+.250"


def test_measures_have_one_name_in_all_lists() -> None:
    assert {*OFF_DOMAIN_MEASURES, *COMPARED_MEASURES} <= set(MEASURES)
    assert MEASURES["format"] == "format"


def test_a_grid_has_each_model_and_the_differences_of_the_last() -> None:
    columns = {"shots": 5, "measure": "token_f1", "task": "all"}
    scores = [{"model": model, **columns, "value": 0.5} for model in ("base", "specialized")]
    difference = {"model": "specialized", "minus": "base", **columns, "value": 0.0}
    report = {"scores": scores, "differences": [difference], "measures": MEASURES}
    (grid,) = score_grids(report, MEASURES)
    assert grid.heads == ["measure", "base", "specialized", "specialized - base"]
    assert (grid.shots, grid.rows) == (5, [("token F1", scores, [difference])])
