"""The tables that a terminal shows at a run's end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

# Format gain, knowledge gain, and what neither format nor a bias to one label can feign.
MEASURES_IN_NOTES = {"format": "compliant", "label accuracy": "label_accuracy", "option AUC": "option_auc"}


NAMES = {"base": "base", "seeds_only": "seeds only", "generic": "generic", "specialized": "specialized"}


OFF_DOMAIN_MEASURES = (
    "token_f1",
    "primary_metric",
    "compliant",
    "label_accuracy",
    "option_auc",
)  # of what was forgotten


def format_number(value: float) -> str:
    """`.123`, `-.045`, `1.000`."""
    text = f"{round(value, 3) + 0.0:.3f}"  # + 0.0: never -.000
    return text.replace("0.", ".", 1) if abs(value) < 1 else text


def format_cell(row: Mapping[str, Any], signed: bool = False) -> str:
    """A value with its 95% interval."""
    value = format_number(row["value"])
    if signed and row["value"] > 0:
        value = f"+{value}"
    return f"{value} ({format_number(row['low'])} to {format_number(row['high'])})"


def find_score(rows: list[dict[str, Any]], **place: Any) -> dict[str, Any] | None:
    """The row at a place, or None."""
    return next((row for row in rows if all(row.get(name) == value for name, value in place.items())), None)


def results_table(report: Mapping[str, Any]) -> RenderableType:
    """The main table, what was forgotten, the harness's tasks if there are any, and how all this reads."""
    parts = _measures(report, report["title"], report["measures"])
    if elsewhere := report.get("off_domain"):
        parts += _measures(elsewhere, f"off-domain, {elsewhere['name']}", OFF_DOMAIN_MEASURES)
    if report.get("harness"):
        from selfspec.reporting.harness_table import harness_table  # which draws with this module's parts

        parts.append(harness_table(report["harness"]))
    return Group(*parts, Text("\n".join(report["reading"])))


def _measures(report: Mapping[str, Any], title: str, measures: Iterable[str]) -> list[RenderableType]:
    """A table a number of shots: measures by model, and the last model's difference from each other, with intervals."""
    parts: list[RenderableType] = []
    shown = [measure for measure in measures if find_score(report["scores"], measure=measure, task="all")]
    for shots in sorted({row["shots"] for row in report["scores"]}):
        models = list(dict.fromkeys(row["model"] for row in report["scores"]))
        head = f"{title}: {shots} shots, mean over task types"
        table = Table(title=head, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1))
        table.add_column("measure")
        for model in models:
            table.add_column(NAMES.get(model, model), justify="right")
        for other in models[:-1]:
            table.add_column(f"{NAMES.get(models[-1])} - {NAMES.get(other)}", justify="right")
        for measure in shown:
            cells = [find_score(report["scores"], model=m, shots=shots, measure=measure, task="all") for m in models]
            place = {"model": models[-1], "shots": shots, "measure": measure, "task": "all"}
            gaps = [find_score(report["differences"], minus=other, **place) for other in models[:-1]]
            table.add_row(
                report["measures"][measure],
                *(format_number(c["value"]) if c else "" for c in cells),
                *(Text(format_cell(g, signed=True), style=_style(g)) if g else "" for g in gaps),
            )
        parts.append(table)
    return parts


def _style(gap: Mapping[str, Any]) -> str:
    """Bold where the interval leaves zero out."""
    return "bold" if gap["low"] > 0 or gap["high"] < 0 else "dim"


def reading_notes(report: Mapping[str, Any]) -> list[str]:
    """What the numbers say by themselves: format apart from knowledge, beside what guessing gives."""
    lines = []
    guess = report["lines"].values()
    if guess:
        chance = sum(line["chance"] for line in guess) / len(guess)
        commonest = sum(line["commonest"] for line in guess) / len(guess)
        count = sum(line["count"] for line in guess)
        lines.append(
            f"Closed labels ({count:.0f} questions): guessing gives {format_number(chance)}, always the commonest answer "
            f"{format_number(commonest)}; an AUC of .500 is no knowledge."
        )
    for shots in sorted({row["shots"] for row in report["differences"]}):
        place = {"model": "specialized", "minus": "base", "shots": shots, "task": "all"}
        gaps = {
            name: find_score(report["differences"], measure=measure, **place)
            for name, measure in MEASURES_IN_NOTES.items()
        }
        told = [f"{name} {_told(gap)}" for name, gap in gaps.items() if gap]
        if told:
            lines.append(f"{shots} shots, specialized against base: " + "; ".join(told) + ".")
    return [
        *lines,
        *_rounds(report["rounds"]),
        *_judge(report["funnel"]),
        *_overlap(report["overlap"]),
        *_shots(report["fewer_shots"]),
    ]


def _rounds(rounds: Mapping[str, Any]) -> list[str]:
    losses = [f"{loss:.3f}" for loss in rounds["losses"] if loss is not None]
    if len(losses) < 2:
        return []
    kept = rounds["kept"]
    return [f"Loss on the held-out seeds, round by round: {', '.join(losses)} nats a token; round {kept} is kept."]


def _judge(funnel: Mapping[str, Any]) -> list[str]:
    if not (judge := funnel.get("judge")):
        return []
    told = f"The judge tells right seeds from corrupted ones with an AUC of {format_number(judge['auc'])}"
    return [f"{told}." if judge["filters"] else f"{told}, too low to filter by: it dropped nothing."]


def _overlap(overlap: Mapping[str, Any]) -> list[str]:
    if not overlap["touched"]:
        return []
    told = [
        f"{count} share {words} words in a row, or all they have, with {name}"
        for name, counts in overlap["counts"].items()
        for words, count in counts.items()
        if count
    ]
    where = ": report.html has the scores without them" if "clean" in overlap else ""
    return [f"Of {overlap['questions']} questions, {'; '.join(told)}{where}."]


def _shots(fewer: Mapping[str, int]) -> list[str]:
    counts = ", ".join(f"{count} of {NAMES.get(model, model)}" for model, count in fewer.items())
    return [f"The context was too short for all shots in some answers: {counts}."] if fewer else []


def _told(gap: Mapping[str, Any]) -> str:
    if gap["low"] > 0:
        return f"rose by {format_cell(gap)}"
    if gap["high"] < 0:
        return f"fell by {format_cell({**gap, 'value': -gap['value'], 'low': -gap['high'], 'high': -gap['low']})}"
    return f"shows no clear change, {format_cell(gap, signed=True)}"


def funnel_rows(funnel: Mapping[str, Any]) -> list[list[Any]]:
    """The funnel as rows: filter, reason, how many rows it dropped."""
    return [[name, reason, count] for name, reasons in funnel["dropped"].items() for reason, count in reasons.items()]
