"""One experiment: Hydra's task function. The config goes through the door, its stages run, the report is written."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from selfspec import door, pipeline, resolvers
from selfspec.config import Config
from selfspec.errors import UserError
from selfspec.generation import passages
from selfspec.launch import executors, graph
from selfspec.launch.graph import Node, StageFailed
from selfspec.pipeline import Pipeline, Stage
from selfspec.records import Question, read_all_questions, read_examples, read_jsonl, read_seeds
from selfspec.reporting import harness, overlap, page, tables, tracking
from selfspec.reporting.board import line
from selfspec.reporting.progress import Progress
from selfspec.reporting.results import results
from selfspec.stage import Stop
from selfspec.store import Store, digest, write_atomic

log = logging.getLogger("selfspec")
resolvers.register_again()
TYPED = "SELFSPEC_TYPED"  # the overrides of the command, for processes that other launchers start
TRACEBACK = "SELFSPEC_TRACEBACK"  # set when the user asked for HYDRA_FULL_ERROR=1, which the door sets for itself


def task(composed: DictConfig) -> float | None:
    """Run the experiment that was composed; on failure `error.json` is written and the exit code is 1.

    Returns:
        The specialized model's loss on the held-out seeds (nats a token): what a search may minimise. Never a score.
    """
    surroundings()
    folder = Path(HydraConfig.get().runtime.output_dir)
    (folder / "error.json").unlink(missing_ok=True)  # of an earlier try in the same folder
    try:
        return run(grouped(door.enter(composed)), folder)
    except (UserError, OSError) as error:
        log.error(traceback.format_exc())
        told = door.explain(error, [])
        stage = error.stage.label if isinstance(error, StageFailed) else None
        _write(folder / "error.json", {"stage": stage, "what": told})
        if os.environ.get(TRACEBACK):
            raise
        if HydraConfig.get().mode == RunMode.MULTIRUN:  # the sweep goes on, and tells of it at its end
            raise UserError(told) from error
        print(told, file=sys.stderr)
        sys.exit(1)


def run(config: Config, folder: Path) -> float | None:
    """Everything from seeds to report; what the store holds is not done again."""
    stages = pipeline.build(config)
    store = Store(Path(config.paths.store))
    if config.plan:
        _plan(config, stages, store, folder)
        return None
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(_plain(config)))
    _write(folder / "stages.json", {stage.label: f"{stage.name}/{stage.key}" for stage in stages.stages})
    in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN  # which has a display of its own
    with Progress(Console(quiet=True) if in_sweep else None) as progress:
        title = title_of(config)
        progress.say(f"[bold]{title}[/]  [dim]{folder}[/]")
        made = _run_stages(config, stages, store, progress, folder)
        if made is None:
            return None
        report = _report(config, stages, store, title)
        _write(folder / "results.json", report)
        _write_page(config, stages, store, report, folder)
        if made:  # a run that finds everything done has nothing to log
            tracking.result(config, folder, report, _output(store, _kept(stages, store)[0]))
        progress.console.print(tables.render(report))
        progress.say(f"[bold]{folder / 'report.html'}[/]")
    return report["held_out_loss"]  # type: ignore[no-any-return]


def grouped(config: Config) -> Config:
    """In a sweep, W&B's runs are grouped by what was typed, so that the same command goes on in the same group."""
    hydra = HydraConfig.get()
    group = "-".join(Path(hydra.runtime.output_dir).parts[-2:])
    if hydra.mode == RunMode.MULTIRUN:
        group = f"sweep-{digest(os.environ.get(TYPED, ''))[:8]}"
    return dataclasses.replace(config, logger=dataclasses.replace(config.logger, group=group))


def _run_stages(config: Config, stages: Pipeline, store: Store, progress: Progress, folder: Path) -> bool | None:
    """Make what is missing; whether anything was, or None if it was left to a cluster.

    Raises:
        StageFailed: the first that failed, after all that do not need it.
    """
    nodes = graph.unite([(config, stages)])
    graph.settle(nodes, store)
    idle = not any(node.open for node in nodes.values())
    stop = Stop()
    executor = executors.choose({} if idle else _launcher(), folder, store, progress, stop)
    with nullcontext() if idle else stop.listening():  # a sweep has ears of its own
        graph.execute(nodes, store, executor, lambda node: _tell(node, store, progress))
    for node in nodes.values():
        if node.state == "failed":
            raise StageFailed(node.stage, node.told)
    if any(node.open for node in nodes.values()):
        progress.say("Its stages were left to SLURM; the same command attaches to them, and draws the report.")
        return None
    return bool(graph.MADE & set(nodes))


def _plan(config: Config, stages: Pipeline, store: Store, folder: Path) -> None:
    from selfspec.launch import plan

    nodes = graph.unite([(config, stages)])
    graph.settle(nodes, store)
    plan.show(nodes, 1, _launcher(), folder)


def _launcher() -> dict[str, Any]:
    """What `hydra/launcher` says: in sweeps Hydra reads it itself, and a foreign launcher's job runs here."""
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return {}
    return OmegaConf.to_container(HydraConfig.get().launcher, resolve=True)  # type: ignore[return-value]


def _tell(node: Node, store: Store, progress: Progress) -> None:
    """One line on a stage that is finished, or handed to a cluster."""
    if node.state not in ("done", "stored"):
        if node.job or node.state == "failed":
            progress.say(line(node))
        return
    counts: dict[str, Any] = store.manifest(node.stage.name, node.stage.key)["counts"]
    told = ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in counts.items() if value)
    seconds = "stored" if node.state == "stored" else f"{node.seconds:.1f} s"
    progress.say(f"  [green]✓[/] {node.stage.label:<22} {seconds:>9}  [dim]{told}[/]")


