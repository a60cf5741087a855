"""The graph of stages: those of all jobs united by key, each made once; what is stored is not done again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from selfspec import pipeline
from selfspec.config import Config
from selfspec.errors import UserError
from selfspec.pipeline import Pipeline, Stage
from selfspec.store import Store

# What failed while this process ran a sweep: a job's own report raises it again, and runs no stage.
FAILED: dict[str, str] = {}
# What it made: a job that found all of its stages stored has nothing to log.
MADE: set[str] = set()


class StageFailed(UserError):
    """A stage ended with an error; the sentence is the stage's own."""

    def __init__(self, stage: Stage, told: str) -> None:
        self.stage = stage
        super().__init__(told)


@dataclass
class Node:
    """One stage of the graph, and how far it is."""

    stage: Stage
    config: Config  # of the first job that needs it: for paths and the logger
    state: str = "waiting"  # waiting, running, done, stored, failed, cancelled
    told: str = ""  # why it failed or was cancelled
    started: float = 0.0
    seconds: float = 0.0
    log: str = ""

    @property
    def chain(self) -> str | None:
        """Stages of one chain run one after the other: sizes of a pool go on where the smaller one stopped."""
        if self.stage.name != "examples":
            return None
        return pipeline.pool_keys(self.stage.slice, self.stage.inputs["seeds"])[0]


Graph = Mapping[str, Node]  # by key


class Executor(Protocol):
    """How stages are run: in this process, in others, on a cluster."""

    slots: int  # stages at a time

    def start(self, node: Node) -> None:
        """Begin a stage."""
        ...

    def finished(self) -> list[tuple[Node, str]]:
        """Stages that ended since the last call, with what went wrong or an empty string; waits a moment."""
        ...

    def stop(self) -> None:
        """Stop what runs; its work so far is kept."""
        ...


def unite(jobs: Iterable[tuple[Config, Pipeline]]) -> dict[str, Node]:
    """The distinct stages of all jobs; smaller data sizes before larger ones."""
    nodes: dict[str, Node] = {}
    for config, stages in sorted(jobs, key=lambda job: job[0].data_size.examples):
        for stage in stages.stages:
            nodes.setdefault(stage.key, Node(stage, config))
    return nodes


def execute(graph: Graph, store: Store, executor: Executor, changed: Callable[[Node], None]) -> None:
    """Make every output that is not stored. A failed stage cancels only what depends on it.

    Args:
        graph: The nodes, parents before children; their states are brought up to date.
        store: Where outputs are found.
        executor: Runs the stages.
        changed: Told of each node whose state changed.

    Raises:
        Interrupted: a signal came; the same call goes on from what is done.
    """

    def now(node: Node, state: str, told: str = "") -> None:
        if node.state == "running":
            node.seconds = time.monotonic() - node.started
        node.state, node.told = state, told
        if state in ("failed", "cancelled"):
            FAILED[node.stage.key] = told
        if state == "done":
            MADE.add(node.stage.key)
        changed(node)

    for key, node in graph.items():
        if store.find(node.stage.name, key):
            now(node, "stored")
        elif key in FAILED:
            now(node, "failed", FAILED[key])
    try:
        while any(node.state in ("waiting", "running") for node in graph.values()):
            for node in graph.values():
                _advance(node, graph, executor, now)
            for node, told in executor.finished():
                now(node, "failed" if told else "done", told)
    except BaseException:  # a signal, a full disk: no process is left behind
        executor.stop()
        raise


def _advance(node: Node, graph: Graph, executor: Executor, now: Callable[..., None]) -> None:
    """Start a waiting node whose parents are done, if there is room; cancel one whose parents never will be."""
    if node.state != "waiting":
        return
    parents = [graph[parent.key] for parent in node.stage.parents]
    lost = [parent for parent in parents if parent.state in ("failed", "cancelled")]
    if lost:
        return now(node, "cancelled", f"{lost[0].stage.label} {lost[0].state}: {lost[0].told}")
    running = [other for other in graph.values() if other.state == "running"]
    ready = all(parent.state in ("done", "stored") for parent in parents)
    alone = node.chain is None or node.chain not in [other.chain for other in running]
    if ready and alone and len(running) < executor.slots:
        node.started = time.monotonic()
        now(node, "running")
        executor.start(node)
