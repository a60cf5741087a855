"""Checks and previews of domains, and the shipped ones: a folder each, with `seeds.jsonl` and `evaluation.jsonl`."""
