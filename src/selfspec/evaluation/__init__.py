"""Evaluation: ask the questions, judge the replies, estimate metrics with intervals.

`few_shot` asks the model. `judgement` judges one reply, with `metrics` and `parsing`. `primary_metrics` has the metrics
that a task can name, `reported_metrics` those of a report, `intervals` the bootstrap. `harness` runs tasks of
lm-evaluation-harness, `benchmarks` reads public sets.
"""
