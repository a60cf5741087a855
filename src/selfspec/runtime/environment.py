"""Environment variables and warnings, set before torch is imported."""

from __future__ import annotations

import logging
import os
import warnings


def configure_environment() -> None:
    """Libraries speak into the log; the terminal shows progress and results. Before torch is imported."""
    logging.captureWarnings(True)
    warnings.filterwarnings("default")
    # Threads that spin at barriers for long cost a busy machine many times the work, and gain an idle one nothing.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    # oneDNN keeps a kernel and its buffers for each of the last 1,024 shapes that it met, and packed passes all differ
    # in length: tuning on a processor grew by megabytes a step. A pass itself has about fifteen shapes.
    for cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(cache, "32")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
