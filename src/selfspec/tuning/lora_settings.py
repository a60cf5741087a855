"""Checks of `lora.extra`: further keywords of PEFT's LoraConfig. PEFT is imported only if there are some."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from selfspec.config.schema import LoraConfig
from selfspec.config.tuning_schema import ALL_LINEAR
from selfspec.errors import UserError, did_you_mean

FIELD_OF_KEYWORD = {
    "r": "lora.r",
    "lora_alpha": "lora.alpha",
    "lora_dropout": "lora.dropout",
    "target_modules": "lora.target_modules",
    "use_rslora": "lora.rslora",
    "use_dora": "lora.dora",
    "base_model_name_or_path": "model",
    "revision": "model.revision",
}
FIXED_KEYWORDS = ("task_type", "peft_type", "inference_mode", "auto_mapping", "peft_version", "runtime_config")
# These train or rearrange the base's own modules, which every stage of this process shares.
BASE_CHANGING_KEYWORDS = ("bias", "layer_replication")

PLAIN_INITIALIZATIONS = ("true", "false", "gaussian", "orthogonal")
# PiSSA (Meng et al. 2024, arXiv 2404.02948) and OLoRA (Büyükakyüz 2024, arXiv 2406.01775) subtract the initial B0 A0
# from the base's weights.
BASE_CHANGING_INITIALIZATIONS = re.compile(r"pissa(_niter_\d+)?|olora")


def check_lora_extra(lora: LoraConfig, quantization: str) -> None:
    """Check `lora.extra` against the signature of PEFT's LoraConfig and against what an adapter can be saved with.

    Raises:
        UserError: The first keyword that is not accepted.
    """
    if not lora.extra:
        return
    from peft import LoraConfig as PeftLora

    keywords = inspect.signature(PeftLora).parameters
    for keyword in lora.extra:
        if keyword not in keywords:
            raise UserError(
                f"lora.extra has {keyword}, which PEFT's LoraConfig does not accept; "
                f"{did_you_mean(keyword, keywords)}leave it out."
            )
        if keyword in FIELD_OF_KEYWORD:
            raise UserError(f"lora.extra can't set {keyword}; set {FIELD_OF_KEYWORD[keyword]} in its place.")
        if keyword in FIXED_KEYWORDS:
            raise UserError(f"lora.extra can't set {keyword}, which selfspec sets itself; leave it out.")
        if keyword in BASE_CHANGING_KEYWORDS:
            raise UserError(
                f"lora.extra can't set {keyword}, because it changes the base model itself, which other stages use; "
                "leave it out."
            )
    _check_initialization(lora, quantization)
    with explain_refusal(lora):
        peft_settings(lora)


def peft_settings(lora: LoraConfig) -> Any:
    """PEFT's LoraConfig."""
    from peft import LoraConfig as PeftLora

    names = list(lora.target_modules)
    return PeftLora(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=ALL_LINEAR if names == [ALL_LINEAR] else names,
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        task_type="CAUSAL_LM",
        **lora.extra,
    )


@contextmanager
def explain_refusal(lora: LoraConfig) -> Iterator[None]:
    """Turn an error of PEFT's own checks of `lora.extra` into one sentence."""
    try:
        yield
    except (ValueError, TypeError) as error:
        if not lora.extra:
            raise
        reason = " ".join(str(error).split())
        raise UserError(f"PEFT refuses lora.extra={lora.extra} ({reason}); change it or leave it out.") from error


def _check_initialization(lora: LoraConfig, quantization: str) -> None:
    name = lora.extra.get("init_lora_weights", True)
    text = f"lora.extra.init_lora_weights={str(name).lower()}"
    if changes_base_weights(lora):
        if lora.dora or "modules_to_save" in lora.extra or (lora.rslora and _has_patterns(lora)):
            raise UserError(
                f"{text} can't be combined with lora.dora, modules_to_save, or lora.rslora with rank_pattern or "
                "alpha_pattern, because PEFT can't save the result as a plain LoRA; leave one of them out."
            )
        if quantization != "none":
            raise UserError(
                f"{text} changes the base's weights, which quantization={quantization} has packed; "
                "choose quantization=none or another initialization."
            )
    elif str(name).lower() not in PLAIN_INITIALIZATIONS:
        allowed = (*PLAIN_INITIALIZATIONS, "pissa", "pissa_niter_4", "olora")
        raise UserError(
            f"{text} is not supported, because it needs data or a conversion that selfspec does not run; "
            f"{did_you_mean(str(name), allowed)}choose one of {', '.join(allowed)}."
        )


def changes_base_weights(lora: LoraConfig) -> bool:
    """Whether the initialization changes the base's weights, so that it needs them whole and unquantized."""
    return bool(BASE_CHANGING_INITIALIZATIONS.fullmatch(str(lora.extra.get("init_lora_weights", ""))))


def _has_patterns(lora: LoraConfig) -> bool:
    return bool(lora.extra.get("rank_pattern") or lora.extra.get("alpha_pattern"))
