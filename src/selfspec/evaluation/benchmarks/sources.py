"""Rows of a public set, from a local copy as it was published or from the hub. No loading script is run."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from selfspec.config.hashing import file_hash
from selfspec.config.schema import BenchmarkConfig
from selfspec.errors import UserError
from selfspec.runtime.files import list_files

Row = dict[str, Any]
_SPLIT = re.compile(r"(.+?)(?:\[(\d*):(\d*)\])?")  # name, or name[begin:end]
READABLE_SUFFIXES = (".parquet", ".jsonl", ".json", ".csv", ".tsv", ".xml")
SAVED_DATASET_FILES = ("dataset_dict.json", "state.json")  # in a folder that `save_to_disk` wrote


class SourceMissing(UserError):
    """A set is not available; the message says how to get it."""


class SplitMissing(UserError):
    """A set is available, but has no such split."""


def source_identity(name: str, config: BenchmarkConfig) -> str:
    """What identifies the rows, without a local path: the files' sha256, or the hub's repository and revision."""
    if config.path:
        path = _local_path(name, config)
        files = (
            [path]
            if path.is_file()
            else [file for file in list_files(path) if file.suffix in (*READABLE_SUFFIXES, ".arrow")]
        )
        stamps = [(file, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        return f"files:{_hash_files(path, tuple(stamps))}"
    return f"{config.hub}@{config.revision or 'main'}"


def read_split(name: str, config: BenchmarkConfig, split: str) -> Iterator[Row]:
    """The rows of a split that fulfil `config.where`.

    Raises:
        SourceMissing: neither a local copy nor the hub has the set.
        SplitMissing: the set has no such split.
        UserError: a file of the local copy can't be read.
    """
    match = _SPLIT.fullmatch(split)
    split_name, begin, end = match.groups() if match else (split, None, None)
    if config.path:
        rows = _read_local(name, config, split_name, allow_single=split == config.split or begin is not None)
    else:
        rows = _read_hub(name, config, split_name)
    rows = islice(rows, int(begin or 0), int(end) if end else None)
    field, _, value = (config.where or "").partition("=")
    return (row for row in rows if not field or str(row.get(field)) == value)


@lru_cache(maxsize=64)  # the jobs of a sweep read the same sets; size and time change when a file is rewritten
def _hash_files(root: Path, stamps: tuple[tuple[Path, int, int], ...]) -> str:
    total = hashlib.sha256()
    for file, _, _ in stamps:
        total.update(f"{file.relative_to(root)} {file_hash(file)}\n".encode())
    return total.hexdigest()


def _local_path(name: str, config: BenchmarkConfig) -> Path:
    path = Path(str(config.path)).expanduser()
    if not path.exists():
        raise UserError(f"evaluation.sets.{name}.path={path} does not exist; give the set's folder or file.")
    return path


def _read_local(name: str, config: BenchmarkConfig, split: str, allow_single: bool) -> Iterator[Row]:
    """Rows of a local copy.

    Args:
        name: The set.
        config: Its YAML, with a path.
        split: Name or pattern of the split.
        allow_single: Whether a copy without splits (one file, or one saved dataset) may be read as this split.
    """
    path = _local_path(name, config)
    if path.is_dir() and any((path / file).exists() for file in SAVED_DATASET_FILES):
        return _read_saved(name, path, split, allow_single)
    if path.is_file():
        if not allow_single:
            raise SplitMissing(f"{path} of the set {name} is one file, without a split '{split}'.")
        return _read_file(name, path, config.form)
    files = [file for file in list_files(path) if file.suffix in READABLE_SUFFIXES]
    matches = [file for file in files if _is_in_split(file.relative_to(path), split)]
    if not matches:
        available = ", ".join(str(file.relative_to(path)) for file in files[:8]) or "no file that can be read"
        raise SplitMissing(
            f"{path} of the set {name} has no file or folder named '{split}' ({available}); name or rename one, or "
            f"give another pattern with evaluation.sets.{name}.split=...."
        )
    return (row for file in matches for row in _read_file(name, file, config.form))


def _is_in_split(file: Path, split: str) -> bool:
    """Whether the name of a file or of a folder above it matches the split (`test`, `test-00000-of-00001`)."""
    parts = [part.casefold() for part in file.with_suffix("").parts]
    return any(fnmatch(part, pattern) for part in parts for pattern in (split.casefold(), f"{split.casefold()}-*"))


def _read_saved(name: str, path: Path, split: str, allow_single: bool) -> Iterator[Row]:
    """Rows of a folder that `save_to_disk` wrote."""
    import datasets

    dataset = datasets.load_from_disk(str(path))
    if isinstance(dataset, datasets.DatasetDict):
        if split not in dataset:
            raise SplitMissing(f"{path} of the set {name} has no split '{split}'; it has {', '.join(dataset)}.")
        dataset = dataset[split]
    elif not allow_single:
        raise SplitMissing(f"{path} of the set {name} has no splits, so no '{split}'.")
    return _decode_labels(dataset, dataset.features)


def _read_hub(name: str, config: BenchmarkConfig, split: str) -> Iterator[Row]:
    """Rows of a hub dataset, which is downloaded into the hub's cache if it is not there."""
    how_to_get = f"{config.get}; then give evaluation.sets.{name}.path=..."
    if not config.hub:
        raise SourceMissing(f"The set {name} ({config.licence}) must be fetched by hand: {how_to_get}.")
    import datasets

    try:
        dataset = datasets.load_dataset(
            config.hub, config.config, data_dir=config.folder, split=split, revision=config.revision
        )
    except Exception as error:  # the hub's errors of transport change with its version
        if str(error).startswith("Unknown split"):
            raise SplitMissing(f"{config.hub} of the set {name} has no split '{split}' ({error}).") from None
        kind = type(error).__name__
        raise SourceMissing(
            f"The set {name} ({config.licence}) can't be loaded from {config.hub} ({kind}): {how_to_get}."
        ) from error
    return _decode_labels(dataset, dataset.features)


