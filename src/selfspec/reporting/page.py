"""The page of a run, `report.html`: one file that opens from disk and needs no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from selfspec.data.records import Example
from selfspec.data.splits import round_robin
from selfspec.reporting.cells import (
    MODEL_NAMES,
    OFF_DOMAIN_MEASURES,
    excludes_zero,
    find_score,
    format_cell,
    format_number,
    funnel_rows,
)
from selfspec.reporting.coverage import count_coverage
from selfspec.reporting.harness_table import harness_html
from selfspec.reporting.loss_plot import plot_loss

MAX_SAMPLE_ROWS = 10  # of accepted examples, and of dropped ones


BASELINES = ("base", "seeds_only", "generic")  # models that the specialized model is compared with


def render_page(
    report: Mapping[str, Any],
    rows: Sequence[Example],
    curves: Mapping[str, Sequence[Mapping[str, Any]]],
) -> str:
    """Render the page of one run.

    Args:
        report: What `results.json` holds.
        rows: Generated rows with their verdicts.
        curves: For each adapter, one entry a step.
    """
    accepted = [row for row in rows if not any(row.verdicts.values())]
    accepted_sample = round_robin(accepted, MAX_SAMPLE_ROWS)
    dropped_sample = _sample_dropped([row for row in rows if any(row.verdicts.values())])
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            models=list(dict.fromkeys(row["model"] for row in report["scores"])),
            baselines=BASELINES,
            model_names=MODEL_NAMES,
            measures=report["measures"],
            off_domain_measures=OFF_DOMAIN_MEASURES,
            shot_counts=sorted({row["shots"] for row in report["scores"]}),
            has_draws=any(len(row.get("draws", ())) > 1 for row in report["scores"]),
            harness=harness_html(report["harness"]) if report.get("harness") else "",
            curves=[plot_loss(MODEL_NAMES.get(name, name), curve) for name, curve in curves.items() if curve],
            funnel=funnel_rows(report["funnel"]),
            coverage=count_coverage(accepted),
            samples={
                f"{len(accepted_sample)} accepted examples": accepted_sample,
                f"{len(dropped_sample)} dropped rows": dropped_sample,
            },
        )
    )


def _environment() -> Environment:
    """Jinja with the functions that the template calls."""
    environment = Environment(
        loader=PackageLoader("selfspec", "reporting"),
        autoescape=select_autoescape(default=True),
        trim_blocks=True,
    )
    environment.globals.update(
        find_score=find_score,
        excludes_zero=excludes_zero,
        format_number=format_number,
        format_score=_format_score,
        format_verdict=_format_verdict,
    )
    return environment


def _sample_dropped(dropped: Sequence[Example]) -> list[Example]:
    """A few dropped rows, one of each filter in turn."""
    by_filter: dict[str, list[Example]] = {}
    for row in dropped:
        by_filter.setdefault(next(name for name, reason in row.verdicts.items() if reason), []).append(row)
    interleaved = [row for turn in zip_longest(*by_filter.values()) for row in turn if row is not None]
    return interleaved[:MAX_SAMPLE_ROWS]


def _format_score(row: Mapping[str, Any], signed: bool = False) -> Markup:
    """A value with its interval, and the value of each draw of the few-shot examples if there are several."""
    value, _, interval = format_cell(row, signed).partition(" ")
    if len(row.get("draws", ())) > 1:
        interval += f"; draws {' '.join(map(format_number, row['draws']))}"
    return Markup("{} <small>{}</small>").format(value, interval)


def _format_verdict(row: Example) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in row.verdicts.items() if reason) or "accepted"
