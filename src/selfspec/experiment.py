"""One experiment: Hydra's task function. The config goes through the door, its stages run, the report is written."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import signal
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from selfspec import door, pipeline
from selfspec.config import Config
from selfspec.errors import Interrupted, UserError
from selfspec.launch.graph import StageFailed, run_all
from selfspec.pipeline import Pipeline
from selfspec.records import example_from, read_jsonl, read_questions
from selfspec.reporting import page, tables, tracking
from selfspec.reporting.progress import Progress
from selfspec.reporting.results import results
from selfspec.store import Store

log = logging.getLogger("selfspec")


def task(composed: DictConfig) -> None:
    """Run the experiment that was composed; on failure `error.json` is written and the exit code is 1."""
    _surroundings()
    folder = Path(HydraConfig.get().runtime.output_dir)
    full_error = HydraConfig.get().job.env_set.get("HYDRA_FULL_ERROR") == "1"
    try:
        run(door.enter(composed), folder)
    except Interrupted as error:
        print(
            f"Stopped by {error}; what was finished is kept, and the same command goes on from there.",
            file=sys.stderr,
        )
        sys.exit(128 + int(getattr(signal, str(error))))
    except (UserError, StageFailed, OSError) as error:
        log.error(traceback.format_exc())
        told = door.explain(_mendable(error), [])
        stage = error.stage.label if isinstance(error, StageFailed) else None
        _write(
            folder / "error.json",
            {"stage": stage, "exception": type(_mendable(error)).__name__, "what": told},
        )
        if full_error:
            raise
        print(told, file=sys.stderr)
        sys.exit(1)


def run(config: Config, folder: Path) -> dict[str, Any]:
    """Everything from seeds to report; what the store holds is not done again."""
    stages = pipeline.build(config)
    store = Store(Path(config.paths.store))
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(_plain(config)))
    _write(folder / "stages.json", {stage.label: f"{stage.name}/{stage.key}" for stage in stages.stages})
    with Progress() as progress:
        title = title_of(config)
        progress.say(f"[bold]{title}[/]  [dim]{folder}[/]")
        made = run_all(stages.stages, config, store, progress)
        report = _report(config, stages, store, title)
        _write(folder / "results.json", report)
        _write_page(config, stages, store, report, folder)
        if made:  # a run that finds everything done has nothing to log
            tracking.result(config, folder, report, store.root / "examples" / stages.examples.key)
        progress.console.print(tables.render(report))
        progress.say(f"[bold]{folder / 'report.html'}[/]")
    return report


def title_of(config: Config) -> str:
    """`biomedicine, gemma-3-270m, 64 examples, LoRA rank 8`."""
    toy = " (toy)" if config.model.toy else ""
    return (
        f"{config.domain.name}, {config.model.name}{toy}, {config.data_size.examples} examples, "
        f"LoRA rank {config.lora.r}"
    )


def _report(config: Config, stages: Pipeline, store: Store, title: str) -> dict[str, Any]:
    """What `results.json` holds; figures are computed from stored replies."""
    questions = read_questions(Path(config.domain.evaluation), config.domain.tasks)
    answers = {
        model: list(read_jsonl(store.root / "scores" / stage.key / "answers.jsonl"))
        for model, stage in stages.scores.items()
    }
    manifests = [store.manifest(stage.name, stage.key) for stage in stages.stages]
    report = {
        "title": title,
        "subtitle": f"{len(questions)} questions; weights: {stages.examples.slice['weights']}; seed {config.seed}",
        "keys": {stage.label: stage.key for stage in stages.stages},
        "command": " ".join(["python run.py", *HydraConfig.get().overrides.task]),
        "stages": [{name: m[name] for name in ("label", "key", "seconds", "counts")} for m in manifests],
        "funnel": json.loads((store.root / "examples" / stages.examples.key / "funnel.json").read_text()),
        **results(answers, questions, config.domain, config.evaluation.resamples),
    }
    report["reading"] = tables.reading(report)
    return report


def _write_page(config: Config, stages: Pipeline, store: Store, report: dict[str, Any], folder: Path) -> None:
    rows = [example_from(row) for row in read_jsonl(store.root / "examples" / stages.examples.key / "rows.jsonl")]
    curves = {
        model: json.loads((store.root / "adapter" / stage.key / "curve.json").read_text())
        for model, stage in stages.adapters.items()
    }
    page.write(folder / "report.html", page.render(report, rows, curves, config.domain))


def _mendable(error: Exception) -> Exception:
    return error.error if isinstance(error, StageFailed) else error


def _plain(config: Config) -> dict[str, Any]:
    return json.loads(json.dumps(dataclasses.asdict(config)))  # type: ignore[no-any-return]


def _write(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False), encoding="utf-8")


def _surroundings() -> None:
    """Libraries speak into the log; the terminal shows progress and results. Before torch is imported."""
    logging.captureWarnings(True)
    warnings.filterwarnings("default")
    # Threads that spin at barriers for long cost a busy machine many times the work, and gain an idle one nothing.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
