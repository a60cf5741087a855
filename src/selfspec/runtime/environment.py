"""Environment variables and warnings, set before torch is imported."""

from __future__ import annotations

import logging
import os
import warnings


def configure_environment() -> None:
    """Send warnings of libraries to the log, and set defaults of their environment variables.

    Must be called before torch is imported. Variables that the user has set are kept.
    """
    logging.captureWarnings(True)
    warnings.filterwarnings("default")
    # OpenMP threads that spin for long at barriers slow a busy machine down many times, and an idle one gains nothing.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    # By default oneDNN keeps a kernel and its buffers for each of the last 1,024 shapes. Packed passes differ in
    # length, so CPU memory grew by megabytes with every step. One pass has about fifteen shapes.
    for variable in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(variable, "32")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
