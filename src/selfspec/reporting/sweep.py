"""A sweep's report, drawn from `sweep.json`, the jobs' results and the store, at any time, also half way.

python -m selfspec.reporting.sweep multirun/2026-01-31/12-00-00
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape

from selfspec.reporting.results import MEASURES
from selfspec.reporting.tables import cell, find, number
from selfspec.store import Store

CHOICES = ("domain", "model", "examples", "lora_r", "seed")


def write_report(folder: Path) -> None:
    """`report.html` and `report.csv` beside `sweep.json`."""
    sweep = json.loads((folder / "sweep.json").read_text())
    rows = [_job(job) for job in sweep["jobs"]]
    environment = Environment(
        loader=PackageLoader("selfspec", "reporting"), autoescape=select_autoescape(default=True), trim_blocks=True
    )
    page = environment.get_template("sweep.html.j2").render(
        title=" / ".join(folder.parts[-2:]),
        rows=rows,
        heads=list(dict.fromkeys(head for row in rows for head in row["cells"])),
        stages=_stages(sweep),
        choices=CHOICES,
    )
    (folder / "report.html").write_text(page, encoding="utf-8")
    with (folder / "report.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        fields = ("model", "shots", "task", "measure", "value", "low", "high")
        writer.writerow(
            ["job", "overrides", *CHOICES, *(f"scored_{name}" if name == "model" else name for name in fields)]
        )
        for row in rows:
            for score in row["scores"]:
                chosen = [row["choices"][name] for name in CHOICES]
                writer.writerow([row["number"], row["overrides"], *chosen, *(score[name] for name in fields)])


def _job(job: dict[str, Any]) -> dict[str, Any]:
    """One row: its choices, and the overall scores or what went wrong."""
    folder = Path(job["folder"])
    row: dict[str, Any] = {"number": job["number"], "choices": job["choices"], "overrides": " ".join(job["overrides"])}
    row |= {"state": "missing", "told": "", "scores": [], "cells": {}}
    if (folder / "results.json").exists():
        report = json.loads((folder / "results.json").read_text())
        row |= {"state": "done", "scores": report["scores"], "page": (folder / "report.html").name}
        row["page"] = f"{folder.name}/report.html"
        for shots in sorted({score["shots"] for score in report["scores"]}):
            for measure in ("token_f1", "compliant", "label_accuracy", "option_accuracy"):
                place = {"shots": shots, "measure": measure, "task": "all"}
                specialized = find(report["scores"], model="specialized", **place)
                gap = find(report["differences"], model="specialized", minus="base", **place)
                if specialized and gap:
                    row["cells"][f"{MEASURES[measure]}, {shots} shots"] = (
                        number(specialized["value"]),
                        cell(gap, True),
                    )
    elif (folder / "error.json").exists():
        row |= {"state": "failed", "told": json.loads((folder / "error.json").read_text())["what"]}
    return row


def _stages(sweep: dict[str, Any]) -> list[dict[str, Any]]:
    """What each distinct stage cost, and by how many jobs it was shared."""
    store = Store(Path(sweep["store"]))
    shared = [place for job in sweep["jobs"] for place in job["stages"].values()]
    rows = []
    for key, stage in sweep["stages"].items():
        done = store.find(stage["name"], key)
        manifest = store.manifest(stage["name"], key) if done else {}
        count = shared.count(f"{stage['name']}/{key}")
        rows.append({**stage, "key": key, "seconds": manifest.get("seconds"), "jobs": count})
    return rows


if __name__ == "__main__":
    write_report(Path(sys.argv[1]))
    print(Path(sys.argv[1]) / "report.html")