def _decode_labels(rows: Iterable[Row], features: Mapping[str, Any]) -> Iterator[Row]:
    """Rows with class labels as names instead of numbers."""
    inner = {column: getattr(feature, "feature", feature) for column, feature in features.items()}
    names = {column: feature.names for column, feature in inner.items() if type(feature).__name__ == "ClassLabel"}
    for row in rows:
        yield {column: _label_name(value, names[column]) if column in names else value for column, value in row.items()}


def _label_name(value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, list):
        return [_label_name(item, names) for item in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else value


def _read_file(name: str, path: Path, form: str) -> Iterator[Row]:
    """Rows of one file; errors name it."""
    reader = _read_tagged_tsv if form == "tags" and path.suffix == ".tsv" else _READERS.get(path.suffix)
    if reader is None:
        raise UserError(f"{path} of the set {name} can't be read; known are {', '.join(READABLE_SUFFIXES)}.")
    try:
        yield from reader(path)
    except (OSError, ValueError, csv.Error, ElementTree.ParseError) as error:
        raise UserError(f"{path} of the set {name} can't be read as {path.suffix} ({error}).") from None


def _read_parquet(path: Path) -> Iterator[Row]:
    import datasets
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    return _decode_labels(table.to_pylist(), datasets.Features.from_arrow_schema(table.schema))


def _read_jsonl(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as lines:
        yield from (json.loads(line) for line in lines if line.strip())


def _read_json(path: Path) -> Iterator[Row]:
    """Rows of a list, of the first list inside an object (BioASQ), or of an object by id (PubMedQA)."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list)]
        content = lists[0] if lists else [{"id": key, **row} for key, row in content.items()]
    yield from content


def _read_csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")


def _read_tagged_tsv(path: Path) -> Iterator[Row]:
    """Sentences of one token and its tag a line, separated with blank lines."""
    for sentence in re.split(r"\n\s*\n", path.read_text(encoding="utf-8")):
        lines = [line.split("\t") for line in sentence.splitlines() if line.strip()]
        if lines:
            yield {"tokens": [line[0] for line in lines], "ner_tags": [line[-1].strip() for line in lines]}


def _read_ddi_xml(path: Path) -> Iterator[Row]:
    """Pairs of drugs in the XML of the DDI corpus, each with its sentence."""
    for sentence in ElementTree.parse(path).iter("sentence"):
        drugs = {entity.get("id"): entity.get("text") for entity in sentence.iter("entity")}
        for pair in sentence.iter("pair"):
            names = {"drug1": drugs.get(pair.get("e1")), "drug2": drugs.get(pair.get("e2"))}
            yield {**pair.attrib, "sentence": sentence.get("text"), **names}


_READERS: Mapping[str, Callable[[Path], Iterator[Row]]] = {
    ".parquet": _read_parquet,
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".xml": _read_ddi_xml,
}
