"""Over which processes an adapter is tuned, in Lightning's words. They are started from outside, never by Lightning."""

from __future__ import annotations

from typing import Any

from pytorch_lightning.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from pytorch_lightning.strategies import DDPStrategy

from selfspec.ranks import Ranks


class DataParallel(DDPStrategy):  # type: ignore[misc]
    """Each process has the whole model; the adapter's gradients meet in one exchange a step, after the last backward.

    torch's own wrapper exchanges in every backward, so it wants as many of them in each process; a step's forward
    passes are not always as many.
    """

    def configure_ddp(self) -> None:
        """The module stays unwrapped; `Specialization.training_step` sums the gradients."""


def over(ranks: Ranks) -> dict[str, Any]:
    """What `Trainer` is told of the processes."""
    if ranks.world == 1:
        return {"devices": 1, "plugins": [LightningEnvironment()]}  # not the SLURM one, which requeues by itself
    shape = {"devices": ranks.local_world, "num_nodes": ranks.world // ranks.local_world}
    strategy = DataParallel(cluster_environment=TorchElasticEnvironment())
    return {"strategy": strategy, "use_distributed_sampler": False, **shape}
