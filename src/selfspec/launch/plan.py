"""`plan=true`: the stages of a run or a sweep, their work, hours and memory, and what SLURM would be asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from selfspec.launch.plan_memory import show_memory
from selfspec.launch.resources import Resources, devices_of, resources_of, sbatch_executor, stage_command
from selfspec.launch.slurm import ARRAY_PREFIX, group_into_arrays
from selfspec.pipeline.graph import Graph, Node
from selfspec.planning.lengths import CHARACTERS_PER_TOKEN
from selfspec.planning.throughput import FinishedRuns
from selfspec.planning.work import Work, stage_work
from selfspec.reporting.board import count_jobs_and_stages, count_states, describe_node


def show_plan(
    nodes: Graph, jobs: int, launcher: Mapping[str, Any], folder: Path, console: Console | None = None
) -> None:
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
        console.width = max(console.width, 160)
    console.print(f"[bold]{count_jobs_and_stages(jobs, nodes)}[/]: {count_states(nodes.values())}")
    _show_stages(nodes, launcher, console)
    show_memory(nodes, launcher, console)
    if "resources" in launcher:
        _show_requests(nodes, launcher, folder, console)


def _show_stages(nodes: Graph, launcher: Mapping[str, Any], console: Console) -> None:
    """The stages, what each does, and how long that takes."""
    past = FinishedRuns(Path(next(iter(nodes.values())).config.paths.store))
    numbers = {key: number for number, key in enumerate(nodes, start=1)}
    table = Table(box=None, header_style="bold", pad_edge=False)
    for head in ("", "stage", "of", "state", "after", "work", "tokens", "time", "key"):
        numeric = head in ("tokens", "time")
        whole = numeric or head in ("", "state")  # the others go on in a second line where the terminal is narrow
        table.add_column(head, no_wrap=whole, overflow="fold", justify="right" if numeric else "left")
    sources: dict[str, list[str]] = {"passing": [], "time": [], "unknown": []}
    spent = 0.0
    for key, node in nodes.items():
        before = [*node.parents, *([node.after] if node.after else [])]
        after = " ".join(str(numbers[parent.stage.key]) for parent in before)
        passing, why = past.pass_rate(node.stage)
        done = stage_work(node.stage, passing)
        hours, whence = past.estimate_hours(
            node.stage, _remaining_work(node, done, past), devices_of(node.stage.name, launcher)
        )
        if node.open:
            spent += hours or 0
            sources["passing"] += [why] if node.stage.name in ("examples", "round_examples") else []
            sources["time" if hours is not None else "unknown"].append(whence or node.stage.name)
        state, time = ("to do", _duration_text(hours)) if node.open else ("stored", "")
        told = (done.summary, _token_text(done), time, key)
        table.add_row(str(numbers[key]), node.stage.label, describe_node(node), state, after, *told)
    console.print(table)
    if any(node.open for node in nodes.values()):
        _print_sources(sources, spent, console)


def _remaining_work(node: Node, done: Work, past: FinishedRuns) -> Work:
    """What a stage adds to the smaller size of its pool, which goes before it."""
    if node.after is None or not done.units:
        return done
    before = stage_work(node.after.stage, past.pass_rate(node.after.stage)[0])
    return done.scaled(max(0.0, 1 - before.units / done.units))


def _print_sources(sources: Mapping[str, list[str]], spent: float, console: Console) -> None:
    """Where the numbers of the table are from."""
    facts = [
        f"tokens: read, written or tuned, {CHARACTERS_PER_TOKEN:g} characters each; synthetic rows as long as seeds",
        *dict.fromkeys(sources["passing"]),
    ]
    if sources["time"]:
        known = "all" if not sources["unknown"] else f"{len(sources['time'])} of the stages"
        facts.append(f"time: {known}, {_duration_text(spent)} in all, by {', '.join(dict.fromkeys(sources['time']))}")
    if sources["unknown"]:
        names = ", ".join(dict.fromkeys(sources["unknown"]))
        facts.append(f"time of {names}: unknown, as the store has no finished one of this model;")
        facts.append(
            "  give tokens a second of one device with throughput.generated=, throughput.read= and throughput.tuned="
        )
    for fact in facts:
        console.print(f"[dim]{fact}[/]")


def _token_text(done: Work) -> str:
    """The tokens that a stage reads, writes or is tuned on: `950`, `22k`, `1.9M`."""
    count = done.read + done.generated + done.tuned
    if not count:
        return ""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= limit:
            return f"{count / limit:.1f}{unit}" if count < 10 * limit else f"{count / limit:.0f}{unit}"
    return f"{count:.0f}"


def _duration_text(hours: float | None) -> str:
    """`4 min`, `1.6 h`; `?` where it is unknown."""
    if hours is None:
        return "?"
    minutes = hours * 60
    return f"{hours:.1f} h" if hours >= 1 else f"{minutes:.0f} min" if minutes >= 1 else f"{minutes * 60:.0f} s"


def _show_requests(nodes: Graph, launcher: Mapping[str, Any], folder: Path, console: Console) -> None:
    """One sbatch file an array, with names in place of the numbers that SLURM will give."""
    left = [node for node in nodes.values() if node.open]
    for node in left:
        node.job = f"<{node.stage.label.split(' ')[0]} {node.stage.key[:8]}>"
    for wanted, stages in group_into_arrays(left):
        name = stages[0].stage.name
        request = resources_of(name, launcher["resources"])
        console.print(f"\n[bold]{len(stages)} x {name}[/]: {request.text()}")
        console.print(sbatch_text(stages, request, wanted, folder), markup=False)


def sbatch_text(stages: list[Node], request: Resources, wanted: str, folder: Path) -> str:
    """The sbatch file of one array."""
    place = folder / "slurm" / f"{ARRAY_PREFIX}<hash>"
    path = {"PYTHONPATH": str(folder / "code-<hash>")}
    executor = sbatch_executor(request, place, f"{ARRAY_PREFIX}<hash>", wanted, len(stages), path)
    return str(executor._make_submission_file_text(stage_command(place), ""))
