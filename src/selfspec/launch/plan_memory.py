"""The memory part of a plan: parameters, bytes on one device by part, and the devices that hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
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
from selfspec.stages.registry import RESOURCE_KIND

# Rows of the memory table, in their order.
PART_ORDER = [
    *("weights", TEMPORARY_WEIGHTS, "adapter", "gradients", "optimizer", "best adapter", "activations", "KV cache"),
    *("logits", "everything else, at least", "libraries", "Python", MAPPED_FILE),
]
MIN_SHOWN_BYTES = GB / 200  # less would be shown as 0.00 GB

ANY_GPU = Device("a GPU", 0.0, True)


def show_memory(nodes: Graph, launcher: Mapping[str, Any], console: Console) -> None:
    """Print the memory of each distinct combination of model, strategy, adapter and batch size.

    Args:
        nodes: The stages.
        launcher: The composed `hydra.launcher`.
        console: Where to print.
    """
    cases: dict[object, tuple[Config, Sequence[str]]] = {}
    processes, (sharing, neighbours) = devices_of("adapter", launcher), processes_here(launcher)
    machine = this_machine(max(neighbours, 1))
    for node in nodes.values():
        kind, config = RESOURCE_KIND[node.stage.name], node.stage.config
        if kind not in STAGE_KINDS:
            continue
        model, tuning = config.model, config.tuning
        loaded = (model_shape(model), model.name, model.quantization, model.dtype, config.lora, config.strategy)
        key = (loaded, tuning.micro_batch_tokens, tuning.activation_checkpointing)
        earlier_config, earlier_kinds = cases.get(key, (config, ()))
        largest = max(earlier_config, config, key=lambda candidate: _largest_bytes(candidate, processes))
        cases[key] = (largest, tuple(name for name in STAGE_KINDS if name in (*earlier_kinds, kind)))
    for config, kinds in cases.values():
        _show_case(config, kinds, processes, machine, console)
        if sharing and not is_allowed_on(config, kinds, machine, processes):
            console.print(
                "[yellow]This machine has too little memory: a run on it is refused before any work, "
                "unless plan.force=true.[/]"
            )


def _largest_bytes(config: Config, processes: int) -> float:
    return max(total_memory(config, kind, ANY_GPU, processes) for kind in STAGE_KINDS)


def _show_case(config: Config, kinds: Sequence[str], processes: int, machine: Device, console: Console) -> None:
    console.print(f"\n[bold]{escape(config.model.name)}[/]: {_parameter_text(config, processes)}")
    if config.model.toy:
        console.print("[dim]a model with model.toy=true fits every device[/]")
        return
    console.print(_memory_table(config, kinds, processes, machine))
    console.print(_device_table(config, kinds, processes, machine))


def _parameter_text(config: Config, processes: int) -> str:
    """The number of parameters, quantization, strategy and devices."""
    model, lora, strategy = config.model, config.lora, config.strategy
    shape = model_shape(model)
    adapter_kind = "DoRA" if lora.dora else "LoRA"
    devices = "1 device" if processes == 1 else f"{processes} devices for the adapter"
    parameters = f"{model.parameters:,} parameters, unknown architecture"
    if shape:
        trainable = f"{shape.num_adapter_parameters(lora):,} trainable ({adapter_kind}, rank {lora.r})"
        parameters = f"{shape.num_parameters:,} parameters, {trainable}"
    quantization = "" if model.quantization == "none" else f"; {model.quantization}"
    return f"{parameters}{quantization}; strategy {strategy.name}, {devices}"


def _memory_table(config: Config, kinds: Sequence[str], processes: int, machine: Device) -> Table:
    """Gigabytes by part: on a GPU, and on this machine if it has no GPU."""
    devices = [ANY_GPU] if machine.is_gpu else [ANY_GPU, machine]
    columns = [(device, kind) for device in devices for kind in kinds]
    memory = [memory_by_part(config, kind, device, processes) for device, kind in columns]
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("GB on one device", overflow="fold")
    for device, kind in columns:
        table.add_column(f"{kind}, {'GPU' if device.is_gpu else 'here'}", justify="right")
    for part in sorted({name for parts in memory for name in parts}, key=PART_ORDER.index):
        values = [parts.get(part, 0.0) for parts in memory]
        if max(values) >= MIN_SHOWN_BYTES:
            table.add_row(part, *(f"{value / GB:.2f}" if value >= MIN_SHOWN_BYTES else "" for value in values))
    table.add_row("total", *(f"{total_bytes(parts) / GB:.2f}" for parts in memory), style="bold")
    return table


def _device_table(config: Config, kinds: Sequence[str], processes: int, machine: Device) -> Table:
    """Which stages fit which devices, and which changes would make the others fit."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for head in ("device", "GB", *kinds):
        table.add_column(head, no_wrap=True, justify="right" if head == "GB" else "left")
    table.add_column("changes that would make it fit", overflow="fold")
    for device in (*KNOWN_DEVICES, machine):
        fits = {kind: fits_device(config, (kind,), device, processes) for kind in kinds}
        marks = ("[green]fits[/]" if fits[kind] else "[red]no[/]" for kind in kinds)
        advice = "" if all(fits.values()) else _advice_text(config, kinds, device, processes)
        table.add_row(device.name, f"{device.memory_bytes / GB:.0f}", *marks, advice)
    return table


def _advice_text(config: Config, kinds: Sequence[str], device: Device, processes: int) -> str:
    return " ".join(suggest_changes(config, kinds, device, processes)) or "a larger device, or a smaller model"
