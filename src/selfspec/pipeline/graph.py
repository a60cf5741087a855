"""The graph of stages: the stages of all jobs, united by key and executed once each; stored outputs are reused."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from selfspec.config.schema import Config
from selfspec.errors import UserError
from selfspec.generation.pools import pool_keys
from selfspec.pipeline.build import Pipeline
from selfspec.runtime.stage import Stage
from selfspec.runtime.store import Store

FINISHED = ("done", "stored")
UNSUCCESSFUL = ("failed", "cancelled")
UNFINISHED = ("waiting", "queued", "running")


class StageFailed(UserError):
    """A stage failed; the message is its own."""

    def __init__(self, stage: Stage, message: str) -> None:
        self.stage = stage
        super().__init__(message)


@dataclass
class Outcomes:
    """Results of the stages that one process has run: a job's report does not run a failed stage again.

    Args:
        failed: Message by key of each stage that failed or was cancelled.
        executed: Keys of the stages that were executed; a job without any has nothing new to log.
    """

    failed: dict[str, str] = field(default_factory=dict)
    executed: set[str] = field(default_factory=set)


@dataclass(eq=False)
class Node:
    """One stage of the graph with its state."""

    stage: Stage
    config: Config  # of the first job that needs the stage: for paths and the logger
    parents: tuple[Node, ...] = ()
    after: Node | None = None  # a smaller size of the same pool, which runs first; it may fail
    state: str = "waiting"  # waiting, queued (handed to a cluster), running, done, stored, failed, cancelled
    message: str = ""  # why it failed or was cancelled
    started: float = 0.0
    seconds: float = 0.0
    job: str = ""  # number of its job in a cluster
    host: str = ""
    log: str = ""

    @property
    def open(self) -> bool:
        """Whether the stage still has to run."""
        return self.state in UNFINISHED

    @property
    def elapsed(self) -> float:
        """Seconds that the stage has run."""
        return time.monotonic() - self.started if self.state == "running" else self.seconds


Graph = Mapping[str, Node]  # by key, parents before children


class Executor(Protocol):
    """Runs stages: in this process, in other processes, on a cluster."""

    slots: int  # stages at a time
    ahead: bool  # accepts stages before their parents are done, and keeps their order itself
    wait: bool  # whether the caller waits for what was started

    def start(self, nodes: Sequence[Node]) -> None:
        """Start stages."""
        ...

    def poll(self) -> list[tuple[Node, str, str]]:
        """(node, new state, message) of each change since the last call; waits a moment."""
        ...

    def stop(self) -> None:
        """Stop what runs on this machine, keeping its work; leave what runs on a cluster."""
        ...


def unite_jobs(jobs: Iterable[tuple[Config, Pipeline]]) -> dict[str, Node]:
    """The distinct stages of all jobs; smaller data sizes before larger ones."""
    nodes: dict[str, Node] = {}
    last: dict[str, Node] = {}  # by pool
    for config, stages in sorted(jobs, key=lambda job: job[0].data_size.examples):
        for stage in stages.stages:
            if stage.key in nodes:
                continue
            node = nodes[stage.key] = Node(stage, config, tuple(nodes[parent.key] for parent in stage.parents))
            if stage.name == "examples":
                pool = pool_keys(stage.values, stage.inputs)["instructions"]
                node.after = last.get(pool)
                last[pool] = node
    return nodes


def mark_stored(graph: Graph, store: Store, outcomes: Outcomes) -> None:
    """Mark the nodes whose output is stored, and those that failed before in this process."""
    for key, node in graph.items():
        if store.find(node.stage.name, key):
            node.state = "stored"
        elif key in outcomes.failed:
            node.state, node.message = "failed", outcomes.failed[key]


def execute_graph(
    graph: Graph, store: Store, executor: Executor, outcomes: Outcomes, changed: Callable[[Node], None]
) -> None:
    """Compute every output that is not stored. A failed stage cancels only what depends on it.

    Args:
        graph: The nodes; their states are updated.
        store: Holds the outputs.
        executor: Runs the stages.
        outcomes: Updated with the stages that failed and those that were executed.
        changed: Called with each node whose state changed.

    Raises:
        Interrupted: a signal arrived; the same call resumes from the finished work.
    """

    def set_state(node: Node, state: str, message: str = "") -> None:
        if node.state == "running":
            node.seconds = time.monotonic() - node.started
        if state == "running":
            node.started = time.monotonic()
        node.state, node.message = state, message
        if state in UNSUCCESSFUL:
            outcomes.failed[node.stage.key] = message
        if state == "done":
            outcomes.executed.add(node.stage.key)
        changed(node)

    mark_stored(graph, store, outcomes)
    for node in graph.values():
        if not node.open:
            changed(node)
    try:
        while any(node.open for node in graph.values()):
            _cancel_dependents(graph, set_state)
            while ready := _ready_nodes(graph, executor):
                for node in ready:
                    set_state(node, "queued" if executor.ahead else "running")
                executor.start(ready)
            if not executor.wait:
                return
            for node, state, message in executor.poll():
                set_state(node, state, message)
    except BaseException:  # after a signal or on a full disk, no process may remain
        executor.stop()
        raise


def _cancel_dependents(graph: Graph, set_state: Callable[[Node, str, str], None]) -> None:
    """Cancel the nodes with a parent that failed or was cancelled."""
    for node in graph.values():
        failed = [parent for parent in node.parents if parent.state in UNSUCCESSFUL]
        if failed and node.open:
            set_state(node, "cancelled", f"{failed[0].stage.label} {failed[0].state}: {failed[0].message}")


def _ready_nodes(graph: Graph, executor: Executor) -> list[Node]:
    """Waiting nodes that can start now, as many as the executor has free slots."""
    started_states = ("queued", "running") if executor.ahead else ()
    ready = [
        node
        for node in graph.values()
        if node.state == "waiting"
        and all(parent.state in (*FINISHED, *started_states) for parent in node.parents)
        and (node.after is None or not node.after.open or node.after.state in started_states)
    ]
    running = sum(node.state in ("queued", "running") for node in graph.values())
    return ready[: executor.slots - running]