def title_of(config: Config) -> str:
    """`biomedicine, gemma-3-270m, 64 examples, LoRA rank 8`."""
    toy = " (toy)" if config.model.toy else ""
    return (
        f"{config.domain.name}, {config.model.name}{toy}, {config.data_size.examples} examples, "
        f"LoRA rank {config.lora.r}"
    )


def _report(config: Config, stages: Pipeline, store: Store, title: str) -> dict[str, Any]:
    """What `results.json` holds; figures are computed from stored replies."""
    resamples = config.evaluation.resamples
    questions, answers = _answers(store, stages.scores)
    examples, rounds = _kept(stages, store)
    metrics = {name: (item.metric, *item.also) for name, item in config.evaluation.sets.items()}
    manifests = [store.manifest(stage.name, stage.key) for stage in stages.stages]
    report = {
        "title": title,
        "subtitle": f"{len(questions)} questions; weights: {examples.slice['weights']}; seed {config.seed}",
        "keys": {stage.label: stage.key for stage in stages.stages},
        # Lines for a cluster's shell may hold a proxy's password, and a report is for sharing.
        "command": shlex.join(["python", "run.py", *(text for text in sys.argv[1:] if "hydra.launcher." not in text)]),
        "stages": [{name: m[name] for name in ("label", "key", "seconds", "counts")} for m in manifests],
        "held_out_loss": rounds["losses"][rounds["kept"] - 1],
        "rounds": rounds,
        "funnel": json.loads((_output(store, examples) / "funnel.json").read_text()),
        "overlap": overlap.report(_trained_on(store, examples), questions, answers, resamples, metrics),
        **results(answers, questions, resamples, metrics),
    }
    if stages.off_domain:
        asked, replies = _answers(store, stages.off_domain)
        report["off_domain"] = {"name": config.general.name, **results(replies, asked, resamples)}
    if stages.harness:
        found = {m: json.loads((_output(store, s) / "results.json").read_text()) for m, s in stages.harness.items()}
        report["harness"] = harness.compare(found)
    fewer = {model: sum(row["shots_shown"] < row["shots"] for row in rows) for model, rows in answers.items()}
    report["fewer_shots"] = {model: count for model, count in fewer.items() if count}
    report["reading"] = [*tables.reading(report), *config.evaluation.notes]
    return report


def _output(store: Store, stage: Stage) -> Path:
    return store.root / stage.name / stage.key


def _answers(store: Store, scores: Mapping[str, Stage]) -> tuple[list[Question], dict[str, list[dict[str, Any]]]]:
    """The questions that were asked, and each model's replies."""
    answers = {model: list(read_jsonl(_output(store, stage) / "answers.jsonl")) for model, stage in scores.items()}
    asked = {row["id"] for rows in answers.values() for row in rows}
    stage = scores["base"]
    domain, files = stage.config.evaluation.domain, stage.files["questions"]
    assert domain is not None and isinstance(files, tuple)
    return [question for question in read_all_questions(files, domain.tasks) if question.id in asked], answers


def _kept(stages: Pipeline, store: Store) -> tuple[Stage, dict[str, Any]]:
    """The stage whose examples made the specialized model, and what each round gave."""
    rounds = json.loads((_output(store, stages.adapters["specialized"]) / "rounds.json").read_text())
    return stages.rounds[rounds["kept"] - 1][0], rounds


def _trained_on(store: Store, examples: Stage) -> dict[str, list[str]]:
    """Texts that the specialized model may have seen, by where they are from."""
    seeds = read_seeds(Path(examples.config.domain.seeds), examples.config.domain.tasks)
    rows = read_examples(_output(store, examples) / "examples.jsonl")
    seen = {
        "seeds": [seed.input for seed in seeds],
        "examples": [text for row in rows for text in (row.input, row.output)],
    }
    indexes = [parent for parent in examples.parents if parent.name == "index"]
    if indexes:  # found again as they were then
        find = passages.finder(_output(store, indexes[0]), examples.config.retrieval.passages)
        seen["passages"] = [found.text for row in rows for found in find(row) if found.id in row.documents]
    return seen


def _write_page(config: Config, stages: Pipeline, store: Store, report: dict[str, Any], folder: Path) -> None:
    examples, rounds = _kept(stages, store)
    rows = read_examples(_output(store, examples) / "rows.jsonl")
    adapters = {**stages.adapters, "specialized": stages.rounds[rounds["kept"] - 1][1]}
    curves = {model: json.loads((_output(store, s) / "curve.json").read_text()) for model, s in adapters.items()}
    (folder / "report.html").write_text(page.render(report, rows, curves), encoding="utf-8")


def _plain(config: Config) -> dict[str, Any]:
    return json.loads(json.dumps(dataclasses.asdict(config)))  # type: ignore[no-any-return]


def _write(path: Path, data: Any) -> None:
    write_atomic(path, json.dumps(data, indent=1, ensure_ascii=False).encode())


def surroundings() -> None:
    """Libraries speak into the log; the terminal shows progress and results. Before torch is imported."""
    logging.captureWarnings(True)
    warnings.filterwarnings("default")
    # Threads that spin at barriers for long cost a busy machine many times the work, and gain an idle one nothing.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    # oneDNN keeps a kernel and its buffers for each of the last 1,024 shapes that it met, and packed passes all differ
    # in length: tuning on a processor grew by megabytes a step. A pass itself has about fifteen shapes.
    for cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(cache, "32")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
