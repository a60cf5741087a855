"""Which devices a run fits, the overrides that would make it fit, and the check of this machine's memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from selfspec.config.schema import Config
from selfspec.errors import UserError
from selfspec.planning.memory import total_bytes
from selfspec.planning.stage_memory import STAGE_KINDS, Device, memory_by_part
from selfspec.runtime.machine import has_native_bf16, memory_capacity
from selfspec.runtime.stage import Stage
from selfspec.stages.registry import RESOURCE_KIND
from selfspec.tuning.strategies.limits import check_strategy_choice

GB = 1e9
PYTHON_BYTES = 0.6 * GB  # torch, Lightning and transformers, imported; counted where the model is in CPU memory

KNOWN_DEVICES = (
    Device("H100, A100 80 GB", 80 * GB, True),
    Device("L40S 48 GB", 48 * GB, True),
    Device("A100 40 GB", 40 * GB, True),
    Device("RTX 4090, A10 24 GB", 24 * GB, True),
)

MAX_DEVICES = 64  # that are suggested
MIN_LENGTH = 256  # tokens: `tuning.max_length` is not suggested to be below
MAX_RATIO = 0.99  # of the memory after and before a change that is worth suggesting
NUM_DEVICES = "devices"  # a suggested change that is no key of the config

BATCH_KEYS = (
    "generation.instructions.batch_size",
    "generation.responses.batch_size",
    "generation.judge.batch_size",
    "evaluation.batch_size",
    "tuning.micro_batch_tokens",
)

Values = Mapping[str, object]  # by key of the config, or NUM_DEVICES


def processes_here(launcher: Mapping[str, Any]) -> tuple[int, int]:
    """(processes of one stage, processes in total) on this machine; (0, 0) where stages are jobs of a cluster."""
    if str(launcher.get("_target_")).endswith("SlurmLauncher") or launcher.get("srun"):
        return 0, 0
    devices = int(launcher.get("devices", 1))
    return devices, devices * int(launcher.get("processes", 1))


def this_machine(processes: int = 1) -> Device:
    """This machine, its memory shared equally by `processes` if it has no GPU."""
    memory_bytes, is_gpu = memory_capacity(processes)
    return Device("this machine", memory_bytes, is_gpu, has_native_bf16(), 0.0 if is_gpu else PYTHON_BYTES)


def total_memory(config: Config, kind: str, device: Device, processes: int = 1) -> float:
    """Bytes that a kind of stage needs on one device."""
    return total_bytes(memory_by_part(config, kind, device, processes))


def fits_device(config: Config, kinds: Sequence[str], device: Device, processes: int = 1) -> bool:
    """Whether the device has enough memory for all of these kinds of stages."""
    return all(total_memory(config, kind, device, processes) <= device.memory_bytes for kind in kinds)


def suggest_changes(config: Config, kinds: Sequence[str], device: Device, processes: int = 1) -> tuple[str, ...]:
    """Overrides that make a config fit a device, none of them superfluous; none if no known values are enough."""

    def is_enough(values: Values) -> bool:
        changed, num_devices = with_values(config, values), _num_devices(values, processes)
        return _is_valid(changed, num_devices) and fits_device(changed, kinds, device, num_devices)

    values: Values = {}
    while not is_enough(values):
        step = _first_helpful_step(config, values, kinds, device, processes)
        if step is None:
            return ()
        values = {**values, **step}
    for key in [*values]:  # a later, larger change can make an earlier one unnecessary
        others = {name: value for name, value in values.items() if name != key}
        if is_enough(others):
            values = others
    return tuple(_override_text(key, value) for key, value in values.items())


def _first_helpful_step(
    config: Config, values: Values, kinds: Sequence[str], device: Device, processes: int
) -> Values | None:
    """The cheapest valid step that saves memory in a kind of stage that does not fit."""
    before = _memory_by_kind(config, values, kinds, device, processes)
    too_large = [kind for kind in kinds if before[kind] > device.memory_bytes]
    for step in _possible_steps(config, values, kinds, processes):
        changed = {**values, **step}
        if not _is_valid(with_values(config, changed), _num_devices(changed, processes)):
            continue
        after = _memory_by_kind(config, changed, kinds, device, processes)
        if any(after[kind] < MAX_RATIO * before[kind] for kind in too_large):
            return step
    return None


def _is_valid(config: Config, processes: int) -> bool:
    """Whether the validation accepts this strategy, base model and adapter together."""
    try:
        check_strategy_choice(config.strategy, config.model, config.lora, processes)
    except UserError:
        return False
    return True


def _memory_by_kind(
    config: Config, values: Values, kinds: Sequence[str], device: Device, processes: int
) -> dict[str, float]:
    changed, num_devices = with_values(config, values), _num_devices(values, processes)
    return {kind: total_memory(changed, kind, device, num_devices) for kind in kinds}


def _possible_steps(config: Config, values: Values, kinds: Sequence[str], processes: int) -> Iterator[Values]:
    """One step for each setting, the cheapest first: smaller batches only cost time; then 4 bits; then more devices."""
    current = with_values(config, values)
    yield from ({key: _get_int(current, key) // 2} for key in BATCH_KEYS if _get_int(current, key) > 1)
    yield {"tuning.activation_checkpointing": True}
    yield {"model.quantization": "nf4"}
    if current.tuning.max_length > MIN_LENGTH:
        yield {"tuning.max_length": current.tuning.max_length // 2}
    num_devices = 2 * _num_devices(values, processes)
    if "adapter" in kinds and num_devices <= MAX_DEVICES:
        yield {NUM_DEVICES: num_devices}


def with_values(config: Config, values: Values) -> Config:
    """A copy of the config with other values; a number of devices selects strategy=fsdp."""
    for key, value in values.items():
        if key != NUM_DEVICES:
            section, *names = key.split(".")
            config = replace(config, **{section: _replace_value(getattr(config, section), names, value)})
        else:
            config = replace(config, strategy=replace(config.strategy, name="fsdp"))
    return config


def _replace_value(section: Any, names: list[str], value: object) -> Any:
    inner = _replace_value(getattr(section, names[0]), names[1:], value) if names[1:] else value
    return replace(section, **{names[0]: inner})


def _get_int(config: Config, key: str) -> int:
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return int(value)


def _num_devices(values: Values, processes: int) -> int:
    return int(str(values.get(NUM_DEVICES, processes)))


def _override_text(key: str, value: object) -> str:
    if key == NUM_DEVICES:
        return f"strategy=fsdp on {value} devices"
    if key == "model.quantization":
        return f"quantization={value}"
    return f"{key}={str(value).lower() if isinstance(value, bool) else value}"


def check_devices(config: Config, kinds: Sequence[str] = STAGE_KINDS, processes: int = 1, neighbours: int = 1) -> None:
    """Check, before any work, that this machine has enough memory.

    Args:
        config: Of the run; toys fit every machine.
        kinds: Of the stages that will run here.
        processes: That tune one adapter.
        neighbours: Processes that share this machine's memory.

    Raises:
        UserError: what the run needs, what this machine has, what would make it fit.
    """
    device = this_machine(neighbours)
    if not is_allowed_on(config, kinds, device, processes):
        raise UserError(too_small_message(config, kinds, device, processes))


def is_allowed_on(config: Config, kinds: Sequence[str], device: Device, processes: int = 1) -> bool:
    """Whether a run may start on a device: it fits, is a toy, or the user skips the check."""
    return config.model.toy or config.force or fits_device(config, kinds, device, processes)


def check_stage_device(stage: Stage, processes: int, neighbours: int) -> None:
    """`check_devices` for one stage, called on the machine that runs it."""
    if (kind := RESOURCE_KIND[stage.name]) in STAGE_KINDS:
        check_devices(stage.config, (kind,), processes, neighbours)


def too_small_message(config: Config, kinds: Sequence[str], device: Device, processes: int = 1) -> str:
    """Why a run does not fit a device, and what to do, in one sentence."""
    kind = max(kinds, key=lambda name: total_memory(config, name, device, processes))
    parts = memory_by_part(config, kind, device, processes)
    largest = sorted(parts, key=lambda part: parts[part], reverse=True)[:2]
    largest_text = " and ".join(f"{parts[part] / GB:.1f} GB of {part}" for part in largest)
    capacity = f"{device.memory_bytes / GB:.0f} GB"
    capacity_text = f"its largest GPU has {capacity}" if device.is_gpu else f"it has {capacity} of memory and no GPU"
    changes = suggest_changes(config, kinds, device, processes)
    change_text = f"add {' '.join(changes)} to make it fit, or " if changes else ""
    return (
        f"model={config.model.name} needs about {total_bytes(parts) / GB:.0f} GB for the stage {kind} (including "
        f"{largest_text}), which this machine does not have: {capacity_text}; {change_text}use a larger machine, a "
        "smaller model (model=gemma-3-270m), a toy with random weights (model.toy=true), or skip this check with "
        "plan.force=true."
    )
