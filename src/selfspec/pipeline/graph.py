"""The graph of stages: those of all jobs united by key, each made once; what is stored is not done again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from selfspec.config.schema import Config
from selfspec.errors import UserError
from selfspec.pipeline.pools import pool_keys
from selfspec.pipeline.stage import Pipeline, Stage
from selfspec.runtime.store import Store

# What failed while this process ran a sweep: a job's own report raises it again, and runs no stage.
FAILED: dict[str, str] = {}


# What it made: a job that found all of its stages stored has nothing to log.
MADE: set[str] = set()


FINISHED = ("done", "stored")


NOT_MADE = ("failed", "cancelled")


UNFINISHED = ("waiting", "queued", "running")


class StageFailed(UserError):
    """A stage ended with an error; the sentence is the stage's own."""

    def __init__(self, stage: Stage, told: str) -> None:
        self.stage = stage
        super().__init__(told)


@dataclass(eq=False)
class Node:
    """One stage of the graph, and how far it is."""

    stage: Stage
    config: Config  # of the first job that needs it: for paths and the logger
    parents: tuple[Node, ...] = ()
    after: Node | None = None  # a smaller size of the same pool: it goes first, however it ends
    state: str = "waiting"  # waiting, queued (handed to a cluster), running, done, stored, failed, cancelled
    message: str = ""  # why it failed or was cancelled
    started: float = 0.0
    seconds: float = 0.0
    job: str = ""  # the cluster's number of it
    host: str = ""
    log: str = ""

    @property
    def open(self) -> bool:
        """Whether something is left to do."""
        return self.state in UNFINISHED

    @property
    def elapsed(self) -> float:
        """Seconds that it runs, or ran."""
        return time.monotonic() - self.started if self.state == "running" else self.seconds


Graph = Mapping[str, Node]  # by key, parents before children


class Executor(Protocol):
    """How stages are run: in this process, in others, on a cluster."""

    slots: int  # stages at a time
    ahead: bool  # takes stages before their parents are done, and sees to their order itself
    wait: bool  # or is left alone with what it was given

    def start(self, nodes: Sequence[Node]) -> None:
        """Begin stages."""
        ...

    def poll(self) -> list[tuple[Node, str, str]]:
        """What changed since the last call: (node, new state, why it failed); waits a moment."""
        ...

    def stop(self) -> None:
        """A signal came: stop what runs here, its work so far is kept; or let a cluster go on."""
        ...


def unite_jobs(jobs: Iterable[tuple[Config, Pipeline]]) -> dict[str, Node]:
    """The distinct stages of all jobs; smaller data sizes before larger ones."""
    nodes: dict[str, Node] = {}
    last: dict[str, Node] = {}  # of each pool
    for config, stages in sorted(jobs, key=lambda job: job[0].data_size.examples):
        for stage in stages.stages:
            if stage.key in nodes:
                continue
            node = nodes[stage.key] = Node(stage, config, tuple(nodes[parent.key] for parent in stage.parents))
            if stage.name == "examples":
                pool = pool_keys(stage)["instructions"]
                node.after = last.get(pool)
                last[pool] = node
    return nodes


def mark_stored(graph: Graph, store: Store) -> None:
    """Mark what is stored, and what failed before in this process."""
    for key, node in graph.items():
        if store.find(node.stage.name, key):
            node.state = "stored"
        elif key in FAILED:
            node.state, node.message = "failed", FAILED[key]


def execute_graph(graph: Graph, store: Store, executor: Executor, changed: Callable[[Node], None]) -> None:
    """Make every output that is not stored. A failed stage cancels only what depends on it.

    Args:
        graph: The nodes; their states are brought up to date.
        store: Where outputs are found.
        executor: Runs the stages.
        changed: Told of each node whose state changed.

    Raises:
        Interrupted: a signal came; the same call goes on from what is done.
    """

    def now(node: Node, state: str, told: str = "") -> None:
        if node.state == "running":
            node.seconds = time.monotonic() - node.started
        if state == "running":
            node.started = time.monotonic()
        node.state, node.message = state, told
        if state in NOT_MADE:
            FAILED[node.stage.key] = told
        if state == "done":
            MADE.add(node.stage.key)
        changed(node)

    mark_stored(graph, store)
    for node in graph.values():
        if not node.open:
            changed(node)
    try:
        while any(node.open for node in graph.values()):
            _cancel_dependents(graph, now)
            while ready := _ready_nodes(graph, executor):
                for node in ready:
                    now(node, "queued" if executor.ahead else "running")
                executor.start(ready)
            if not executor.wait:
                return
            for node, state, told in executor.poll():
                now(node, state, told)
    except BaseException:  # a signal, a full disk: no process is left behind
        executor.stop()
        raise


def _cancel_dependents(graph: Graph, now: Callable[[Node, str, str], None]) -> None:
    """What needs a lost stage is lost."""
    for node in graph.values():
        lost = [parent for parent in node.parents if parent.state in NOT_MADE]
        if lost and node.open:
            now(node, "cancelled", f"{lost[0].stage.label} {lost[0].state}: {lost[0].message}")


def _ready_nodes(graph: Graph, executor: Executor) -> list[Node]:
    """Waiting nodes that can start now, as many as there is room for."""
    begun = ("queued", "running") if executor.ahead else ()
    ready = [
        node
        for node in graph.values()
        if node.state == "waiting"
        and all(parent.state in (*FINISHED, *begun) for parent in node.parents)
        and (node.after is None or not node.after.open or node.after.state in begun)
    ]
    running = sum(node.state in ("queued", "running") for node in graph.values())
    return ready[: executor.slots - running]
