"""Public sets as evaluation questions (`evaluation=paper`; docs/benchmarks.md). No row of them is shipped.

`sources` reads rows of a local copy or of the hub, `rows` makes questions of them, `prepare` keeps these in the cache.
"""
