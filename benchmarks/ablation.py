"""The table of `experiment=ablation_embedded`, from the jobs of a sweep that are finished so far.

python benchmarks/ablation.py multirun/<date>/<time> > benchmarks/results/ablation_embedded.csv

One row for each job, suite, model, number of shots and measure (mean over task types): the value with its 95% interval,
and the difference from the base model with its interval. The specialized model's rows also have the loss on held-out
seeds, the number of attempts, and the seconds of the stages.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selfspec.reporting.cells import find_score
from selfspec.reporting.results import MEASURES

SCORE_COLUMNS = ("domain", "variant", "suite", "model", "shots", "measure", "value", "low", "high")
DIFFERENCE_COLUMNS = ("minus_base", "from", "to")
COST_COLUMNS = ("held_out_loss", "attempts", "examples_seconds", "adapter_seconds")
NUM_VALUES = 6  # a score and a difference, each with the ends of its interval


def main() -> None:
    """Print the table of the sweep folder on the command line."""
    folder = Path(sys.argv[1])
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow((*SCORE_COLUMNS, *DIFFERENCE_COLUMNS, *COST_COLUMNS))
    for job in json.loads((folder / "sweep.json").read_text())["jobs"]:
        path = Path(job["folder"]) / "results.json"
        if path.exists():
            variant = next(
                text.partition("=")[2] for text in job["overrides"] if text.lstrip("+").startswith("variant=")
            )
            writer.writerows(table_rows(json.loads(path.read_text()), job["choices"]["domain"], variant))


def table_rows(report: dict[str, Any], domain: str, variant: str) -> Iterator[list[Any]]:
    """The rows of one job."""
    costs = cost_values(report)
    for suite, results in (("domain", report), ("off-domain", report.get("off_domain"))):
        if results is None:
            continue
        for score in results["scores"]:
            if score["task"] != "all" or score["measure"] not in MEASURES:
                continue
            keys = {name: score[name] for name in ("model", "shots", "measure")}
            difference = find_score(results["differences"], minus="base", task="all", **keys)
            values = [cell[name] for cell in (score, difference) if cell for name in ("value", "low", "high")]
            texts = [f"{value:.4f}" for value in values] + [""] * (NUM_VALUES - len(values))
            yield [domain, variant, suite, *keys.values(), *texts, *(costs if keys["model"] == "specialized" else [])]


def cost_values(report: dict[str, Any]) -> list[Any]:
    """The values of COST_COLUMNS."""
    seconds = {stage["label"]: stage["seconds"] for stage in report["stages"]}
    loss = report["held_out_loss"]
    generation = [value for label, value in seconds.items() if label.startswith("examples") and "generic" not in label]
    tuning = [seconds[label] for label in seconds if label in ("adapter (specialized)", "adapter (round 2)")]
    return [f"{loss:.4f}", report["funnel"]["attempts"], round(sum(generation), 1), round(sum(tuning), 1)]


if __name__ == "__main__":
    main()
