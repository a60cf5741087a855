"""Which devices a run fits, what would make it fit, and the refusal of what this machine can't hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from selfspec.config.schema import Config
from selfspec.errors import UserError
from selfspec.planning.memory import total_bytes
from selfspec.planning.stage_memory import KIND_OF_STAGE, STAGE_KINDS, Device, memory_by_part
from selfspec.runtime.machine import has_native_bf16, memory_capacity
from selfspec.runtime.stage import Stage
from selfspec.tuning.strategies.limits import check_strategy_choice

GB = 1e9


PYTHON_BYTES = 0.6 * GB  # torch, Lightning and transformers, imported, where the model lies in the machine's own memory


KNOWN_DEVICES = (
    Device("H100, A100 80 GB", 80 * GB, True),
    Device("L40S 48 GB", 48 * GB, True),
    Device("A100 40 GB", 40 * GB, True),
    Device("RTX 4090, A10 24 GB", 24 * GB, True),
)


MAX_DEVICES, MIN_LENGTH, MIN_IMPROVEMENT = (
    64,
    256,
    0.99,
)  # devices that are tried; the least length; a step gains at least a hundredth


DEVICES = "devices"  # beside the keys of the config


BATCH_KEYS = (
    "generation.instructions.batch_size",
    "generation.responses.batch_size",
    "generation.judge.batch_size",
    "evaluation.batch_size",
    "tuning.micro_batch_tokens",
)


Values = Mapping[str, object]


def processes_here(launcher: Mapping[str, Any]) -> tuple[int, int]:
    """(processes of a stage, processes in all) on this machine; none where stages are jobs of a cluster."""
    if str(launcher.get("_target_")).endswith("SlurmLauncher") or launcher.get("srun"):
        return 0, 0
    sharing = int(launcher.get("devices", 1))
    return sharing, sharing * int(launcher.get("processes", 1))


def this_machine(processes: int = 1) -> Device:
    """What one of `processes` on this machine has."""
    size, gpu = memory_capacity(processes)
    return Device("this machine", size, gpu, has_native_bf16(), 0.0 if gpu else PYTHON_BYTES)


def total_memory(config: Config, kind: str, device: Device, processes: int = 1) -> float:
    """Bytes that a kind of stage takes of a device."""
    return total_bytes(memory_by_part(config, kind, device, processes))


def fits_device(config: Config, kinds: Sequence[str], device: Device, processes: int = 1) -> bool:
    """Whether a device can hold all of these kinds of stages."""
    return all(total_memory(config, kind, device, processes) <= device.size for kind in kinds)


def suggest_changes(config: Config, kinds: Sequence[str], device: Device, processes: int = 1) -> tuple[str, ...]:
    """What to type so that it fits, no more of it than is needed; nothing if no value that is known here will do."""

    def enough(values: Values) -> bool:
        other, several = with_values(config, values), _devices(values, processes)
        return _is_allowed(other, several) and fits_device(other, kinds, device, several)

    taken: Values = {}
    while not enough(taken):
        before = _sizes(config, taken, kinds, device, processes)
        for step in _steps(config, taken, kinds, processes):
            if not _is_allowed(with_values(config, {**taken, **step}), _devices({**taken, **step}, processes)):
                continue
            after = _sizes(config, {**taken, **step}, kinds, device, processes)
            if any(after[kind] < MIN_IMPROVEMENT * before[kind] for kind in kinds if before[kind] > device.size):
                taken = {**taken, **step}
                break
        else:
            return ()
    for key in [*taken]:  # what only helped before something larger did
        rest = {name: value for name, value in taken.items() if name != key}
        if enough(rest):
            taken = rest
    return tuple(_typed(key, value) for key, value in taken.items())


def _is_allowed(config: Config, processes: int) -> bool:
    """Whether the door would let this strategy, base and adapter in together."""
    try:
        check_strategy_choice(config.strategy, config.model, config.lora, processes)
    except UserError:
        return False
    return True


def _sizes(config: Config, values: Values, kinds: Sequence[str], device: Device, processes: int) -> dict[str, float]:
    other, several = with_values(config, values), _devices(values, processes)
    return {kind: total_memory(other, kind, device, several) for kind in kinds}


def _steps(config: Config, taken: Values, kinds: Sequence[str], processes: int) -> Iterator[Values]:
    """One step in each direction, the cheapest first: batches, which only cost time, then 4 bits, then more devices."""
    now = with_values(config, taken)
    yield from ({key: _get(now, key) // 2} for key in BATCH_KEYS if _get(now, key) > 1)
    yield {"tuning.activation_checkpointing": True}
    yield {"model.quantization": "nf4"}
    if now.tuning.max_length > MIN_LENGTH:
        yield {"tuning.max_length": now.tuning.max_length // 2}
    several = 2 * _devices(taken, processes)
    if "adapter" in kinds and several <= MAX_DEVICES:
        yield {DEVICES: several}


def with_values(config: Config, values: Values) -> Config:
    """The config with other values, by their keys."""
    for key, value in values.items():
        if key != DEVICES:
            section, *rest = key.split(".")
            config = replace(config, **{section: _put(getattr(config, section), rest, value)})
        else:
            config = replace(config, strategy=replace(config.strategy, name="fsdp"))
    return config


def _put(section: Any, names: list[str], value: object) -> Any:
    inner = _put(getattr(section, names[0]), names[1:], value) if names[1:] else value
    return replace(section, **{names[0]: inner})


def _get(config: Config, key: str) -> int:
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return int(value)


def _devices(values: Values, processes: int) -> int:
    return int(str(values.get(DEVICES, processes)))


def _typed(key: str, value: object) -> str:
    if key == DEVICES:
        return f"strategy=fsdp on {value} devices"
    if key == "model.quantization":
        return f"quantization={value}"
    return f"{key}={str(value).lower() if isinstance(value, bool) else value}"


def check_devices(config: Config, kinds: Sequence[str] = STAGE_KINDS, processes: int = 1, neighbours: int = 1) -> None:
    """Refuse, before any work, what this machine can't hold.

    Args:
        config: Of the run; toys fit everywhere.
        kinds: Of stages that shall run here.
        processes: That share an adapter.
        neighbours: Processes that this machine's memory is shared by.

    Raises:
        UserError: what the run needs, what this machine has, what would make it fit.
    """
    device = this_machine(neighbours)
    if not runs_on(config, kinds, device, processes):
        raise UserError(refusal(config, kinds, device, processes))


def runs_on(config: Config, kinds: Sequence[str], device: Device, processes: int = 1) -> bool:
    """Whether a run is let in on a device."""
    return config.model.toy or config.force or fits_device(config, kinds, device, processes)


def check_stage_device(stage: Stage, processes: int, neighbours: int) -> None:
    """The same for one stage, on the machine that runs it."""
    if kind := KIND_OF_STAGE.get(stage.name, stage.name):
        check_devices(stage.config, (kind,), processes, neighbours)


def refusal(config: Config, kinds: Sequence[str], device: Device, processes: int = 1) -> str:
    """Why a device can't hold a run, in one sentence."""
    kind = max(kinds, key=lambda name: total_memory(config, name, device, processes))
    parts = memory_by_part(config, kind, device, processes)
    largest = sorted(parts, key=lambda part: parts[part], reverse=True)[:2]
    told = " and ".join(f"{parts[part] / GB:.1f} GB of {part}" for part in largest)
    has = f"its largest GPU has {device.size / GB:.0f} GB" if device.gpu else (
        f"it has {device.size / GB:.0f} GB of memory and no GPU"
    )  # fmt: skip
    found = suggest_changes(config, kinds, device, processes)
    typed = f"it would fit with {' '.join(found)}; else " if found else ""
    return (
        f"model={config.model.name} needs about {total_bytes(parts) / GB:.0f} GB for the stage {kind} (among them "
        f"{told}) and this machine can't hold it: {has}; {typed}run it on a larger one, choose a smaller model "
        "(model=gemma-3-270m), try the whole way with model.toy=true, or go on all the same with plan.force=true."
    )
