"""The finished outputs of a store, as `selfspec store ls` shows them: their settings, size, date and runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from selfspec.data.jsonl import read_object
from selfspec.generation.pools import pool_keys
from selfspec.runtime.store_maintenance import list_outputs, read_manifest

ALWAYS_SHOWN = ("data_size.examples", "lora.r")
HIDDEN = ("domain.name", "evaluation.domain", "domain.tasks", "domain.topics", "domain.role", "weights", "round")
MODEL_SETTINGS = ("model.toy", "model.quantization", "model.prompt")  # the model's other values go with its name
MAX_VALUE_LENGTH = 24  # characters
RUN_FOLDERS = ("outputs/*/*/stages.json", "multirun/*/*/*/stages.json")  # beside the store


@dataclass(frozen=True)
class StoredOutput:
    """One finished output, or all blocks of a pool."""

    stage: str
    label: str
    key: str
    domain: str
    model: str
    settings: Mapping[str, Any]  # by dotted key: sizes, and what differs between outputs of this label
    num_bytes: int
    date: str
    runs: tuple[str, ...]  # folders of the runs that use it


def read_outputs(root: Path) -> list[StoredOutput]:
    """All finished outputs of the store at `root`; the blocks of a pool are one entry.

    Raises:
        UserError: `root` is not a store.
    """
    folders: dict[tuple[str, str], list[Path]] = {}
    for folder in list_outputs(root):
        folders.setdefault((folder.parent.name, folder.name.split("-")[0]), []).append(folder)
    manifests = {key: read_manifest(paths[0]) for (_, key), paths in folders.items()}
    values = {key: _settings(key, manifests) for key in manifests}
    runs = _runs_by_key(root, manifests)
    readers = {key: users[0] for key, users in _pool_readers(manifests).items()}
    outputs = []
    for (stage, key), paths in folders.items():
        source = key if manifests[key].get("values") else readers.get(key, key)
        settings = values[source]
        if source != key:  # data of all sizes draw from the same pool
            settings = {name: value for name, value in settings.items() if name != "data_size.examples"}
        outputs.append(_stored_output(stage, key, paths, manifests[source], settings, runs.get(key, ())))
    return _with_differing_settings(sorted(outputs, key=lambda output: (output.stage, output.date)))


def outputs_table(outputs: Sequence[StoredOutput]) -> Table:
    """The table of `selfspec store ls`."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for head in ("stage", "domain", "model", "settings", "size", "date", "runs", "key"):
        table.add_column(head, justify="right" if head == "size" else "left", overflow="fold")
    for output in outputs:
        settings = " ".join(f"{key}={_short(value)}" for key, value in output.settings.items())
        size, runs = size_text(output.num_bytes), "\n".join(output.runs)
        name = output.label or output.stage
        cells = (name, output.domain, output.model, settings, size, output.date, runs, output.key[:8])
        table.add_row(*map(Text, cells))
    return table


def outputs_json(outputs: Sequence[StoredOutput]) -> str:
    """The same as JSON, with whole keys and values."""
    return json.dumps([asdict(output) for output in outputs], indent=1, ensure_ascii=False)


def size_text(num_bytes: int) -> str:
    """`1.5 MB`."""
    amount, unit = float(num_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if amount < 1000:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"


def _settings(key: str, manifests: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The values in an output's key and, since it depends on them too, in the keys of its inputs."""
    manifest = manifests.get(key, {})
    inherited = [_settings(parent, manifests) for parent in manifest.get("inputs", {}).values()]
    own = dict(_flatten(manifest.get("values", {})))
    return {name: value for values in (*inherited, own) for name, value in values.items()}


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _stored_output(
    stage: str, key: str, paths: Sequence[Path], manifest: Mapping[str, Any], values: Mapping[str, Any], runs: Any
) -> StoredOutput:
    domains = [values.get("domain.name"), values.get("evaluation.domain.name")]
    modified = max((path / "manifest.json").stat().st_mtime for path in paths)
    return StoredOutput(
        stage=stage,
        label=manifest.get("label", "") if manifest.get("key") == key else "",
        key=key,
        domain=", ".join(dict.fromkeys(filter(None, domains))),
        model=str(manifest.get("model") or values["weights"]) if "weights" in values else "",  # an index has none
        settings=values,
        num_bytes=sum(file.stat().st_size for path in paths for file in path.rglob("*") if file.is_file()),
        date=datetime.fromtimestamp(modified).strftime("%Y-%m-%d %H:%M"),
        runs=tuple(runs),
    )


def _with_differing_settings(outputs: Sequence[StoredOutput]) -> list[StoredOutput]:
    """The outputs, each with its sizes and those settings in which outputs of its stage and label differ."""
    groups: dict[tuple[str, str], list[StoredOutput]] = {}
    for output in outputs:
        groups.setdefault((output.stage, output.label), []).append(output)
    shown = {name: {*ALWAYS_SHOWN} | _differing_settings(group) for name, group in groups.items()}
    return [replace(output, settings=_only(output.settings, shown[output.stage, output.label])) for output in outputs]


def _differing_settings(outputs: Sequence[StoredOutput]) -> set[str]:
    names = {name for output in outputs for name in output.settings if _can_be_shown(name)}
    return {name for name in names if len({repr(output.settings.get(name)) for output in outputs}) > 1}


def _can_be_shown(name: str) -> bool:
    return not name.startswith(HIDDEN) and (not name.startswith("model.") or name in MODEL_SETTINGS)


def _only(settings: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    ordered = [*ALWAYS_SHOWN, *(name for name in settings if name not in ALWAYS_SHOWN)]
    return {name: settings[name] for name in ordered if name in names and name in settings}


def _pool_readers(manifests: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Keys of the outputs that drew from a pool, by the pool's key."""
    readers: dict[str, list[str]] = {}
    for key, manifest in manifests.items():
        if manifest.get("stage") in ("examples", "round_examples"):
            for pool in pool_keys(manifest["values"], manifest["inputs"]).values():
                readers.setdefault(pool, []).append(key)
    return readers


def _runs_by_key(root: Path, manifests: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Folders of the runs that use an output, by its key; a pool is used by the runs of its examples."""
    runs: dict[str, list[str]] = {}
    for path in sorted(file for pattern in RUN_FOLDERS for file in root.absolute().parent.glob(pattern)):
        for output in read_object(path).values():
            runs.setdefault(str(output).split("/")[-1], []).append(str(path.parent.relative_to(root.absolute().parent)))
    for pool, keys in _pool_readers(manifests).items():
        runs[pool] = list(dict.fromkeys(run for key in keys for run in runs.get(key, ())))
    return runs


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= MAX_VALUE_LENGTH else f"{text[: MAX_VALUE_LENGTH - 1]}…"
