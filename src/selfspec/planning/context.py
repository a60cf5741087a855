"""The context length: the shorter of the config's and that of the files in `model.path`; prompts must fit it."""

from __future__ import annotations

from dataclasses import replace

from selfspec.config.schema import Config, ModelConfig
from selfspec.errors import UserError
from selfspec.planning.lengths import seed_lengths
from selfspec.planning.parameters import local_architecture

CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len")  # of config.json, by family


def with_local_context(model: ModelConfig) -> ModelConfig:
    """The model with the context length of its files, and a note on it, if they have a shorter one."""
    architecture = None if model.toy else local_architecture(model.path)
    lengths = [value for key in CONTEXT_KEYS if isinstance(value := (architecture or {}).get(key), int) and value > 0]
    if not lengths or min(lengths) >= model.context_length:
        return model
    note = f"{model.path} has a context of {min(lengths)} tokens, which replaces model.context_length"
    return replace(model, context_length=min(lengths), notes=(f"{note}={model.context_length}.",))


def check_prompts_fit(config: Config) -> None:
    """Check that prompts of generation with shots of mean length, and what is written after them, fit the context.

    The tokens are estimated. Prompts of evaluation leave shots out that do not fit.

    Raises:
        UserError: They don't; the message names the number of shots.
    """
    seeds, generation = seed_lengths(config.domain, config.prompts), config.generation
    instructions, responses = generation.instructions, generation.responses
    written = instructions.instruction_tokens + instructions.input_tokens
    num_tokens = {
        f"generation.instructions.shots={instructions.shots}": seeds.list_prefix(instructions.shots) + written,
        f"generation.responses.shots={responses.shots}": seeds.prefix(responses.shots) + responses.max_new_tokens,
    }
    for setting, count in num_tokens.items():
        if count > config.model.context_length:
            raise UserError(
                f"With {setting}, a prompt and its completion have about {count} tokens, more than the "
                f"{config.model.context_length} of the model's context; lower the shots, or choose another model."
            )
