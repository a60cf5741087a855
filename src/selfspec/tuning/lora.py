"""The adapter on a frozen base: LoRA (Hu et al. 2021, arXiv 2106.09685), rsLoRA or DoRA, by PEFT."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig as PeftLora
from peft import get_peft_model

from selfspec.config.schema import LoraConfig, ModelConfig
from selfspec.errors import UserError
from selfspec.models.weights import weights_identity

ALL_LINEAR = "all-linear"  # PEFT's word for every linear layer but the output head


def add_adapter(base: Any, lora: LoraConfig, seed: int) -> Any:
    """The base with a fresh adapter, its first weights drawn from `seed`.

    Raises:
        UserError: the base has no modules of these names.
    """
    names = list(lora.target_modules)
    settings = PeftLora(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=ALL_LINEAR if names == [ALL_LINEAR] else names,
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(seed)
    try:
        return get_peft_model(base, settings)
    except ValueError as error:
        if "target modules" not in str(error).lower():
            raise
        linear = {n.rpartition(".")[2] for n, module in base.named_modules() if isinstance(module, torch.nn.Linear)}
        raise UserError(
            f"lora.target_modules=[{','.join(names)}] names no module of the model; its linear layers are "
            f"{', '.join(sorted(linear))}."
        ) from None


def save_adapter(model: Any, config: ModelConfig, folder: Any) -> None:
    """PEFT's adapter folder, without a path of this machine."""
    settings = model.peft_config["default"]
    toy = f"{config.name} ({'toy' if config.toy else weights_identity(config)})"
    settings.base_model_name_or_path = toy if config.toy or config.path else config.hub or config.name
    # Sorted, since a set has no order; and no question to the hub, which the default of PEFT asks.
    settings.target_modules = sorted(settings.target_modules)
    model.save_pretrained(folder, save_embedding_layers=False)
