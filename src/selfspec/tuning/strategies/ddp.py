"""Data parallelism: each process holds the whole model and sums the gradients of the adapter once a step."""

from __future__ import annotations

from pytorch_lightning.strategies import DDPStrategy

from selfspec.tuning.checkpoints import trainable_parameters


class AdapterDDPStrategy(DDPStrategy):  # type: ignore[misc]
    """Each process has the whole model; the adapter's gradients meet in one exchange a step, after the last backward.

    torch's own wrapper exchanges in every backward, so it wants as many of them in each process; a step's forward
    passes are not always as many.
    """

    def configure_ddp(self) -> None:
        """The module stays unwrapped; `gradients.Whole` sums what it has."""

    def model_to_device(self) -> None:
        """The base stays where it lies, perhaps in the machine's memory; what is tuned goes where it is computed."""
        for parameter in trainable_parameters(self.model).values():
            parameter.data = parameter.data.to(self.root_device)
