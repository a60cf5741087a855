"""Data parallelism: each process holds the whole model, and the adapter's gradients are summed once a step."""

from __future__ import annotations

from pytorch_lightning.strategies import DDPStrategy

from selfspec.tuning.checkpoints import trainable_parameters


class AdapterDDPStrategy(DDPStrategy):  # type: ignore[misc]
    """DDP without torch's wrapper, for a frozen base and a small adapter.

    `DistributedDataParallel` all-reduces in every backward pass, so each process must have as many. Here the forward
    passes of a step may differ in number between processes: `DDPBackend` all-reduces once, after the last of them.
    """

    def configure_ddp(self) -> None:
        """Leave the module unwrapped."""

    def model_to_device(self) -> None:
        """Move the adapter only: the frozen base is on its device, or offloaded."""
        for parameter in trainable_parameters(self.model).values():
            parameter.data = parameter.data.to(self.root_device)
