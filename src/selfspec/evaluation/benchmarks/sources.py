"""Rows of a public set: from a local copy as it was published, or from the hub. No loading script is ever run."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
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


_SPLIT = re.compile(r"(.+?)(?:\[(\d*):(\d*)\])?")


READABLE = (".parquet", ".jsonl", ".json", ".csv", ".tsv", ".xml")


SAVED = ("dataset_dict.json", "state.json")  # what marks a folder that `save_to_disk` wrote


class SourceMissing(UserError):
    """A set that is not at hand: the message says how to get it."""


class SplitMissing(UserError):
    """A set that is at hand, without the split."""


def source_identity(name: str, config: BenchmarkConfig) -> str:
    """What the rows are, wherever they lie: the files' sha256, or the hub's repository and revision."""
    if config.path:
        path = _local_path(name, config)
        files = (
            [path] if path.is_file() else [file for file in list_files(path) if file.suffix in (*READABLE, ".arrow")]
        )
        stamps = [(file, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        return f"files:{_hash(path, tuple(stamps))}"
    return f"{config.hub}@{config.revision or 'main'}"


def read_split(name: str, config: BenchmarkConfig, split: str) -> Iterator[Row]:
    """The rows of a split, those that `where` wants.

    Raises:
        Missing: neither a local copy nor the hub has the set.
        NoSplit: the set has no such split.
        UserError: a file of the local copy can't be read.
    """
    match = _SPLIT.fullmatch(split)
    wanted, begin, end = match.groups() if match else (split, None, None)
    found = _local(name, config, wanted, whole=split == config.split or begin is not None) if config.path else None
    rows = _hub(name, config, wanted) if found is None else found
    rows = islice(rows, int(begin or 0), int(end) if end else None)
    field, _, value = (config.where or "").partition("=")
    return (row for row in rows if not field or str(row.get(field)) == value)


@lru_cache(maxsize=64)  # the jobs of a sweep read the same sets; a file written again has another stamp
def _hash(root: Path, stamps: tuple[tuple[Path, int, int], ...]) -> str:
    found = hashlib.sha256()
    for file, _, _ in stamps:
        found.update(f"{file.relative_to(root)} {file_hash(file)}\n".encode())
    return found.hexdigest()


def _local_path(name: str, config: BenchmarkConfig) -> Path:
    path = Path(str(config.path)).expanduser()
    if not path.exists():
        raise UserError(f"evaluation.sets.{name}.path={path} does not exist; give the set's folder or file.")
    return path


def _local(name: str, config: BenchmarkConfig, split: str, whole: bool) -> Iterator[Row]:
    """Rows of a local copy. A single file, and a saved dataset without splits, are the `whole` of one split."""
    path = _local_path(name, config)
    if path.is_dir() and any((path / mark).exists() for mark in SAVED):
        return _saved(name, path, split, whole)
    if path.is_file():
        if not whole:
            raise SplitMissing(f"{path} of the set {name} is one file, without a split '{split}'.")
        return _file(name, path, config.form)
    files = [file for file in list_files(path) if file.suffix in READABLE]
    mine = [file for file in files if _is_of(file.relative_to(path), split)]
    if not mine:
        seen = ", ".join(str(file.relative_to(path)) for file in files[:8]) or "no file that can be read"
        raise SplitMissing(
            f"{path} of the set {name} has no file or folder named '{split}' ({seen}); name or rename one, or give "
            f"another pattern with evaluation.sets.{name}.split=...."
        )
    return (row for file in mine for row in _file(name, file, config.form))


def _is_of(file: Path, split: str) -> bool:
    """Whether a file's own name, or that of a folder it lies in, is the split's (`test`, `test-00000-of-00001`)."""
    parts = [part.casefold() for part in file.with_suffix("").parts]
    return any(fnmatch(part, pattern) for part in parts for pattern in (split.casefold(), f"{split.casefold()}-*"))


def _saved(name: str, path: Path, split: str, whole: bool) -> Iterator[Row]:
    import datasets

    found = datasets.load_from_disk(str(path))
    if isinstance(found, datasets.DatasetDict):
        if split not in found:
            raise SplitMissing(f"{path} of the set {name} has no split '{split}'; it has {', '.join(found)}.")
        found = found[split]
    elif not whole:
        raise SplitMissing(f"{path} of the set {name} has no splits, so no '{split}'.")
    return _decoded(found, found.features)


def _hub(name: str, config: BenchmarkConfig, split: str) -> Iterator[Row]:
    """Rows of a hub dataset: from the hub's cache, or downloaded into it."""
    remedy = f"{config.get}; then give evaluation.sets.{name}.path=..."
    if not config.hub:
        raise SourceMissing(f"The set {name} ({config.licence}) must be fetched by hand: {remedy}.")
    import datasets

    try:
        found = datasets.load_dataset(
            config.hub, config.config, data_dir=config.folder, split=split, revision=config.revision
        )
    except Exception as error:  # of the hub's transport, whose errors change with its version
        kind = type(error).__name__
        raise SourceMissing(
            f"The set {name} ({config.licence}) can't be loaded from {config.hub} ({kind}): {remedy}."
        ) from (error)
    return _decoded(found, found.features)


