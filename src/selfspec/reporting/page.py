"""`report.html`: one file that opens from disk, with no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from selfspec.config import DomainConfig
from selfspec.records import Example
from selfspec.reporting.results import MEASURES
from selfspec.reporting.tables import NAMES, find, number
from selfspec.reporting.tracking import funnel_rows
from selfspec.scoring.tasks import PROPER

SHOWN = 10  # rows of each sample


def render(
    report: Mapping[str, Any],
    rows: Sequence[Example],
    curves: Mapping[str, Sequence[Mapping[str, Any]]],
    domain: DomainConfig,
) -> str:
    """The page of one run.

    Args:
        report: What `results.json` holds.
        rows: Generated rows with their verdicts.
        curves: One entry a step, for each adapter.
        domain: For each task's proper metric.
    """
    environment = Environment(
        loader=PackageLoader("selfspec", "reporting"),
        autoescape=select_autoescape(default=True),
        trim_blocks=True,
    )
    scored = dict.fromkeys(row["task"] for row in report["scores"] if row["task"] != "all")
    models = list(dict.fromkeys(row["model"] for row in report["scores"]))
    kept = [row for row in rows if not any(row.verdicts.values())][:SHOWN]
    dropped = [row for row in rows if any(row.verdicts.values())][:SHOWN]
    return environment.get_template("report.html.j2").render(
        report=report,
        models=models,
        names=NAMES,
        measures=MEASURES,
        shot_counts=sorted({row["shots"] for row in report["scores"]}),
        tasks={task: PROPER[domain.tasks[task].kind] for task in scored},
        funnel=funnel_rows(report["funnel"]),
        samples={f"{len(kept)} kept rows": kept, f"{len(dropped)} dropped rows": dropped},
        curves=[_drawn(NAMES.get(name, name), points) for name, points in curves.items() if points],
        find=find,
        number=number,
        value=_value,
        verdict=_verdict,
    )


def write(path: Path, page: str) -> None:
    """Keep the page."""
    path.write_text(page, encoding="utf-8")


def _value(row: Mapping[str, Any]) -> Markup:
    spread = f"({number(row['low'])} to {number(row['high'])})"
    return Markup("{} <small>{}</small>").format(number(row["value"]), spread)


def _verdict(row: Example) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in row.verdicts.items() if reason) or "kept"


def _drawn(name: str, points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A curve as coordinates in a box of 410 x 180 at (40, 25)."""
    losses = [point["loss"] for point in points]
    held_out = {i: point["held_out_loss"] for i, point in enumerate(points) if "held_out_loss" in point}
    if "held_out_loss_before" in points[0]:
        held_out = {-1: points[0]["held_out_loss_before"], **held_out}  # of the base
    top, bottom = max([*losses, *held_out.values()]), min([*losses, *held_out.values(), 0.0])
    scale = (top - bottom) or 1.0

    def place(index: int, value: float) -> tuple[float, float]:
        return round(40 + 410 * (index + 1) / len(points), 1), round(205 - 180 * (value - bottom) / scale, 1)

    return {
        "name": name,
        "line": " ".join(f"{x},{y}" for x, y in (place(i, loss) for i, loss in enumerate(losses))),
        "dots": [(*place(i, value), f"{value:.2f}") for i, value in held_out.items()],
        "top": f"{top:.1f}",
        "bottom": f"{bottom:.1f}",
        "steps": len(points),
    }
