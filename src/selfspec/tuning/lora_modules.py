"""Checks of the names of modules in the group `lora` against the architecture, before any work.

PEFT reports a wrong name only once the model is loaded, and ignores it if another name matches.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from selfspec.config.schema import LoraConfig, ModelConfig
from selfspec.config.tuning_schema import ALL_LINEAR
from selfspec.errors import UserError, did_you_mean
from selfspec.models.architecture import meta_network


def check_lora_modules(lora: LoraConfig, model: ModelConfig) -> None:
    """Check every name of a module and number of a layer; an architecture that can't be built is not checked.

    Raises:
        UserError: The first that the model does not have.
    """
    if (network := meta_network(model)) is None:
        return
    from torch.nn import Embedding, Linear
    from transformers.pytorch_utils import Conv1D

    paths = [path for path, _ in network.named_modules()]
    adaptable = [path for path, module in network.named_modules() if isinstance(module, Linear | Embedding | Conv1D)]
    if lora.target_modules != (ALL_LINEAR,):
        key = f"lora.target_modules=[{','.join(lora.target_modules)}]"
        _check_names(key, lora.target_modules, adaptable, _ends_with)
    _check_names("lora.extra.modules_to_save", lora.extra.get("modules_to_save") or (), paths, str.endswith)
    for name in ("rank_pattern", "alpha_pattern"):
        _check_names(f"lora.extra.{name}", lora.extra.get(name) or (), adaptable, _matches)
    if (layers := lora.extra.get("layers_to_transform")) is not None:
        _check_layers(layers, int(network.config.num_hidden_layers))


def _check_names(key: str, names: Iterable[str], paths: Sequence[str], is_match: Callable[[str, str], bool]) -> None:
    """Check that each name matches a module: `is_match` gets the path of a module and the name."""
    known = dict.fromkeys(path.rpartition(".")[2] for path in paths if path and not path[-1].isdigit())
    for name in names:
        if not any(is_match(path, name) for path in paths):
            raise UserError(
                f"{key} is wrong, because the model has no {name}; {did_you_mean(name, known)}choose from "
                f"{', '.join(sorted(known))}."
            )


def _ends_with(path: str, name: str) -> bool:
    return f".{path}".endswith(f".{name}")


def _matches(path: str, pattern: str) -> bool:
    """As PEFT matches the keys of its patterns."""
    try:
        return bool(re.fullmatch(rf"(.*\.)?({pattern})", path))
    except re.error as error:
        raise UserError(f"lora.extra has the pattern {pattern}, which is no regular expression ({error}).") from None


def _check_layers(layers: int | list[int], num_layers: int) -> None:
    for layer in layers if isinstance(layers, list) else [layers]:
        if layer not in range(num_layers):
            raise UserError(
                f"lora.extra.layers_to_transform={layers} is wrong, because the model has no layer {layer}; choose "
                f"from 0 to {num_layers - 1}."
            )
