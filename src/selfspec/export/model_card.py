"""The model card beside an exported model, in the form of the Hugging Face hub. It holds no generated text, and no path
of the machine that made it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from selfspec.config.schema import Config, GenerationConfig
from selfspec.export.licences import licence_of
from selfspec.reporting.finished_run import FinishedRun
from selfspec.reporting.harness_table import harness_markdown
from selfspec.reporting.markdown import markdown_table
from selfspec.reporting.results import MEASURES
from selfspec.reporting.tables import NAMES, OFF_DOMAIN_MEASURES, find_score, format_cell
from selfspec.reporting.wandb_result import funnel_rows

if TYPE_CHECKING:
    from selfspec.export.merge import MergeComparison

# Overrides of the command that choose places and displays, on the machine where it was typed.
PLACES = ("paths.", "hydra.", "hydra/", "logger", "--config-dir", "--config-path")


_FOLDERS = re.compile(r"(?<![\w:/.~-])(?:~|\.{1,2})?/(?:[^\s/,:;'\"\]]+/)+")  # of a path, but not of an address


def render_card(run: FinishedRun, merged: MergeComparison | None) -> str:
    """The card.

    Args:
        run: Where the model is from.
        merged: How near merged weights come to base and adapter; None for the adapter alone.
    """
    environment = Environment(
        loader=PackageLoader("selfspec", "export"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    config, report = run.config, run.report
    text = environment.get_template("model_card.md.j2").render(
        config=config,
        report=report,
        merged=merged,
        compared=merge_comparison_text(merged) if merged else "",
        licence=licence_of(config.model.licence),
        hub=None if config.model.toy or config.model.path else config.model.hub,
        weights=run.manifest["slice"]["weights"],
        template=run.template,
        choices=markdown_table(["", ""], _choices(run)),
        funnel=markdown_table(["dropped by", "reason", "rows"], funnel_rows(report["funnel"])),
        scores=_scores(report, MEASURES),
        off_domain=_scores(report["off_domain"], OFF_DOMAIN_MEASURES) if "off_domain" in report else "",
        harness=harness_markdown(report["harness"]) if report.get("harness") else "",
        asked=_asked(config),
        command=_command(report["command"]),
    )
    return without_private_paths(text)


def merge_comparison_text(merged: MergeComparison) -> str:
    """How near the merged weights come, in a sentence."""
    return (
        f"Merged in {merged.dtype}: at {merged.tokens} places of answers in the domain, log-probabilities of likely "
        f"tokens differ from those of base and adapter by at most {merged.error:.2g} nats (rounding may make "
        f"{merged.allowed:.2g}); the adapter itself moves them by up to {merged.moved:.2g}."
    )


def without_private_paths(text: str) -> str:
    """`text` with files by their names alone: their folders tell of a machine, and of who works there."""
    return _FOLDERS.sub("", text)


def _command(typed: str) -> str:
    """What was typed, but for places."""
    return shlex.join(word for word in shlex.split(typed) if not word.lstrip("+").startswith(PLACES))


def _choices(run: FinishedRun) -> Iterator[tuple[str, str]]:
    """What the model was made from, a line a step."""
    config, counts = run.config, run.manifest["counts"]
    seeds = f"{len(run.shown)} shown to the model, {len(run.held_out)} held out"
    yield "base", f"{config.model.name}, weights `{run.manifest['slice']['weights']}`"
    yield "seeds", f"{seeds}; {Path(config.domain.seeds).name}, sha256 `{run.manifest['inputs']['seeds']}`"
    yield from _written(config.generation)
    if config.retrieval.name != "none":
        corpus = without_private_paths(str(config.retrieval.corpus))
        yield "passages", f"{config.retrieval.passages} of {corpus} beside each task, by {config.retrieval.name}"
    rounds = run.report["rounds"]
    if len(rounds["losses"]) > 1:
        told = f"in later ones the specialized model answered ({config.rounds.decoding} decoding)"
        yield "rounds", f"{len(rounds['losses'])}; {told}; round {rounds['kept']} is kept"
    yield "adapter", _adapter(config)
    yield "tuning", _tuned(config, counts)
    yield "seed of all draws", str(config.seed)
    commit = run.manifest["git"]
    yield "made with", f"selfspec {run.manifest['selfspec']}" + (f", commit {commit}" if commit else "")


def _written(generation: GenerationConfig) -> Iterator[tuple[str, str]]:
    asked, answered = generation.instructions, generation.responses
    filters = [name for name, on in vars(generation.filters).items() if on is True]
    filters += [str(spec["_target_"]) for spec in generation.filters.extra]
    kind = "of the task's own type first" if generation.demonstrations == "own_type" else "of any type"
    yield (
        "instructions",
        f"{asked.shots} seeds in context, {kind}; temperature {asked.temperature}, top-p {asked.top_p}",
    )
    yield "responses", f"{answered.shots} seeds in context; greedy, at most {answered.max_new_tokens} tokens"
    yield "filters", ", ".join(name.replace("_", " ") for name in filters) or "none"


def _adapter(config: Config) -> str:
    lora = config.lora
    kind = {(False, False): "LoRA", (True, False): "rsLoRA", (False, True): "DoRA", (True, True): "DoRA, rsLoRA"}
    base = ", on a base in 4 bits (NF4, QLoRA)" if config.model.quantization == "nf4" else ""
    where = ", ".join(lora.target_modules)
    return f"{kind[lora.rslora, lora.dora]} rank {lora.r}, alpha {lora.alpha}, dropout {lora.dropout}, on {where}{base}"


def _tuned(config: Config, counts: Mapping[str, int]) -> str:
    tuning = config.tuning
    return (
        f"{counts['rows']} examples, {tuning.epochs} epochs, {counts['steps']} steps; learning rate "
        f"{tuning.learning_rate}, {tuning.schedule} after warm-up over {tuning.warmup_ratio} of the steps, weight "
        f"decay {tuning.weight_decay}; kept: the {tuning.keep} epoch's adapter"
    )


def _asked(config: Config) -> str:
    """Whose questions were asked."""
    evaluation = config.evaluation
    assert evaluation.domain is not None  # the door has filled it in
    if evaluation.sets:
        return f"public sets ({', '.join(evaluation.sets)}), as conf/benchmark has them"
    if evaluation.files:
        return f"the user's own ({', '.join(Path(file).name for file in evaluation.files)})"
    name = Path(evaluation.domain.evaluation).name
    return f"those of the domain {evaluation.domain.name} ({name}), which are no public benchmark"


def _scores(report: Mapping[str, Any], measures: Iterable[str]) -> str:
    """A table a number of shots: every model's value and the specialized one's difference from each, with intervals."""
    models = list(dict.fromkeys(row["model"] for row in report["scores"]))
    shown = [measure for measure in measures if find_score(report["scores"], measure=measure, task="all")]
    last, names = models[-1], [NAMES.get(model, model) for model in models]
    heads = ["measure", *names, *(f"{names[-1]} - {name}" for name in names[:-1])]
    parts = []
    for shots in sorted({row["shots"] for row in report["scores"]}):
        rows = []
        for measure in shown:
            place = {"shots": shots, "measure": measure, "task": "all"}
            values = [find_score(report["scores"], model=model, **place) for model in models]
            gaps = [find_score(report["differences"], model=last, minus=model, **place) for model in models[:-1]]
            told = [
                *(format_cell(v) if v else "" for v in values),
                *(format_cell(gap, signed=True) if gap else "" for gap in gaps),
            ]
            rows.append([MEASURES[measure], *told])
        parts.append(f"{shots} shots:\n\n{markdown_table(heads, rows)}")
    return "\n\n".join(parts)
