"""A model without its weights: `model.toy=true` keeps the architecture and its modules' names, thin and random."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from selfspec import domains
from selfspec.config.schema import ModelConfig
from selfspec.prompts.chat import with_prompt_style

TOY_VOCABULARY_SIZE = 2048


SPECIAL = ["<pad>", "<bos>", "<eos>"]


CHAT = (
    "{% for turn in messages %}[{{ turn.role }}]\n{{ turn.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)


def toy_hash() -> str:
    """What the toy tokenizer is made from, hashed."""
    return hashlib.sha256("\n".join(_texts()).encode()).hexdigest()[:16]


def build_toy(model: ModelConfig) -> tuple[Any, Any]:
    """(model, tokenizer): random weights in float32, the same at every call."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = with_prompt_style(_tokenizer(), model)
    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<{name}>") for name in ("pad", "bos", "eos")}
    numbers = {**model.architecture, **model.toy_architecture, "vocab_size": len(tokenizer), **ids}
    config = AutoConfig.for_model(numbers.pop("model_type"), **numbers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32), tokenizer


def write_toy(model: ModelConfig, folder: Path) -> None:
    """The same as files, in every process that asks (transformers' own writing leaves it to the first)."""
    from safetensors.torch import save_model

    network, tokenizer = build_toy(model)
    network.config.save_pretrained(folder)
    save_model(network, str(folder / "model.safetensors"), {"format": "pt"})
    tokenizer.save_pretrained(folder)


def _texts() -> list[str]:
    files = sorted(Path(domains.__file__).parent.glob("*/seeds.jsonl"))
    rows = [json.loads(line) for path in files for line in path.read_text(encoding="utf-8").split("\n") if line]
    return [f"{row['instruction']}\n{row['input']}\n" for row in rows]


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TOY_VOCABULARY_SIZE,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    plain.train_from_iterator(_texts(), trainer)
    pad, bos, eos = SPECIAL
    special = {"pad_token": pad, "bos_token": bos, "eos_token": eos, "chat_template": CHAT}
    return PreTrainedTokenizerFast(tokenizer_object=plain, **special)
