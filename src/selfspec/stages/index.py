"""The stage `index`: a corpus as a BM25 index, which the stage `examples` searches for each task."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from selfspec.config.keys import key_values
from selfspec.config.schema import Config, RetrievalConfig
from selfspec.errors import UserError
from selfspec.retrieval.bm25 import build_index
from selfspec.retrieval.corpus import corpus_identity, passages_of, read_corpus
from selfspec.runtime.context import StageContext
from selfspec.runtime.stage import stage

STOP_CHECK_DOCUMENTS = 1000  # documents between two checks of the stop flag


def _identity(config: Config) -> dict[str, Any]:
    """The corpus by its contents; how many passages a prompt shows does not change the index."""
    values = {name: value for name, value in key_values(config.retrieval).items() if name not in ("name", "passages")}
    return {"retrieval": values, "corpus": corpus_identity(config.retrieval)}


@stage(version=2, sections=("retrieval",), identity=_identity)
def index(context: StageContext, *, retrieval: RetrievalConfig) -> dict[str, Any]:
    """Write the index's files; returns the numbers of documents and passages.

    Raises:
        UserError: the corpus can't be read, or has no text.
    """
    num_documents = 0

    def read_documents() -> Iterator[tuple[str, str]]:
        nonlocal num_documents
        for document in read_corpus(retrieval):
            num_documents += 1
            yield document
            if num_documents % STOP_CHECK_DOCUMENTS == 0:
                step.advance(STOP_CHECK_DOCUMENTS)
                context.stop.raise_if_set()

    with context.progress.step(context.stage.label, retrieval.limit, "document") as step:
        num_passages = build_index(passages_of(read_documents(), retrieval.passage_words), context.output)
    if not num_passages:
        raise UserError(f"retrieval.corpus={retrieval.corpus} has no text; give another, or set retrieval=none.")
    return {"passages": num_passages, "documents": num_documents}
