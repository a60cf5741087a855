"""A corpus: its documents, cut into passages, and its identity. It is read as a stream, so it can have any size.

`retrieval.corpus` is one of
    embedded:NAME        text that a Python package contains (see `embedded`)
    a folder or file     .txt (one document), .jsonl, .jsonl.gz, .parquet (a document a row; see `files`)
    another name         a dataset of the hub (see `hub`)
    {_target_: ...}      an iterable of the user's own, over (id, text) of each document
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from selfspec.config.keys import key_values
from selfspec.config.schema import RetrievalConfig
from selfspec.config.targets import build_target, find_target
from selfspec.errors import UserError
from selfspec.retrieval.embedded import CORPORA, embedded_identity, read_embedded
from selfspec.retrieval.files import READABLE, SUFFIXES, files_identity, read_text_files
from selfspec.retrieval.hub import SPLIT, read_hub_dataset
from selfspec.retrieval.passage import Passage

EMBEDDED = "embedded:"
_SENTENCE_END = re.compile(r"[.!?]['\")\]’”»]*$")  # of a word
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")


def read_corpus(config: RetrievalConfig) -> Iterator[tuple[str, str]]:
    """(id, text) of each document, at most `config.limit`, in an order that depends on the corpus alone.

    Raises:
        UserError: the corpus can't be found or read.
    """
    return islice(_read_all(config), config.limit)


def split_into_passages(config: RetrievalConfig) -> Iterator[Passage]:
    """The corpus in passages of at most `config.passage_words` words."""
    return passages_of(read_corpus(config), config.passage_words)


def passages_of(rows: Iterable[tuple[str, str]], words: int) -> Iterator[Passage]:
    """Cut documents into passages.

    A document that fits into one passage keeps its id; the passages of a longer one are numbered. An empty document
    has no passage.

    Args:
        rows: (id, text) of each document.
        words: The most words of a passage.
    """
    for name, text in rows:
        pieces = list(cut_at_sentences(text, words))
        for number, piece in enumerate(pieces, 1):
            yield Passage(name if len(pieces) == 1 else f"{name}#{number}", piece)


def cut_at_sentences(text: str, limit: int) -> Iterator[str]:
    """Pieces of at most `limit` words, cut after the last sentence that fits, or between words if none does."""
    words = text.split()
    start = 0
    while start < len(words):
        end = min(start + limit, len(words))
        if end < len(words):
            end = next((place for place in range(end, start, -1) if _sentence_ends(words, place)), end)
        yield " ".join(words[start:end])
        start = end


def corpus_identity(config: RetrievalConfig) -> str | dict[str, Any]:
    """What identifies the corpus in the key of a stage: no text is read, and no local path is part of it.

    Raises:
        UserError: there is no such package, path, name or target.
    """
    corpus = _require_corpus(config)
    if isinstance(corpus, Mapping):
        find_target("retrieval.corpus", corpus)
        return dict(key_values(dict(corpus)))
    if corpus.startswith(EMBEDDED):
        return embedded_identity(corpus.removeprefix(EMBEDDED))
    if path := _local_path(corpus):
        return files_identity(path)
    return {"hub": corpus, "config": config.config, "split": config.split or SPLIT, "revision": config.revision}


def _read_all(config: RetrievalConfig) -> Iterator[tuple[str, str]]:
    corpus, field = _require_corpus(config), config.text_field or "text"
    if isinstance(corpus, Mapping):
        return _read_custom(corpus)
    if corpus.startswith(EMBEDDED):
        return read_embedded(corpus.removeprefix(EMBEDDED))
    if path := _local_path(corpus):
        return read_text_files(path, field)
    return read_hub_dataset(corpus, config, field)


def _read_custom(spec: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The documents of a user's corpus, whose types are checked."""
    corpus = build_target("retrieval.corpus", spec)
    if not isinstance(corpus, Iterable):
        raise UserError(f"retrieval.corpus: {spec['_target_']} can't be iterated; write __iter__ over (id, text).")
    for document in corpus:
        match document:
            case (str(name), str(text)):
                yield name, text
            case _:
                raise UserError(f"retrieval.corpus: {spec['_target_']} gave {document!r:.80}, not (id, text).")


def _require_corpus(config: RetrievalConfig) -> str | dict[str, Any]:
    if not config.corpus:
        raise UserError(
            f"retrieval={config.name} needs a corpus and retrieval.corpus is null (retrieval=bm25 takes the domain's "
            "own, if it names one); give a folder, a file or a dataset of the hub with retrieval.corpus=..., or set "
            "retrieval=none."
        )
    return config.corpus


def _local_path(name: str) -> Path | None:
    """The existing path that `name` is, or None if it may be a dataset of the hub."""
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
    """Whether a sentence ends before `words[place]`; the word after `e.g.` is in lower case."""
    return bool(_SENTENCE_END.search(words[place - 1])) and not words[place][0].islower()
