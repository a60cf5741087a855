"""Public sets as evaluation questions (`evaluation=paper`; docs/benchmarks.md). None of their rows are shipped.

`sources` reads rows from a local copy or the hub, `rows` turns them into questions, `prepare` caches the questions.
"""
