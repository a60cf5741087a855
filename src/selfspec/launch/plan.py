"""`plan=true`: the stages of a run or a sweep, what of them is stored, and what SLURM would be asked for; no work."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from selfspec.launch import resources
from selfspec.launch.graph import Graph, Node
from selfspec.launch.slurm import PREFIX, arrays
from selfspec.reporting.board import counted, of, size


def show(nodes: Graph, jobs: int, launcher: Mapping[str, Any], folder: Path, console: Console | None = None) -> None:
    """Print the plan.

    Args:
        nodes: The graph, its stored stages marked.
        jobs: How many jobs it unites.
        launcher: The composed `hydra.launcher`.
        folder: Where logs would go.
        console: Where to print.
    """
    console = console or Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = max(console.width, 140)
    numbers = {key: number for number, key in enumerate(nodes, start=1)}
    table = Table(box=None, header_style="bold", pad_edge=False)
    for head in ("", "stage", "of", "state", "after", "key"):
        table.add_column(head, no_wrap=True)
    for key, node in nodes.items():
        before = [*node.parents, *([node.after] if node.after else [])]
        after = " ".join(str(numbers[parent.stage.key]) for parent in before)
        state = "stored" if node.state == "stored" else "to do"
        table.add_row(str(numbers[key]), node.stage.label, of(node), state, after, key)
    console.print(f"[bold]{size(jobs, nodes)}[/]: {counted(nodes.values())}")
    console.print(table)
    if str(launcher["_target_"]).endswith("SlurmLauncher"):
        _show_requests(nodes, launcher, folder, console)


def _show_requests(nodes: Graph, launcher: Mapping[str, Any], folder: Path, console: Console) -> None:
    """One sbatch file an array, with names in place of the numbers that SLURM will give."""
    left = [node for node in nodes.values() if node.open]
    for node in left:
        node.job = f"<{node.stage.label.split(' ')[0]} {node.stage.key[:8]}>"
    for wanted, stages in arrays(left):
        name = stages[0].stage.name
        request = resources.resources_of(name, launcher["resources"])
        console.print(f"\n[bold]{len(stages)} x {name}[/]: {request.text()}")
        console.print(sbatch_text(stages, request, wanted, folder), markup=False)


def sbatch_text(stages: list[Node], request: resources.Resources, wanted: str, folder: Path) -> str:
    """The sbatch file of one array."""
    place = folder / "slurm" / f"{PREFIX}<hash>"
    path = {"PYTHONPATH": str(folder / "code-<hash>")}
    executor = resources.sbatch_executor(request, place, f"{PREFIX}<hash>", wanted, len(stages), path)
    return str(executor._make_submission_file_text(resources.command(place), ""))
