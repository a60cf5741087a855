"""The memory part of a plan: parameters, bytes on one device by part, and the devices that hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from selfspec.config import Config
from selfspec.launch.graph import Graph
from selfspec.launch.resources import devices_of
from selfspec.models import memory, shape
from selfspec.planning import devices
from selfspec.planning.devices import GB
from selfspec.planning.needs import KINDS, OF, Device, needs

ORDER = [
    *("weights", "unpacked, gathered", "adapter", "gradients", "optimizer", "best adapter", "activations", "KV cache"),
    *("logits", "all beside them, at least", "libraries", "Python", memory.MAPPED),
]
ANY_GPU = Device("a GPU", 0.0, True)


def show(nodes: Graph, launcher: Mapping[str, Any], console: Console) -> None:
    """One part for each distinct model, strategy, adapter and batch."""
    shown: dict[object, tuple[Config, Sequence[str]]] = {}
    processes, (sharing, neighbours) = devices_of("adapter", launcher), devices.shares(launcher)
    here = devices.here(max(neighbours, 1))
    for node in nodes.values():
        kind, config = OF.get(node.stage.name, node.stage.name), node.stage.config
        if not kind:
            continue
        model, tuning = config.model, config.tuning
        held = (shape.of(model), model.name, model.quantization, model.dtype, config.lora, config.strategy)
        key = (held, tuning.micro_batch_tokens, tuning.activation_checkpointing)
        before = shown.get(key, (config, ()))
        largest = max(before[0], config, key=lambda some: _largest(some, processes))
        shown[key] = (largest, tuple(name for name in KINDS if name in (*before[1], kind)))
    for config, kinds in shown.values():
        _show_one(config, kinds, processes, here, console)
        if sharing and not devices.goes(config, kinds, here, processes):
            console.print("[yellow]A run on this machine is refused before any work, unless plan.force=true.[/]")


def _largest(config: Config, processes: int) -> float:
    return max(devices.total(config, kind, ANY_GPU, processes) for kind in KINDS)


def _show_one(config: Config, kinds: Sequence[str], processes: int, here: Device, console: Console) -> None:
    console.print(f"\n[bold]{config.model.name}[/]: {_sizes(config, processes)}")
    if config.model.toy:
        console.print("[dim]a toy fits every device[/]")
        return
    console.print(_parts(config, kinds, processes, here))
    console.print(_fits(config, kinds, processes, here))


def _sizes(config: Config, processes: int) -> str:
    """Parameters, and how they are held."""
    model, lora, strategy = config.model, config.lora, config.strategy
    found = shape.of(model)
    kind = "DoRA" if lora.dora else "LoRA"
    several = "1 device" if processes == 1 else f"{processes} devices for the adapter"
    numbers = f"{model.parameters:,} parameters of an architecture unknown here"
    if found:
        numbers = f"{found.parameters:,} parameters, {found.trainable(lora):,} trainable ({kind}, rank {lora.r})"
    held = "" if model.quantization == "none" else f"; {model.quantization}"
    return f"{numbers}{held}; strategy {strategy.name}, {several}"


def _parts(config: Config, kinds: Sequence[str], processes: int, here: Device) -> Table:
    """Gigabytes by part, on a GPU, and on this machine where it has none."""
    places = [ANY_GPU] if here.gpu else [ANY_GPU, here]
    columns = [(place, kind) for place in places for kind in kinds]
    found = [needs(config, kind, place, processes) for place, kind in columns]
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("GB on one device", overflow="fold")
    for place, kind in columns:
        table.add_column(f"{kind}, {'GPU' if place.gpu else 'here'}", justify="right")
    for part in sorted({name for parts in found for name in parts}, key=ORDER.index):
        values = [parts.get(part, 0.0) for parts in found]
        if max(values) >= GB / 200:
            table.add_row(part, *(f"{value / GB:.2f}" if value >= GB / 200 else "" for value in values))
    table.add_row("in all", *(f"{memory.held(parts) / GB:.2f}" for parts in found), style="bold")
    return table


def _fits(config: Config, kinds: Sequence[str], processes: int, here: Device) -> Table:
    """Which devices hold which stages, and what would make the others do."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for head in ("device", "GB", *kinds):
        table.add_column(head, no_wrap=True, justify="right" if head == "GB" else "left")
    table.add_column("what would make it fit", overflow="fold")
    for device in (*devices.KNOWN, here):
        held = {kind: devices.fits(config, (kind,), device, processes) for kind in kinds}
        marks = ("[green]fits[/]" if held[kind] else "[red]no[/]" for kind in kinds)
        advice = "" if all(held.values()) else _advice(config, kinds, device, processes)
        table.add_row(device.name, f"{device.size / GB:.0f}", *marks, advice)
    return table


def _advice(config: Config, kinds: Sequence[str], device: Device, processes: int) -> str:
    return " ".join(devices.remedy(config, kinds, device, processes)) or "a larger device, or a smaller model"
