"""`report.html`: one file that opens from disk, with no network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from statistics import median
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from selfspec.data.records import Example
from selfspec.data.splits import round_robin
from selfspec.data.text import words
from selfspec.reporting.harness_table import harness_html
from selfspec.reporting.tables import NAMES, OFF_DOMAIN_MEASURES, find_score, format_number, funnel_rows

SHOWN = 10  # rows of each sample


OTHERS = ("base", "seeds_only", "generic")  # models that the specialized one is held against


def render_page(
    report: Mapping[str, Any],
    rows: Sequence[Example],
    curves: Mapping[str, Sequence[Mapping[str, Any]]],
) -> str:
    """The page of one run.

    Args:
        report: What `results.json` holds.
        rows: Generated rows with their verdicts.
        curves: One entry a step, for each adapter.
    """
    environment = Environment(
        loader=PackageLoader("selfspec", "reporting"),
        autoescape=select_autoescape(default=True),
        trim_blocks=True,
    )
    models = list(dict.fromkeys(row["model"] for row in report["scores"]))
    good = [row for row in rows if not any(row.verdicts.values())]
    kept = round_robin(good, SHOWN)
    dropped = _spread([row for row in rows if any(row.verdicts.values())])
    return environment.get_template("report.html.j2").render(
        report=report,
        models=models,
        names=NAMES,
        measures=report["measures"],
        shot_counts=sorted({row["shots"] for row in report["scores"]}),
        tasks=report["metrics"],
        funnel=funnel_rows(report["funnel"]),
        samples={f"{len(kept)} kept rows": kept, f"{len(dropped)} dropped rows": dropped},
        coverage=coverage(good),
        others=OTHERS,
        elsewhere=OFF_DOMAIN_MEASURES,
        harness=harness_html(report["harness"]) if report.get("harness") else "",
        curves=[_drawn(NAMES.get(name, name), points) for name, points in curves.items() if points],
        find=find_score,
        number=format_number,
        value=_value,
        verdict=_verdict,
    )


def coverage(rows: Sequence[Example]) -> dict[str, Any]:
    """What the kept rows are about: task types by topics, labels and lengths of each task type.

    Lengths are words of input and of output: the median, the fewest and the most.
    """
    topics = list(dict.fromkeys(sorted(row.topic for row in rows)))
    lines = []
    for task in sorted({row.task_type for row in rows}):
        mine = [row for row in rows if row.task_type == task]
        labels = Counter(row.output for row in mine if row.options).most_common()
        lines.append(
            {
                "task": task,
                "rows": len(mine),
                "topics": [sum(row.topic == topic for row in mine) for topic in topics],
                "labels": ", ".join(f"{label} {count}" for label, count in labels),
                "lengths": [_lengths([row.input for row in mine]), _lengths([row.output for row in mine])],
            }
        )
    return {"topics": topics, "lines": lines}


def _lengths(texts: Sequence[str]) -> str:
    counts = [len(words(text)) for text in texts]
    return f"{median(counts):.0f} ({min(counts)} to {max(counts)})"


def _spread(dropped: Sequence[Example]) -> list[Example]:
    """Some dropped rows of every filter, in turn."""
    reasons: dict[str, list[Example]] = {}
    for row in dropped:
        reasons.setdefault(next(name for name, reason in row.verdicts.items() if reason), []).append(row)
    return [row for turn in zip_longest(*reasons.values()) for row in turn if row is not None][:SHOWN]


def _value(row: Mapping[str, Any]) -> Markup:
    spread = f"({format_number(row['low'])} to {format_number(row['high'])})"
    if len(row.get("draws", ())) > 1:
        spread += f" draws {' '.join(map(format_number, row['draws']))}"
    return Markup("{} <small>{}</small>").format(format_number(row["value"]), spread)


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
