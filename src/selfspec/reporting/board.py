"""The live table of a sweep: its running, failed and waiting stages; and a plain line for each change in logs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from selfspec.loggers.logged_run import overrides_of_stage
from selfspec.pipeline.graph import Graph, Node

STATE_COLORS = {"done": "green", "stored": "green", "failed": "red", "cancelled": "yellow", "running": "cyan"}
STATE_MARKS = {"done": "[green]✓[/]", "stored": "[green]✓[/]", "failed": "[red]✗[/]", "cancelled": "[yellow]-[/]"}
SHOWN_STATES = ("running", "failed", "queued", "waiting", "cancelled")  # in their order; finished stages have a line
COLUMNS = ("stage", "variant", "state", "node", "elapsed", "job", "log")  # a column without values is not shown
MIN_WIDTHS = {"state": len("waiting"), "elapsed": len("0:00:00")}  # in a narrow terminal, the others are cut
MIN_LINES_ABOVE = 12  # lines of the terminal that stay free for messages above the table
MIN_ROWS = 3


class Board:
    """A rich renderable of the graph, with as many rows as fit the terminal."""

    def __init__(self, nodes: Graph, folder: Path) -> None:
        self.nodes, self.folder = nodes, folder

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the table and a line of counts."""
        max_rows = max(MIN_ROWS, console.height - MIN_LINES_ABOVE)
        unfinished = [node for node in self.nodes.values() if node.state in SHOWN_STATES]
        unfinished.sort(key=lambda node: SHOWN_STATES.index(node.state))
        table = Table(box=None, header_style="bold", pad_edge=False)
        rows = [self._row(node) for node in unfinished[:max_rows]]
        filled = [column for column in range(len(COLUMNS)) if any(row[column] for row in rows)]
        for head in (COLUMNS[column] for column in filled):
            side: Literal["left", "right"] = "right" if head == "elapsed" else "left"
            table.add_column(head, justify=side, no_wrap=head != "log", min_width=MIN_WIDTHS.get(head))
        for row in rows:
            table.add_row(*(row[column] for column in filled))
        yield table
        hidden = f", {len(unfinished) - max_rows} more rows" if len(unfinished) > max_rows else ""
        yield Text(f"{len(self.nodes)} stages: {count_states(self.nodes.values())}{hidden}", style="dim")

    def _row(self, node: Node) -> Sequence[str]:
        log = node.log.removeprefix(f"{self.folder}/")
        state = f"[{STATE_COLORS.get(node.state, 'dim')}]{node.state}[/]"
        elapsed = clock_text(node.elapsed) if node.started else ""
        return node.stage.label, escape(describe_node(node)), state, node.host, elapsed, node.job, escape(log)


def failure_table(nodes: Graph) -> Table:
    """Return the failed stages with their errors and logs."""
    table = Table(box=None, header_style="bold red", pad_edge=False)
    for head in ("failed", "variant", "error", "log"):
        table.add_column(head, overflow="fold")
    for node in nodes.values():
        if node.state == "failed":
            table.add_row(node.stage.label, *map(Text, (describe_node(node), node.message, node.log)))
    return table


def node_line(node: Node) -> str:
    """Return the line that is printed when the state of a stage changes."""
    has_run = node.started and node.state in ("done", "failed")
    state = f"{node.seconds:.1f} s" if has_run else node.state
    facts = "  ".join(filter(None, [describe_node(node), node.stage.key, node.job, node.host]))
    return f"  {STATE_MARKS.get(node.state, '·')} {node.stage.label:<22} {state:>9}  [dim]{escape(facts)}[/]"


def describe_node(node: Node) -> str:
    """Return what distinguishes a stage from others of its name: `biomedicine gemma-3-270m 12 r8 tuning.epochs=2`."""
    config, name = node.stage.config, node.stage.name
    parts = [config.domain.name]
    if name == "scores" and config.evaluation.domain:
        parts = list(dict.fromkeys([*(parts if node.parents else []), config.evaluation.domain.name]))
    if name != "index":
        parts.append(config.model.name)
    if name in ("examples", "round_examples", "adapter") or node.parents:
        parts.append(str(config.data_size.examples))
    if name == "adapter" or (node.parents and name not in ("examples", "round_examples")):
        parts.append(f"r{config.lora.r}")
    return " ".join([*parts, *_other_overrides(node)])


def _other_overrides(node: Node) -> list[str]:
    """The overrides that tell the jobs of a sweep apart and can change the stage, without those in its description."""
    overrides = overrides_of_stage(node.config.logger.job_overrides, node.stage)
    shown = re.compile(r"(domain|model|data_size(\.examples)?|lora\.r)=|lora=r\d+$")
    return [text for text in overrides if not shown.match(text)]


def clock_text(seconds: float) -> str:
    """Return `1:02:03` or `2:03`."""
    minutes, remaining_seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{remaining_seconds:02d}" if hours else f"{minutes}:{remaining_seconds:02d}"


def count_jobs_and_stages(jobs: int, nodes: Graph) -> str:
    """Return `24 jobs, 58 distinct stages`."""
    return f"{jobs} {'job' if jobs == 1 else 'jobs'}, {len(nodes)} distinct stages"


def count_states(nodes: Iterable[Node]) -> str:
    """Return `3 running, 40 queued, 13 done`."""
    counts = Counter(node.state for node in nodes)
    return ", ".join(f"{count} {state}" for state, count in counts.most_common())
