"""Self-specialization (Kang et al., arXiv 2310.00160): carve an expert out of a generalist language model."""

__version__ = "0.1.0"
