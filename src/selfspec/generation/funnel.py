"""Blocks until enough examples have passed every filter, and counts of what was dropped."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from selfspec.data.jsonl import write_jsonl
from selfspec.data.records import Example
from selfspec.errors import UserError
from selfspec.generation.candidates import CandidateRows
from selfspec.generation.pools import BLOCK_SIZE


def collect_examples(rows: CandidateRows, wanted: int) -> dict[str, Any]:
    """Blocks until `wanted` rows passed everything; they are written, and every row with its verdicts.

    Raises:
        UserError: `generation.max_attempts` was reached first; what was made is kept.
    """
    job, limit = rows.stage_context, rows.generation.max_attempts
    made: list[Example] = []
    accepted: list[Example] = []
    with job.progress.step(job.stage.label, wanted, "example") as step:
        while len(accepted) < wanted:
            if len(made) + BLOCK_SIZE > limit:
                raise UserError(_too_few_message(wanted, accepted, made, limit))
            block = rows.block(len(made) // BLOCK_SIZE)
            good = [row for row in block if not any(row.verdicts.values())]
            made, accepted = made + block, accepted + good
            step.advance(len(good), f"{len(accepted)} of {len(made)} attempts passed")
    made = made[: made.index(accepted[wanted - 1]) + 1]  # a later row is no business of this view
    write_jsonl(job.output / "examples.jsonl", accepted[:wanted])
    write_jsonl(job.output / "rows.jsonl", made)
    funnel: dict[str, Any] = {"attempts": len(made), "accepted": wanted, "dropped": count_reasons(made)}
    if rows.generation.filters.judge:
        funnel["judge"] = asdict(rows.judge.calibration())
    (job.output / "funnel.json").write_text(json.dumps(funnel, indent=1))
    return {"examples": wanted, "attempts": len(made)}


def count_reasons(rows: Iterable[Example]) -> dict[str, dict[str, int]]:
    """Dropped rows by filter and reason; what a reason names (`near 00001-03`) is left out."""
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        for name, reason in row.verdicts.items():
            if reason:
                plain = reason.split(" of ")[0] if name in ("echo", "contamination") else reason
                plain = {"near": "near duplicate", "same": "same input"}.get(plain.split()[0], plain)
                counts.setdefault(name, Counter())[plain] += 1
    return {name: dict(counter.most_common()) for name, counter in counts.items()}


def _too_few_message(wanted: int, accepted: list[Example], rows: list[Example], limit: int) -> str:
    flat = Counter({f"{name}: {r}": n for name, some in count_reasons(rows).items() for r, n in some.items()})
    common = ", ".join(f"{reason} ({count})" for reason, count in flat.most_common(3)) or "no attempt was made"
    return (
        f"Only {len(accepted)} of {wanted} examples passed in {len(rows)} attempts (most were dropped for {common}); "
        f"what was made is kept, so raise generation.max_attempts={limit} to go on from there, "
        f"or set data_size.examples={max(len(accepted), 1)}."
    )
