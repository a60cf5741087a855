"""The live table of a sweep: what runs, what failed, what waits; and one plain line a change for logs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from selfspec.pipeline.graph import Graph, Node

MARKS = {"done": "green", "stored": "green", "failed": "red", "cancelled": "yellow", "running": "cyan"}


ORDER = ("running", "failed", "queued", "waiting", "cancelled")  # what is done has had its line


LINES_KEPT = 12  # of the terminal, for what is said above the table


class Board:
    """A rich renderable of the graph, as many rows as the terminal has room for."""

    def __init__(self, nodes: Graph, folder: Path) -> None:
        self.nodes, self.folder = nodes, folder

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table, and a line of counts."""
        room = max(3, console.height - LINES_KEPT)
        shown = sorted((n for n in self.nodes.values() if n.state in ORDER), key=lambda n: ORDER.index(n.state))
        table = Table(box=None, header_style="bold", pad_edge=False)
        for head in ("stage", "of", "state", "node", "elapsed", "job", "log"):
            table.add_column(head, justify="right" if head == "elapsed" else "left", no_wrap=head != "log")
        for node in shown[:room]:
            table.add_row(*self._row(node))
        yield table
        left = f", {len(shown) - room} more rows" if len(shown) > room else ""
        yield Text(f"{len(self.nodes)} stages: {count_states(self.nodes.values())}{left}", style="dim")

    def _row(self, node: Node) -> Iterable[str]:
        log = node.log.removeprefix(f"{self.folder}/")
        state = f"[{MARKS.get(node.state, 'dim')}]{node.state}[/]"
        elapsed = clock_text(node.elapsed) if node.started else ""
        return node.stage.label, describe_node(node), state, node.host, elapsed, node.job, log


def failure_table(nodes: Graph) -> Table:
    """What failed, why, and where its log is."""
    table = Table(box=None, header_style="bold red", pad_edge=False)
    for head in ("failed", "of", "why", "log"):
        table.add_column(head, overflow="fold")
    for node in nodes.values():
        if node.state == "failed":
            table.add_row(node.stage.label, describe_node(node), Text(node.message), node.log)
    return table


def node_line(node: Node) -> str:
    """One line on a node whose state changed."""
    marks = {"done": "[green]✓[/]", "stored": "[green]✓[/]", "failed": "[red]✗[/]", "cancelled": "[yellow]-[/]"}
    ended = node.started and node.state in ("done", "failed")
    seconds = f"{node.seconds:.1f} s" if ended else node.state
    facts = "  ".join(filter(None, [describe_node(node), node.stage.key, node.job, node.host]))
    return f"  {marks.get(node.state, '·')} {node.stage.label:<22} {seconds:>9}  [dim]{facts}[/]"


def describe_node(node: Node) -> str:
    """What tells a stage from others of its name."""
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
    return " ".join(parts)


def clock_text(seconds: float) -> str:
    """`1:02:03`, or `2:03`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def count_jobs_and_stages(jobs: int, nodes: Graph) -> str:
    """`24 jobs, 58 distinct stages`."""
    return f"{jobs} {'job' if jobs == 1 else 'jobs'}, {len(nodes)} distinct stages"


def count_states(nodes: Iterable[Node]) -> str:
    """`3 running, 40 queued, 13 done`."""
    counts = Counter(node.state for node in nodes)
    return ", ".join(f"{count} {state}" for state, count in counts.most_common())
