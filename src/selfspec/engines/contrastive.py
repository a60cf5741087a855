"""Contrastive decoding of the specialized model against its base (after Li et al., arXiv 2210.15097).

Expert and amateur are the same weights, with the adapter on and off. The paper uses contrastive decoding; its formula
is not known, this one is ours (docs/method.md): score = log p_expert - contrast * log p_amateur, over tokens with
p_expert >= plausible * max p_expert.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from selfspec.engines.protocol import PromptBatch
from selfspec.engines.transformers import TransformersEngine


@dataclass
class _ExpertAndAmateur:
    """The same rows, decoded by expert and amateur."""

    expert: Any
    amateur: Any
    contrast: Tensor  # [rows]; 0 for rows that the expert decides alone
    plausible: float

    @property
    def logits(self) -> Tensor:
        """Scores of the next token [rows, vocabulary]."""
        expert: Tensor = self.expert.logits.float().log_softmax(-1)
        amateur = self.amateur.logits.float().log_softmax(-1)
        scores: Tensor = expert - self.contrast[:, None] * amateur
        implausible: Tensor = expert < expert.amax(-1, keepdim=True) + math.log(self.plausible)
        contrasted = self.contrast[:, None] > 0
        return scores.masked_fill(implausible & contrasted, -torch.inf)

    def keep(self, rows: list[int]) -> None:
        """Drop all rows but these."""
        self.expert.keep(rows)
        self.amateur.keep(rows)
        self.contrast = self.contrast[torch.tensor(rows, device=self.contrast.device)]


class ContrastiveEngine(TransformersEngine):
    """Completes with a model and its adapter, contrasted with the same model without the adapter."""

    def __init__(self, model: Any, tokenizer: Any, contrast: float, plausible: float) -> None:
        super().__init__(model, tokenizer)
        self.contrast, self.plausible = contrast, plausible
        self.amateur = TransformersEngine(model, tokenizer)  # called with the adapter off

    def _read(self, batch: PromptBatch) -> Any:
        closed = batch.closed or (False,) * len(batch.items)
        contrast = torch.tensor([0.0 if label else self.contrast for label in closed], device=self.device)
        with self.model.disable_adapter():
            amateur = self.amateur._read(batch)
        return _ExpertAndAmateur(super()._read(batch), amateur, contrast, self.plausible)

    def _advance(self, state: Any, tokens: list[int]) -> None:
        with self.model.disable_adapter():
            self.amateur._advance(state.amateur, tokens)
        super()._advance(state.expert, tokens)
