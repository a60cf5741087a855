"""`plan=true`: the stages of a run or a sweep, their work, hours and memory, and their SLURM requests."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from selfspec.errors import UserError
from selfspec.launch.plan_memory import show_memory
from selfspec.launch.resources import Resources, devices_of, resources_of, sbatch_parameters
from selfspec.launch.slurm_arrays import ARRAY_PREFIX, group_into_arrays, stage_command
from selfspec.launch.slurm_nodes import SlurmNode, describe_unmet, find_nodes, refusal
from selfspec.pipeline.graph import Graph, Node
from selfspec.planning.lengths import CHARACTERS_PER_TOKEN
from selfspec.planning.throughput import FinishedRuns
from selfspec.planning.work import Work, stage_work
from selfspec.reporting.board import count_jobs_and_stages, count_states, describe_node

MIN_LOG_WIDTH = 160  # columns where the plan is not printed to a terminal


def show_plan(
    nodes: Graph, num_jobs: int, launcher: Mapping[str, Any], folder: Path, console: Console | None = None
) -> None:
    """Print the plan.

    Args:
        nodes: The stages, of which those that are stored are marked.
        num_jobs: Number of jobs that the stages are of.
        launcher: The composed `hydra.launcher`.
        folder: Of the run or the sweep.
        console: Where to print.
    """
    console = console or Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = max(console.width, MIN_LOG_WIDTH)
    console.print(f"[bold]{count_jobs_and_stages(num_jobs, nodes)}[/]: {count_states(nodes.values())}")
    _show_stages(nodes, launcher, console)
    show_memory(nodes, launcher, console)
    if "resources" in launcher:
        _show_requests(nodes, launcher, folder, console)


def _show_stages(nodes: Graph, launcher: Mapping[str, Any], console: Console) -> None:
    """Print the stages with their work and time, and where these estimates are from."""
    past = FinishedRuns(Path(next(iter(nodes.values())).config.paths.store))
    numbers = {key: number for number, key in enumerate(nodes, start=1)}
    table = _stage_table()
    sources: dict[str, list[str]] = {"pass_rate": [], "time": [], "unknown": []}
    total_hours = 0.0
    for key, node in nodes.items():
        earlier = [*node.parents, *([node.after] if node.after else [])]
        after = " ".join(str(numbers[parent.stage.key]) for parent in earlier)
        pass_rate, pass_rate_source = past.pass_rate(node.stage)
        work = stage_work(node.stage, pass_rate)
        remaining = _remaining_work(node, work, past)
        hours, hours_source = past.estimate_hours(node.stage, remaining, devices_of(node.stage.name, launcher))
        if node.open:
            total_hours += hours or 0
            sources["pass_rate"] += [pass_rate_source] if node.stage.name in ("examples", "round_examples") else []
            sources["time" if hours is not None else "unknown"].append(hours_source or node.stage.name)
        state, time = ("to do", _duration_text(hours)) if node.open else ("stored", "")
        estimates = (work.summary, _token_text(work), time, key)
        table.add_row(str(numbers[key]), node.stage.label, escape(describe_node(node)), state, after, *estimates)
    console.print(table)
    if any(node.open for node in nodes.values()):
        _print_sources(sources, total_hours, console)


def _stage_table() -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for head in ("", "stage", "variant", "state", "after", "work", "tokens", "time", "key"):
        is_number = head in ("tokens", "time")
        no_wrap = is_number or head in ("", "state")  # the other columns are folded on a narrow terminal
        table.add_column(head, no_wrap=no_wrap, overflow="fold", justify="right" if is_number else "left")
    return table


def _remaining_work(node: Node, work: Work, past: FinishedRuns) -> Work:
    """The work of a stage without that of the smaller size of its pool, which runs before it."""
    if node.after is None or not work.units:
        return work
    earlier = stage_work(node.after.stage, past.pass_rate(node.after.stage)[0])
    return work.scaled(max(0.0, 1 - earlier.units / work.units))


def _print_sources(sources: Mapping[str, list[str]], total_hours: float, console: Console) -> None:
    """Print where the numbers of the table are from."""
    lines = [
        f"tokens: read, generated and tuned on; estimated at {CHARACTERS_PER_TOKEN:g} characters per token, with "
        "synthetic rows as long as the seeds",
        *dict.fromkeys(sources["pass_rate"]),
    ]
    if sources["time"]:
        known = "all stages" if not sources["unknown"] else f"{len(sources['time'])} of the stages"
        origins = ", ".join(dict.fromkeys(sources["time"]))
        lines.append(f"time: {known}, {_duration_text(total_hours)} in total, from {origins}")
    if sources["unknown"]:
        names = ", ".join(dict.fromkeys(sources["unknown"]))
        lines.append(f"time of {names}: unknown, because the store has no finished stage of this kind and model;")
        lines.append(
            "  set the tokens per second of one device: throughput.generated=, throughput.read=, throughput.tuned="
        )
    for line in lines:
        console.print(f"[dim]{escape(line)}[/]")


def _token_text(work: Work) -> str:
    """The tokens that a stage reads, generates or tunes on: `950`, `22k`, `1.9M`."""
    count = work.read + work.generated + work.tuned
    if not count:
        return ""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= limit:
            return f"{count / limit:.1f}{unit}" if count < 10 * limit else f"{count / limit:.0f}{unit}"
    return f"{count:.0f}"


def _duration_text(hours: float | None) -> str:
    """`4 min`, `1.6 h`; `?` if it is unknown."""
    if hours is None:
        return "?"
    minutes = hours * 60
    return f"{hours:.1f} h" if hours >= 1 else f"{minutes:.0f} min" if minutes >= 1 else f"{minutes * 60:.0f} s"


def _show_requests(nodes: Graph, launcher: Mapping[str, Any], folder: Path, console: Console) -> None:
    """Print the sbatch file of each array, with stage names in place of SLURM's job numbers."""
    open_nodes = [node for node in nodes.values() if node.open]
    for node in open_nodes:
        node.job = f"<{node.stage.label.split(' ')[0]} {node.stage.key[:8]}>"
    slurm_nodes: list[SlurmNode] = []
    with suppress(UserError):  # a plan may be made where there is no SLURM
        slurm_nodes = find_nodes()
    for dependency, stages in group_into_arrays(open_nodes):
        name = stages[0].stage.name
        request = resources_of(name, launcher["resources"])
        console.print(f"\n[bold]{len(stages)} x {name}[/]: {request.text()}")
        if reason := describe_unmet(request, slurm_nodes):
            console.print(f"[yellow]{refusal(name, reason)}[/]")
        console.print(_sbatch_text(len(stages), request, dependency, folder), markup=False)


def _sbatch_text(array_size: int, request: Resources, dependency: str, folder: Path) -> str:
    from selfspec.launch.submitit_adapter import sbatch_text  # imports submitit

    name = f"{ARRAY_PREFIX}<hash>"
    array_folder = folder / "slurm" / name
    parameters = sbatch_parameters(request, name, dependency, {"PYTHONPATH": str(folder / "code-<hash>")})
    return sbatch_text(array_folder, stage_command(array_folder), array_size, parameters)