def _decoded(rows: Iterable[Row], features: Mapping[str, Any]) -> Iterator[Row]:
    """Rows with the names of their class labels in place of numbers."""
    inner = {column: getattr(feature, "feature", feature) for column, feature in features.items()}
    names = {column: feature.names for column, feature in inner.items() if type(feature).__name__ == "ClassLabel"}
    for row in rows:
        yield {column: _named(value, names[column]) if column in names else value for column, value in row.items()}


def _named(value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, list):
        return [_named(item, names) for item in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else value


def _file(name: str, path: Path, form: str) -> Iterator[Row]:
    """Rows of one file, with complaints that name it."""
    tables = {".parquet": _parquet, ".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".tsv": _csv, ".xml": _pairs}
    reader = _tagged if form == "tags" and path.suffix == ".tsv" else tables.get(path.suffix)
    if reader is None:
        raise UserError(f"{path} of the set {name} can't be read; known are {', '.join(READABLE)}.")
    try:
        yield from reader(path)
    except (OSError, ValueError, csv.Error, ElementTree.ParseError) as error:
        raise UserError(f"{path} of the set {name} can't be read as {path.suffix} ({error}).") from None


def _parquet(path: Path) -> Iterator[Row]:
    import datasets
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    return _decoded(table.to_pylist(), datasets.Features.from_arrow_schema(table.schema))


def _jsonl(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as lines:
        yield from (json.loads(line) for line in lines if line.strip())


def _json(path: Path) -> Iterator[Row]:
    """A list of rows; an object with such a list (BioASQ); or an object of rows by id (PubMedQA)."""
    found = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(found, dict):
        lists = [value for value in found.values() if isinstance(value, list)]
        found = lists[0] if lists else [{"id": key, **row} for key, row in found.items()]
    yield from found


def _csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")


def _tagged(path: Path) -> Iterator[Row]:
    """A token and its tag a line, a blank line behind each sentence."""
    for sentence in re.split(r"\n\s*\n", path.read_text(encoding="utf-8")):
        lines = [line.split("\t") for line in sentence.splitlines() if line.strip()]
        if lines:
            yield {"tokens": [line[0] for line in lines], "ner_tags": [line[-1].strip() for line in lines]}


def _pairs(path: Path) -> Iterator[Row]:
    """Pairs of drugs in the DDI corpus's XML, each with its sentence."""
    for sentence in ElementTree.parse(path).iter("sentence"):
        drugs = {entity.get("id"): entity.get("text") for entity in sentence.iter("entity")}
        for pair in sentence.iter("pair"):
            names = {"drug1": drugs.get(pair.get("e1")), "drug2": drugs.get(pair.get("e2"))}
            yield {**pair.attrib, "sentence": sentence.get("text"), **names}
