"""The stage `index`: a corpus as a BM25 index, which the stage `examples` searches for each task."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from selfspec.config.schema import RetrievalConfig
from selfspec.errors import UserError
from selfspec.retrieval.bm25 import build_index
from selfspec.retrieval.corpus import passages_of, read_corpus
from selfspec.runtime.context import StageContext

CHECK_EVERY = 1000  # documents between two looks at the stop flag


def index(job: StageContext, *, retrieval: RetrievalConfig) -> dict[str, Any]:
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
                job.stop.raise_if_set()

    with job.progress.step(job.stage.label, retrieval.limit, "document") as step:
        passages = build_index(passages_of(watched(), retrieval.passage_words), job.output)
    if not passages:
        raise UserError(f"retrieval.corpus={retrieval.corpus} has no text; give another, or set retrieval=none.")
    return {"passages": passages, "documents": documents}
