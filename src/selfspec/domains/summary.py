"""The findings of `check_domain` on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from selfspec.data.text import words
from selfspec.domains.check import Findings
from selfspec.domains.lines import Line, describe_labels, group_by_task
from selfspec.errors import printable


def print_findings(name: str, findings: Findings, console: Console) -> None:
    """Print a table for each file, then problems, then notes."""
    if findings.seeds:
        _print_table(f"{name}, seeds", findings.seeds, findings.held_out, console)
    if findings.questions:
        _print_table(f"{name}, questions", findings.questions, set(), console)
    for problem in findings.problems:
        console.out(printable(problem), style="red", highlight=False)
    for note in findings.notes:
        console.out(printable(f"note: {note}"), highlight=False)
    counts = f"{_count(findings.problems, 'problem')}, {_count(findings.notes, 'note')}"
    console.out(f"{name}: {counts}", highlight=False)


def _print_table(title: str, lines: Sequence[Line], held_out: set[str], console: Console) -> None:
    """A row for each task type (`held out` for seeds only), then how often each label is the answer."""
    console.out(f"{title} (words of input and answer: median, minimum and maximum)", highlight=False)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for name in ("task type", "kind", "rows", *(["held out"] if held_out else []), "input", "answer"):
        table.add_column(name, no_wrap=True)
    groups = group_by_task(lines)
    for task, group in groups.items():
        num_held_out = [str(sum(line.row.id in held_out for line in group))] if held_out else []
        lengths = (_lengths(line.row.input for line in group), _lengths(line.row.answers[0] for line in group))
        table.add_row(*map(Text, (task, group[0].kind, str(len(group)), *num_held_out, *lengths)))
    console.print(table)
    for task, group in groups.items():
        if labels := describe_labels(group):
            console.out(printable(f"  {task}: {labels}"), highlight=False)
    console.print()


def _lengths(texts: Iterable[str]) -> str:
    """`41 (12-80)`: median, minimum and maximum number of words."""
    counts = [len(words(text)) for text in texts]
    return f"{median(counts):.0f} ({min(counts)}-{max(counts)})"


def _count(items: Sequence[str], noun: str) -> str:
    return f"{len(items) or 'no'} {noun}{'' if len(items) == 1 else 's'}"
