"""The memory part of a plan: parameters, bytes on one device by part, and the devices that hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from selfspec.config.schema import Config
from selfspec.launch.resources import devices_of
from selfspec.pipeline.graph import Graph
from selfspec.planning.devices import (
    GB,
    KNOWN_DEVICES,
    fits_device,
    is_allowed_on,
    processes_here,
    suggest_changes,
    this_machine,
    total_memory,
)
from selfspec.planning.memory import MAPPED_FILE, TEMPORARY_WEIGHTS, total_bytes
from selfspec.planning.parameters import model_shape
from selfspec.planning.stage_memory import STAGE_KINDS, Device, memory_by_part
from selfspec.stages import RESOURCE_KIND

ORDER = [
    *("weights", TEMPORARY_WEIGHTS, "adapter", "gradients", "optimizer", "best adapter", "activations", "KV cache"),
    *("logits", "everything else, at least", "libraries", "Python", MAPPED_FILE),
]


ANY_GPU = Device("a GPU", 0.0, True)


def show_memory(nodes: Graph, launcher: Mapping[str, Any], console: Console) -> None:
    """One part for each distinct model, strategy, adapter and batch."""
    shown: dict[object, tuple[Config, Sequence[str]]] = {}
    processes, (sharing, neighbours) = devices_of("adapter", launcher), processes_here(launcher)
    here = this_machine(max(neighbours, 1))
    for node in nodes.values():
        kind, config = RESOURCE_KIND[node.stage.name], node.stage.config
        if kind not in STAGE_KINDS:
            continue
        model, tuning = config.model, config.tuning
        held = (model_shape(model), model.name, model.quantization, model.dtype, config.lora, config.strategy)
        key = (held, tuning.micro_batch_tokens, tuning.activation_checkpointing)
        before = shown.get(key, (config, ()))
        largest = max(before[0], config, key=lambda some: _largest_bytes(some, processes))
        shown[key] = (largest, tuple(name for name in STAGE_KINDS if name in (*before[1], kind)))
    for config, kinds in shown.values():
        _show_one(config, kinds, processes, here, console)
        if sharing and not is_allowed_on(config, kinds, here, processes):
            console.print("[yellow]A run on this machine is refused before any work, unless plan.force=true.[/]")


def _largest_bytes(config: Config, processes: int) -> float:
    return max(total_memory(config, kind, ANY_GPU, processes) for kind in STAGE_KINDS)


def _show_one(config: Config, kinds: Sequence[str], processes: int, here: Device, console: Console) -> None:
    console.print(f"\n[bold]{config.model.name}[/]: {_parameter_text(config, processes)}")
    if config.model.toy:
        console.print("[dim]a toy fits every device[/]")
        return
    console.print(_memory_table(config, kinds, processes, here))
    console.print(_device_table(config, kinds, processes, here))


def _parameter_text(config: Config, processes: int) -> str:
    """Parameters, and how they are held."""
    model, lora, strategy = config.model, config.lora, config.strategy
    found = model_shape(model)
    kind = "DoRA" if lora.dora else "LoRA"
    several = "1 device" if processes == 1 else f"{processes} devices for the adapter"
    numbers = f"{model.parameters:,} parameters of an architecture unknown here"
    if found:
        trainable = f"{found.num_adapter_parameters(lora):,} trainable ({kind}, rank {lora.r})"
        numbers = f"{found.num_parameters:,} parameters, {trainable}"
    held = "" if model.quantization == "none" else f"; {model.quantization}"
    return f"{numbers}{held}; strategy {strategy.name}, {several}"


def _memory_table(config: Config, kinds: Sequence[str], processes: int, here: Device) -> Table:
    """Gigabytes by part, on a GPU, and on this machine where it has none."""
    places = [ANY_GPU] if here.is_gpu else [ANY_GPU, here]
    columns = [(place, kind) for place in places for kind in kinds]
    found = [memory_by_part(config, kind, place, processes) for place, kind in columns]
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("GB on one device", overflow="fold")
    for place, kind in columns:
        table.add_column(f"{kind}, {'GPU' if place.is_gpu else 'here'}", justify="right")
    for part in sorted({name for parts in found for name in parts}, key=ORDER.index):
        values = [parts.get(part, 0.0) for parts in found]
        if max(values) >= GB / 200:
            table.add_row(part, *(f"{value / GB:.2f}" if value >= GB / 200 else "" for value in values))
    table.add_row("in all", *(f"{total_bytes(parts) / GB:.2f}" for parts in found), style="bold")
    return table


def _device_table(config: Config, kinds: Sequence[str], processes: int, here: Device) -> Table:
    """Which devices hold which stages, and what would make the others do."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for head in ("device", "GB", *kinds):
        table.add_column(head, no_wrap=True, justify="right" if head == "GB" else "left")
    table.add_column("what would make it fit", overflow="fold")
    for device in (*KNOWN_DEVICES, here):
        held = {kind: fits_device(config, (kind,), device, processes) for kind in kinds}
        marks = ("[green]fits[/]" if held[kind] else "[red]no[/]" for kind in kinds)
        advice = "" if all(held.values()) else _advice_text(config, kinds, device, processes)
        table.add_row(device.name, f"{device.memory_bytes / GB:.0f}", *marks, advice)
    return table


def _advice_text(config: Config, kinds: Sequence[str], device: Device, processes: int) -> str:
    return " ".join(suggest_changes(config, kinds, device, processes)) or "a larger device, or a smaller model"
