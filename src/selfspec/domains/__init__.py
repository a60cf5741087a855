"""The embedded domains: a folder each, with `seeds.jsonl` and `evaluation.jsonl`. Your own may live anywhere."""
