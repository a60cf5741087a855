"""The table of `experiment=ablation_embedded`, from the finished jobs of a sweep, also half way.

python benchmarks/ablation.py multirun/<date>/<time> > benchmarks/results/ablation_embedded.csv

One line a job, suite, model, number of shots and measure (mean over task types): the value, its 95% interval, and the
difference from the base with its own; then the loss on held-out seeds, the attempts, and seconds of the stages.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selfspec.reporting.results import MEASURES
from selfspec.reporting.tables import find_score

HEAD = ("domain", "variant", "suite", "model", "shots", "measure", "value", "low", "high", "minus_base", "from", "to")
FACTS = ("held_out_loss", "attempts", "examples_seconds", "adapter_seconds")


def main() -> None:
    """Print the table of the sweep that is named."""
    folder = Path(sys.argv[1])
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow((*HEAD, *FACTS))
    for job in json.loads((folder / "sweep.json").read_text())["jobs"]:
        path = Path(job["folder"]) / "results.json"
        if path.exists():
            variant = next(text.partition("=")[2] for text in job["overrides"] if text.startswith("+variant="))
            writer.writerows(lines(json.loads(path.read_text()), job["choices"]["domain"], variant))


def lines(report: dict[str, Any], domain: str, variant: str) -> Iterator[list[Any]]:
    """The lines of one job."""
    spent = facts(report)
    for suite, some in (("domain", report), ("off-domain", report.get("off_domain"))):
        found = some or {"scores": [], "differences": []}
        for cell in (cell for cell in found["scores"] if cell["task"] == "all"):
            if cell["measure"] not in MEASURES:
                continue
            place = {name: cell[name] for name in ("model", "shots", "measure")}
            gap = find_score(found["differences"], minus="base", task="all", **place)
            numbers = [values[name] for values in (cell, gap) if values for name in ("value", "low", "high")]
            shown = [f"{number:.4f}" for number in numbers] + [""] * (6 - len(numbers))
            yield [domain, variant, suite, *place.values(), *shown, *(spent if cell["model"] == "specialized" else [])]


def facts(report: dict[str, Any]) -> list[Any]:
    """What the specialized model's data and adapter were, and cost."""
    seconds = {stage["label"]: stage["seconds"] for stage in report["stages"]}
    loss = report["held_out_loss"]
    written = [value for label, value in seconds.items() if label.startswith("examples") and "generic" not in label]
    tuned = [seconds[label] for label in seconds if label in ("adapter (specialized)", "adapter (round 2)")]
    return [f"{loss:.4f}", report["funnel"]["attempts"], round(sum(written), 1), round(sum(tuned), 1)]


if __name__ == "__main__":
    main()
