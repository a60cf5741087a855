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

CHECK_EVERY = 1000  # documents between two checks of the stop flag


def _identity(config: Config) -> dict[str, Any]:
    """The corpus by its contents; how many passages a prompt shows does not change the index."""
    values = {name: value for name, value in key_values(config.retrieval).items() if name not in ("name", "passages")}
    return {"retrieval": values, "corpus": corpus_identity(config.retrieval)}


@stage(version=2, sections=("retrieval",), identity=_identity)
def index(context: StageContext, *, retrieval: RetrievalConfig) -> dict[str, Any]:
    """The index's files.

    Raises:
        UserError: the corpus can't be read, or has no text.
    """
    documents = 0

    def watched() -> Iterator[tuple[str, str]]:
        nonlocal documents
        for document in read_corpus(retrieval):
            documents += 1
            yield document
            if documents % CHECK_EVERY == 0:
                step.advance(CHECK_EVERY)
                context.stop.raise_if_set()

    with context.progress.step(context.stage.label, retrieval.limit, "document") as step:
        passages = build_index(passages_of(watched(), retrieval.passage_words), context.output)
    if not passages:
        raise UserError(f"retrieval.corpus={retrieval.corpus} has no text; give another, or set retrieval=none.")
    return {"passages": passages, "documents": documents}
