"""Strategies: over which processes an adapter is tuned."""
