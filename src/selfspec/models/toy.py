"""Toy models (`model.toy=true`): the architecture and module names of a model, with thin layers and random weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from selfspec.config.schema import ModelConfig
from selfspec.prompts.chat import with_prompt_style

DOMAINS = Path(__file__).parents[1] / "domains"  # whose seeds the tokenizer is trained on
TOY_VOCABULARY_SIZE = 2048
SPECIAL_TOKENS = ["<pad>", "<bos>", "<eos>"]

CHAT_TEMPLATE = (
    "{% for turn in messages %}[{{ turn.role }}]\n{{ turn.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)


def toy_hash() -> str:
    """A hash of the texts that the toy tokenizer is trained on."""
    return hashlib.sha256("\n".join(_tokenizer_texts()).encode()).hexdigest()[:16]


def build_toy(model: ModelConfig) -> tuple[Any, Any]:
    """Build the toy of a model in float32; every call gives the same weights.

    Returns:
        (model, tokenizer)
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = with_prompt_style(_train_tokenizer(), model)
    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<{name}>") for name in ("pad", "bos", "eos")}
    architecture = {**model.architecture, **model.toy_architecture, "vocab_size": len(tokenizer), **ids}
    config = AutoConfig.for_model(architecture.pop("model_type"), **architecture)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32), tokenizer


def write_toy(model: ModelConfig, folder: Path) -> None:
    """Write config, weights and tokenizer of a toy; in every process, where transformers would write on rank 0 only."""
    from safetensors.torch import save_model

    network, tokenizer = build_toy(model)
    network.config.save_pretrained(folder)
    save_model(network, str(folder / "model.safetensors"), {"format": "pt"})
    tokenizer.save_pretrained(folder)


def _tokenizer_texts() -> list[str]:
    """Instructions and inputs of all shipped seeds."""
    files = sorted(DOMAINS.glob("*/seeds.jsonl"))
    rows = [json.loads(line) for path in files for line in path.read_text(encoding="utf-8").split("\n") if line]
    return [f"{row['instruction']}\n{row['input']}\n" for row in rows]


def _train_tokenizer() -> Any:
    """A byte-level BPE tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TOY_VOCABULARY_SIZE,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_tokenizer_texts(), trainer)
    pad, bos, eos = SPECIAL_TOKENS
    special_tokens = {"pad_token": pad, "bos_token": bos, "eos_token": eos}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=CHAT_TEMPLATE, **special_tokens)
