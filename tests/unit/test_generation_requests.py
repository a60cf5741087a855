"""Requests are spread evenly over task types and topics, and few-shot examples of the requested type come first."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from generation_pools import build_pool
from selfspec.config.schema import DomainConfig, TaskType
from selfspec.data.few_shot import draw_few_shot
from selfspec.data.records import Seed
from selfspec.generation.instructions import plan_requests
from selfspec.generation.pools import BLOCK_SIZE


def build_domain(num_types: int, num_topics: int) -> tuple[DomainConfig, list[Seed]]:
    """A domain and its seeds; for every second task type the options differ from seed to seed."""
    tasks = {f"type {n}": TaskType("label" if n % 2 else "text", "about") for n in range(num_types)}
    seeds = [
        Seed(f"{name} {n}", name, "Do it.", "A text.", "a", options=("a", f"b{n}") if task.kind == "label" else ())
        for name, task in tasks.items()
        for n in range(3)
    ]
    topics = tuple(f"topic {n}" for n in range(num_topics))
    tasks["without a seed"] = TaskType("text", "about")
    return DomainConfig("d", "an expert", tasks, seeds="", evaluation="", topics=topics), seeds


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(0, 15), st.integers(1, 6), st.integers(0, 99))
def test_every_task_type_is_combined_with_every_topic_equally_often(
    num_types: int, num_topics: int, num_blocks: int, seed: int
) -> None:
    domain, seeds = build_domain(num_types, num_topics)
    pairs = {(f"type {n}", topic): 0 for n in range(num_types) for topic in domain.topics or ("",)}
    for block in range(num_blocks):
        requests = plan_requests(domain, seeds, build_pool(seed), block)
        assert len(requests) == BLOCK_SIZE
        counts = Counter(request.task_type for request in requests)
        assert len(counts) == num_types and max(counts.values()) - min(counts.values()) <= 1
        for request in requests:
            pairs[request.task_type, request.topic] += 1
        assert max(pairs.values()) - min(pairs.values()) <= 1
        allowed = {(seed.task_type, seed.options) for seed in seeds}
        assert {(request.task_type, request.options) for request in requests} <= allowed


def test_requests_depend_on_the_experiment_seed_and_the_block_alone() -> None:
    domain, seeds = build_domain(4, 7)

    def plan_all(key: str) -> list[Any]:
        return [
            plan_requests(domain, seeds, build_pool(seed, key=key), block) for seed in (0, 1) for block in (0, 1, 2)
        ]

    plans = plan_all("one")
    random.seed(7)
    assert plan_all("other") == plans
    assert all(one != other for index, one in enumerate(plans) for other in plans[:index])


@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 15), st.booleans(), st.integers(0, 99))
def test_few_shot_examples_of_the_requested_type_come_first_and_without_a_type_all_are_random(
    num_requested: int, num_others: int, count: int, has_type: bool, state: int
) -> None:
    num_seeds = num_requested + num_others
    seeds = [Seed(f"s{n}", "requested" if n < num_requested else "other", "Do it.", "", "a") for n in range(num_seeds)]
    task_type = "requested" if has_type else ""
    drawn = draw_few_shot(seeds, task_type, count, random.Random(state))
    assert len(drawn) == len({seed.id for seed in drawn}) == min(count, len(seeds))
    if has_type:
        assert sum(seed.task_type == "requested" for seed in drawn) == min(num_requested, count)
    assert drawn == draw_few_shot(seeds, task_type, count, random.Random(state))


def test_random_few_shot_examples_are_of_any_type_and_in_any_order() -> None:
    seeds = [Seed(f"s{n}", str(n % 4), "Do it.", "", "a") for n in range(20)]
    counts = Counter[tuple[int, str]]()
    for state in range(2000):
        drawn = draw_few_shot(seeds, "", 3, random.Random(state))
        counts.update((position, seed.id) for position, seed in enumerate(drawn))
    assert len(counts) == 60 and min(counts.values()) > 50  # the expected count is 100
    first = {draw_few_shot(seeds, "1", 3, random.Random(state))[0].id for state in range(200)}
    assert first == {seed.id for seed in seeds if seed.task_type == "1"}
