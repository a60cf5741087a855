"""Filters that drop candidates: one file each, in the order of `registry.FILTERS`.

A verdict is a reason for dropping a candidate, or an empty string. It uses the candidate itself, earlier candidates,
and constants fixed before the first block.
Source: Self-Instruct (arXiv 2212.10560, section 2.2). Thresholds that this project chose are marked [O].
"""
