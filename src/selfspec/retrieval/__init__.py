"""Retrieval: passages of an unlabelled corpus, by BM25."""
