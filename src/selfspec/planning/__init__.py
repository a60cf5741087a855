"""Estimates made before a run starts, without torch or weights: rows, tokens, memory and hours."""
