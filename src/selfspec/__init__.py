"""Self-specialization (arXiv 2310.00160): tune a base language model on domain data that it writes itself."""

from __future__ import annotations

__version__ = "0.2.0"
