"""The model card of an exported model, as the Hugging Face hub expects it. It contains no generated text and no path of
this machine.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from selfspec.config.schema import Config, GenerationConfig
from selfspec.export.licences import find_licence
from selfspec.reporting.cells import OFF_DOMAIN_MEASURES, format_cell, funnel_rows, score_grids
from selfspec.reporting.finished_run import FinishedRun
from selfspec.reporting.harness_table import harness_markdown
from selfspec.reporting.markdown import markdown_table

if TYPE_CHECKING:
    from selfspec.export.merge import MergeComparison

# Overrides of folders and displays: they concern the machine where the command was typed, not the model.
MACHINE_OVERRIDES = ("paths.", "hydra.", "hydra/", "logger", "--config-path")

_FOLDERS = re.compile(r"(?<![\w:/.~-])(?:~|\.{1,2})?/(?:[^\s/,:;'\"\]]+/)+")  # the folders of a path, not of a URL


def render_card(run: FinishedRun, merged: MergeComparison | None) -> str:
    """Render the model card.

    Args:
        run: The run that made the model.
        merged: How far merged weights are from base and adapter; None for the adapter alone.
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
        merge_comparison=merge_comparison_text(merged) if merged else "",
        licence=find_licence(config.model.licence),
        hub=None if config.model.toy or config.model.path else config.model.hub,
        weights=run.manifest["values"]["weights"],
        template=run.template,
        stop_texts=_describe_stop_texts(config.prompts.response_stop),
        settings=markdown_table(["", ""], _setting_rows(run)),
        funnel=markdown_table(["dropped by", "reason", "rows"], funnel_rows(report["funnel"])),
        scores=_score_tables(report, report["measures"]),
        off_domain=_score_tables(report["off_domain"], OFF_DOMAIN_MEASURES) if "off_domain" in report else "",
        harness=harness_markdown(report["harness"]) if report.get("harness") else "",
        questions=_describe_questions(config),
        command=_public_command(report["command"]),
    )
    return without_private_paths(text)


def merge_comparison_text(comparison: MergeComparison) -> str:
    """One sentence on how far the merged weights are from base and adapter."""
    return (
        f"Merged in {comparison.dtype}: at {comparison.num_positions} token positions of answers in the domain, "
        f"log-probabilities of likely tokens differ from those of base and adapter by at most {comparison.error:.2g} "
        f"nats (tolerance {comparison.tolerance:.2g}); the adapter itself changes them by up to "
        f"{comparison.adapter_effect:.2g}."
    )


def without_private_paths(text: str) -> str:
    """`text` with each path reduced to its file name: folders may name the machine or its users."""
    return _FOLDERS.sub("", text)


def _public_command(command: str) -> str:
    """The command without overrides that concern this machine."""
    return shlex.join(
        word
        for word in shlex.split(command)
        if word == "hydra.mode=RUN" or not word.lstrip("+").startswith(MACHINE_OVERRIDES)
    )


def _describe_stop_texts(stop: Sequence[str]) -> str:
    """`, or before "END"`: where a reply ends beside the end token, with line breaks as \\n."""
    return f", or before {' or '.join(f'`{json.dumps(text)}`' for text in stop)}" if stop else ""


def _setting_rows(run: FinishedRun) -> Iterator[tuple[str, str]]:
    """(step, settings) for each step that made the model."""
    config, counts = run.config, run.manifest["counts"]
    yield "base", f"{config.model.name}, weights `{run.manifest['values']['weights']}`"
    split = f"{len(run.shown_seeds)} shown to the model, {len(run.held_out_seeds)} held out"
    yield "seeds", f"{split}; {Path(config.domain.seeds).name}, sha256 `{run.manifest['inputs']['seeds']}`"
    yield from _generation_rows(config.generation)
    if config.retrieval.name != "none":
        corpus = without_private_paths(str(config.retrieval.corpus))
        yield "passages", f"{config.retrieval.passages} of {corpus} for each task, by {config.retrieval.name}"
    rounds = run.report["rounds"]
    if len(rounds["losses"]) > 1:
        later = f"after the first, the specialized model answered ({config.rounds.decoding} decoding)"
        yield "rounds", f"{len(rounds['losses'])}; {later}; round {rounds['kept']} is kept"
    yield "adapter", _describe_adapter(config)
    yield "tuning", _describe_tuning(config, counts)
    yield "random seed", str(config.seed)
    commit = run.manifest["git"]
    yield "software", f"selfspec {run.manifest['selfspec']}" + (f", commit {commit}" if commit else "")


def _generation_rows(generation: GenerationConfig) -> Iterator[tuple[str, str]]:
    instructions, responses = generation.instructions, generation.responses
    filters = [name for name, value in vars(generation.filters).items() if value is True]
    filters += [str(spec["_target_"]) for spec in generation.filters.extra]
    seeds = "of the task's own type first" if generation.demonstrations == "own_type" else "of any type"
    yield (
        "instructions",
        f"{instructions.shots} seeds in context, {seeds}; temperature {instructions.temperature}, "
        f"top-p {instructions.top_p}",
    )
    yield "responses", f"{responses.shots} seeds in context; greedy, at most {responses.max_new_tokens} tokens"
    yield "filters", ", ".join(name.replace("_", " ") for name in filters) or "none"


def _describe_adapter(config: Config) -> str:
    lora = config.lora
    kind = {(False, False): "LoRA", (True, False): "rsLoRA", (False, True): "DoRA", (True, True): "DoRA, rsLoRA"}
    base = ", on a 4-bit base model (NF4, QLoRA)" if config.model.quantization == "nf4" else ""
    modules = ", ".join(lora.target_modules)
    return (
        f"{kind[lora.rslora, lora.dora]} rank {lora.r}, alpha {lora.alpha}, dropout {lora.dropout}, on {modules}{base}"
    )


def _describe_tuning(config: Config, counts: Mapping[str, int]) -> str:
    tuning = config.tuning
    return (
        f"{counts['rows']} examples, {tuning.epochs} epochs, {counts['steps']} steps; learning rate "
        f"{tuning.learning_rate}, {tuning.schedule} after warm-up over {tuning.warmup_ratio} of the steps, weight "
        f"decay {tuning.weight_decay}; the adapter of the {tuning.keep} epoch is kept"
    )


def _describe_questions(config: Config) -> str:
    """Where the evaluation questions come from."""
    evaluation = config.evaluation
    assert evaluation.domain is not None  # set by config validation
    if evaluation.sets:
        return f"public sets ({', '.join(evaluation.sets)}), prepared as conf/benchmark says"
    if evaluation.files:
        return f"the user's own ({', '.join(Path(file).name for file in evaluation.files)})"
    name = Path(evaluation.domain.evaluation).name
    return f"those of the domain {evaluation.domain.name} ({name}), which are not a public benchmark"


def _score_tables(report: Mapping[str, Any], measures: Iterable[str]) -> str:
    """A table for each number of shots: value of each model, difference of the specialized one from the others."""
    tables = []
    for grid in score_grids(report, measures):
        rows = [
            [
                heading,
                *(format_cell(score) if score else "" for score in scores),
                *(format_cell(difference, signed=True) if difference else "" for difference in differences),
            ]
            for heading, scores, differences in grid.rows
        ]
        tables.append(f"{grid.shots} shots:\n\n{markdown_table(grid.heads, rows)}")
    return "\n\n".join(tables)
