"""Self-specialization (Kang et al., arXiv 2310.00160): carve an expert out of a generalist language model."""

from __future__ import annotations

__version__ = "0.2.0"
