"""Blocks of candidates until enough examples have passed every filter, and counts of what was dropped."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from selfspec.data.jsonl import write_jsonl
from selfspec.data.records import Example
from selfspec.errors import UserError
from selfspec.filters.registry import summarize_reason
from selfspec.generation.candidates import CandidateRows
from selfspec.generation.pools import BLOCK_SIZE


def collect_examples(rows: CandidateRows, num_examples: int) -> dict[str, Any]:
    """Generate blocks until `num_examples` candidates have passed every filter, and write them.

    Writes `examples.jsonl` (what passed), `rows.jsonl` (every candidate with its verdicts) and `funnel.json` (counts).

    Raises:
        UserError: `generation.max_attempts` was reached first; the blocks are kept.
    """
    context, limit = rows.context, rows.generation.max_attempts
    candidates: list[Example] = []
    accepted: list[Example] = []
    with context.progress.step(context.stage.label, num_examples, "example") as step:
        while len(accepted) < num_examples:
            if len(candidates) + BLOCK_SIZE > limit:
                raise UserError(_too_few_message(num_examples, accepted, candidates, limit))
            block = rows.block(len(candidates) // BLOCK_SIZE)
            passed = [row for row in block if not any(row.verdicts.values())]
            candidates, accepted = candidates + block, accepted + passed
            step.advance(len(passed), f"{len(accepted)} of {len(candidates)} attempts passed")
    # A larger data size continues with the later candidates; they are not part of this one.
    candidates = candidates[: candidates.index(accepted[num_examples - 1]) + 1]
    write_jsonl(context.output / "examples.jsonl", accepted[:num_examples])
    write_jsonl(context.output / "rows.jsonl", candidates)
    funnel: dict[str, Any] = {
        "attempts": len(candidates),
        "accepted": num_examples,
        "dropped": count_reasons(candidates),
    }
    if rows.generation.filters.judge:
        funnel["judge"] = asdict(rows.calibrate_judge())
    (context.output / "funnel.json").write_text(json.dumps(funnel, indent=1))
    return {"examples": num_examples, "attempts": len(candidates)}


def count_reasons(rows: Iterable[Example]) -> dict[str, dict[str, int]]:
    """Dropped candidates by filter and reason; ids in a reason (`near 00001-03`) are left out."""
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        for name, reason in row.verdicts.items():
            if reason:
                counts.setdefault(name, Counter())[summarize_reason(name, reason)] += 1
    return {name: dict(counter.most_common()) for name, counter in counts.items()}


def _too_few_message(num_examples: int, accepted: Sequence[Example], rows: Sequence[Example], limit: int) -> str:
    if not rows:
        return f"generation.max_attempts={limit} is less than one block of {BLOCK_SIZE} attempts; raise it."
    counts: Counter[str] = Counter()
    for name, reasons in count_reasons(rows).items():
        counts.update({f"{name}: {reason}": count for reason, count in reasons.items()})
    common = ", ".join(f"{reason} ({count})" for reason, count in counts.most_common(3))
    attempts = f"in {len(rows)} attempts (most were dropped for {common}); they are kept, so"
    if not accepted:
        return (
            f"No example passed {attempts} change what drops them, or raise generation.max_attempts={limit} to "
            "continue from there."
        )
    return (
        f"Only {len(accepted)} of {num_examples} examples passed {attempts} raise generation.max_attempts={limit} to "
        f"continue from there, or set data_size.examples={len(accepted)}."
    )
