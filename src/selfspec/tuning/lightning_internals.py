"""Internals of Lightning that selfspec sets; no other module touches them.

They were read in the versions below; tests/unit/test_library_internals.py fails when one of them changes.
"""

from __future__ import annotations

from typing import Any

LIGHTNING_VERSIONS = ">=2.6,<3"


def set_logged_step(trainer: Any, step: int) -> None:
    """Let callbacks that log (LearningRateMonitor, DeviceStatsMonitor) count steps from `step`, in a resumed run."""
    trainer.fit_loop.epoch_loop._batches_that_stepped = step
