"""Self-specialization (Kang et al., arXiv 2310.00160): turn a general language model into a specialist."""

from __future__ import annotations

__version__ = "0.2.0"
