"""Filters: one file each. A verdict is a reason for dropping a candidate, or an empty string.

A verdict uses the candidate itself, earlier ones, and constants fixed before the first block; nothing that comes later.
Source: Self-Instruct (arXiv 2212.10560, section 2.2); thresholds that are ours are marked.
"""
