"""What the accepted examples cover: task types by topic, labels, and lengths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Any

from selfspec.data.records import Example
from selfspec.data.text import words


def count_coverage(examples: Sequence[Example]) -> dict[str, Any]:
    """Count what the examples cover.

    Returns:
        `topics`, their names; `tasks`, for each task type the number of examples in all and by topic, the labels with
        their numbers, and the lengths of inputs and of outputs in words: the median, the fewest and the most.
    """
    topics = sorted({example.topic for example in examples})
    tasks = []
    for task in sorted({example.task_type for example in examples}):
        of_task = [example for example in examples if example.task_type == task]
        labels = Counter(example.output for example in of_task if example.options).most_common()
        tasks.append(
            {
                "task": task,
                "examples": len(of_task),
                "topics": [sum(example.topic == topic for example in of_task) for topic in topics],
                "labels": ", ".join(f"{label} {count}" for label, count in labels),
                "lengths": [_lengths([e.input for e in of_task]), _lengths([e.output for e in of_task])],
            }
        )
    return {"topics": topics, "tasks": tasks}


def _lengths(texts: Sequence[str]) -> str:
    counts = [len(words(text)) for text in texts]
    return f"{median(counts):.0f} ({min(counts)} to {max(counts)})"
