"""Tuning objectives: the loss of a forward pass, and the number of tokens that a step's loss is the mean over.

An objective is chosen by the group `objective`: a name of `OBJECTIVES`, or a user's object by `_target_`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from selfspec.config.targets import build_target, find_target
from selfspec.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from selfspec.tuning.batches import EncodedExample
    from selfspec.tuning.packing import SegmentMask


class TuningObjective(Protocol):
    """The loss of an optimizer step is the sum of `loss_sum` over its forward passes, divided by its target tokens."""

    def num_target_tokens(self, example: EncodedExample) -> int:
        """Number of tokens that `example` adds to the denominator of its step; known before training."""

    def loss_sum(self, model: Any, examples: Sequence[EncodedExample], mask: SegmentMask) -> Tensor:
        """Loss summed over the target tokens of a forward pass.

        Args:
            model: The base with its adapter, inside `segmented_attention`.
            examples: The packed examples of this forward pass, each with its targets.
            mask: Builds the attention mask of a packed row from its lengths; see `loss.response_logits`.

        Returns:
            A scalar in float32, with gradients.
        """


class Imitation:
    """Cross-entropy on the response of each example: supervised fine-tuning (paper, section 3.2)."""

    def num_target_tokens(self, example: EncodedExample) -> int:
        """Tokens of the response, its end token included."""
        return len(example.response)

    def loss_sum(self, model: Any, examples: Sequence[EncodedExample], mask: SegmentMask) -> Tensor:
        """Cross-entropy in nats, summed over the response tokens."""
        from selfspec.tuning.loss import response_loss_sum  # torch is not needed to validate a config

        return response_loss_sum(model, examples, mask)


OBJECTIVES: Mapping[str, type[TuningObjective]] = {"imitation": Imitation}


def build_objective(spec: Mapping[str, Any]) -> TuningObjective:
    """The objective of the group `objective`.

    Args:
        spec: `{name: imitation}`, or `{_target_: package.module.Class, argument: value}`; there a name says nothing.

    Raises:
        UserError: There is no such objective, or its arguments are wrong.
    """
    check_objective(spec)
    if "_target_" in spec:
        objective: TuningObjective = build_target("objective", _without_name(spec))
        return objective
    return OBJECTIVES[spec["name"]](**_without_name(spec))


def check_objective(spec: Mapping[str, Any]) -> None:
    """Check that the objective exists, without building it.

    Raises:
        UserError: It does not.
    """
    if "_target_" in spec:
        find_target("objective", spec)
        return
    name = spec.get("name")
    if name not in OBJECTIVES:
        raise UserError(
            f"objective.name={name} is none of {', '.join(OBJECTIVES)}; {did_you_mean(str(name), OBJECTIVES)}"
            "choose one, or name your own by _target_."
        )
    if further := _without_name(spec):
        raise UserError(f"objective={name} has no setting {next(iter(further))}; leave it out.")


def _without_name(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in spec.items() if key != "name"}
