"""The adapter on a frozen base: LoRA (Hu et al. 2021, arXiv 2106.09685) and its variants, by PEFT."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import LoraConfig as PeftLora
from peft import get_peft_model
from torch import Tensor

from selfspec.config.schema import LoraConfig, ModelConfig
from selfspec.errors import UserError
from selfspec.models.load import default_device, forget_base, forget_base_on_error
from selfspec.models.weights import weights_identity
from selfspec.tuning.checkpoints import copy_parameters, parameters_hash
from selfspec.tuning.lora_settings import changes_base_weights, explain_refusal, peft_settings


def add_adapter(base: Any, lora: LoraConfig, seed: int) -> Any:
    """The base with a new adapter, whose initial weights are drawn from `seed`.

    Raises:
        UserError: The base has no modules of these names, or PEFT refuses a setting of `lora.extra`.
    """
    torch.manual_seed(seed)
    with explain_refusal(lora):
        settings = peft_settings(lora)
        try:
            return get_peft_model(base, settings)
        except ValueError as error:
            if "target modules" in str(error).lower():
                raise _no_such_modules(base, lora.target_modules) from None
            raise


@contextmanager
def new_adapter(base: Any, lora: LoraConfig, seed: int) -> Iterator[Any]:
    """The base with a new adapter; the base is restored when the context ends."""
    with forget_base_on_error():
        model = add_adapter(base, lora, seed)
    try:
        yield model
    finally:
        with forget_base_on_error():
            model.unload()
            base.to(default_device()).eval()  # Lightning leaves a model that it trained on the CPU
        if lora.extra:  # PEFT's further settings may change the base's weights
            forget_base()


def _no_such_modules(base: Any, names: Sequence[str]) -> UserError:
    linear = {name.rpartition(".")[2] for name, module in base.named_modules() if isinstance(module, torch.nn.Linear)}
    return UserError(
        f"lora.target_modules=[{','.join(names)}] names no module of the model; its linear layers are "
        f"{', '.join(sorted(linear))}."
    )


def initial_weights(model: Any, lora: LoraConfig) -> dict[str, Tensor] | None:
    """The new adapter's weights, if `save_adapter` needs them: the initialization changed the base's weights."""
    return copy_parameters(model) if changes_base_weights(lora) else None


def check_adapter_changed(model: Any, initial_hash: str, learning_rate: float) -> None:
    """Check that tuning changed the adapter's weights.

    Args:
        model: The base with its tuned adapter.
        initial_hash: `parameters_hash` before the first step.
        learning_rate: Of the tuning, for the message.

    Raises:
        UserError: They are still the initial weights.
    """
    if parameters_hash(model) == initial_hash:
        raise UserError(
            f"The adapter was left unchanged by tuning, so it is not stored; raise tuning.learning_rate={learning_rate}"
            " or choose an objective that has gradients."
        )


def save_adapter(model: Any, config: ModelConfig, folder: Path, initial: dict[str, Tensor] | None = None) -> None:
    """Write PEFT's adapter folder for the unchanged base, without a path of this machine.

    Args:
        model: The base with its tuned adapter.
        config: Of the base; it becomes the adapter's `base_model_name_or_path`.
        folder: Where the files are written.
        initial: What `initial_weights` returned. If it is not None, the difference from it is saved as a plain LoRA
            of twice the rank (PEFT's `path_initial_model_for_weight_conversion`), since W - B0 A0 is not the base.
    """
    settings = model.peft_config["default"]
    toy = f"{config.name} ({'toy' if config.toy else weights_identity(config)})"
    base_name = toy if config.toy or config.path else config.hub or config.name
    settings.target_modules = sorted(settings.target_modules)  # a set has no order
    if initial is not None:
        _save_difference(model, folder, initial)
        settings = PeftLora.from_pretrained(folder)
        settings.base_model_name_or_path = base_name
        settings.save_pretrained(folder)
        return
    settings.base_model_name_or_path = base_name
    model.save_pretrained(folder, save_embedding_layers=False)  # PEFT's default sends a request to the hub


def _save_difference(model: Any, folder: Path, initial: dict[str, Tensor]) -> None:
    """Write scale (B A - B0 A0) as a plain LoRA, without the name of the base, which PEFT would look up on the hub."""
    model.peft_config["default"].base_model_name_or_path = ""
    with TemporaryDirectory(prefix="selfspec-adapter-") as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # PEFT recommends this conversion while it runs it
        path = Path(temporary) / "initial"
        model.save_pretrained(path, save_embedding_layers=False, state_dict=initial)
        model.save_pretrained(folder, save_embedding_layers=False, path_initial_model_for_weight_conversion=str(path))
