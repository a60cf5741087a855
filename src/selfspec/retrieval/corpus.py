"""A corpus: its documents, cut into passages, and what identifies it. Of any size, since it is read as a stream.

embedded:NAME        text that a Python package carries (see `embedded`)
a folder or file     .txt (one document), .jsonl, .jsonl.gz, .parquet (a document a row; see `files`)
anything else        a dataset of the hub (see `hub`)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from selfspec.config.schema import RetrievalConfig
from selfspec.errors import UserError
from selfspec.retrieval.embedded import CORPORA, embedded_identity, read_embedded
from selfspec.retrieval.files import READABLE, SUFFIXES, files_identity, read_text_files
from selfspec.retrieval.hub import SPLIT, read_hub_dataset
from selfspec.retrieval.passage import Passage

EMBEDDED = "embedded:"


_END = re.compile(r"[.!?]['\")\]’”»]*$")  # a word that may end a sentence


_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")


def read_corpus(config: RetrievalConfig) -> Iterator[tuple[str, str]]:
    """(id, text) of each document, in an order that only the corpus decides; at most `config.limit`.

    Raises:
        UserError: the corpus can't be had or read; the sentence says what to do.
    """
    return islice(_all(config), config.limit)


def split_into_passages(config: RetrievalConfig) -> Iterator[Passage]:
    """The corpus in pieces of at most `config.passage_words` words."""
    return passages_of(read_corpus(config), config.passage_words)


def passages_of(rows: Iterable[tuple[str, str]], words: int) -> Iterator[Passage]:
    """Documents in pieces of at most so many words; a short one is one piece and keeps its id, an empty one is none."""
    for name, text in rows:
        cuts = list(cut_at_sentences(text, words))
        for number, piece in enumerate(cuts, 1):
            yield Passage(name if len(cuts) == 1 else f"{name}#{number}", piece)


def cut_at_sentences(text: str, limit: int) -> Iterator[str]:
    """Pieces of at most `limit` words, cut at the last sentence end that fits, or between words where none does."""
    words = text.split()
    start = 0
    while start < len(words):
        end = min(start + limit, len(words))
        if end < len(words):
            end = next((place for place in range(end, start, -1) if _sentence_ends(words, place)), end)
        yield " ".join(words[start:end])
        start = end


def corpus_identity(config: RetrievalConfig) -> str | dict[str, Any]:
    """What the corpus is, for the key of a stage: no text is read, and no path of this machine is in it.

    Raises:
        UserError: there is no such package, path or name.
    """
    name = _name(config)
    if name.startswith(EMBEDDED):
        return embedded_identity(name.removeprefix(EMBEDDED))
    if path := _path(name):
        return files_identity(path)
    return {"hub": name, "config": config.config, "split": config.split or SPLIT, "revision": config.revision}


def _all(config: RetrievalConfig) -> Iterator[tuple[str, str]]:
    name, field = _name(config), config.text_field or "text"
    if name.startswith(EMBEDDED):
        return read_embedded(name.removeprefix(EMBEDDED))
    if path := _path(name):
        return read_text_files(path, field)
    return read_hub_dataset(name, config, field)


def _name(config: RetrievalConfig) -> str:
    if not config.corpus:
        raise UserError(
            f"retrieval={config.name} wants a corpus and retrieval.corpus is null (retrieval=bm25 takes the domain's "
            "own, if it names one); give a folder, a file or a dataset of the hub with retrieval.corpus=..., or set "
            "retrieval=none."
        )
    return config.corpus


def _path(name: str) -> Path | None:
    """The path that `name` is, or None when only the hub can know it."""
    path = Path(name).expanduser()
    if path.exists():
        return path
    if not _HUB_NAME.fullmatch(name) or name.endswith(SUFFIXES):
        raise UserError(
            f"retrieval.corpus={name} does not exist; give a folder or file of {READABLE}, a dataset of the hub, "
            f"or one of {', '.join(EMBEDDED + known for known in CORPORA)}."
        )
    return None


def _sentence_ends(words: list[str], place: int) -> bool:
    """Whether a sentence ends before `words[place]` (after `e.g.` the next word is in lower case)."""
    return bool(_END.search(words[place - 1])) and not words[place][0].islower()
