"""The loss curve of an adapter as coordinates of an SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

LEFT, TOP, WIDTH, HEIGHT = 40, 45, 410, 160  # of the plotting area, in pixels; report.html.j2 draws its axes


def plot_loss(name: str, curve: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Lay out one curve.

    Args:
        name: The adapter's name.
        curve: One entry for each step, with its loss, and at some steps the loss on the held-out seeds.

    Returns:
        `line`, the points of a polyline; `dots`, (x, y, text) of each loss on the held-out seeds; `top`, `bottom` and
        `steps`, the labels of the axes.
    """
    losses = [step["loss"] for step in curve]
    held_out = {index: step["held_out_loss"] for index, step in enumerate(curve) if "held_out_loss" in step}
    if "held_out_loss_before" in curve[0]:
        held_out = {-1: curve[0]["held_out_loss_before"], **held_out}  # of the base model
    top, bottom = max([*losses, *held_out.values()]), min([*losses, *held_out.values(), 0.0])
    scale = (top - bottom) or 1.0

    def coordinates(index: int, loss: float) -> tuple[float, float]:
        x = LEFT + WIDTH * (index + 1) / len(curve)
        return round(x, 1), round(TOP + HEIGHT - HEIGHT * (loss - bottom) / scale, 1)

    points = [coordinates(index, loss) for index, loss in enumerate(losses)]
    return {
        "name": name,
        "line": " ".join(f"{x},{y}" for x, y in points),
        "dots": [(*coordinates(index, loss), f"{loss:.2f}") for index, loss in held_out.items()],
        "top": f"{top:.1f}",
        "bottom": f"{bottom:.1f}",
        "steps": len(curve),
    }
