"""Chat templates and the tokens that begin every text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from selfspec.config.schema import ModelConfig
from selfspec.errors import UserError


@dataclass(frozen=True)
class ChatTemplate:
    """What stands around the prompts of a model that converses: nothing for a base model, which just goes on.

    A prompt is what the user says. Where an item has `begun` what the model shall go on with (a task of the list), it
    stands in the model's own turn.
    """

    head: str = ""
    tail: str = ""  # between what the user says and what the model says

    def prefix(self, text: str, begun: bool = False) -> str:
        """What stands before an item."""
        return self.head + text + (self.tail if begun else "")

    def item(self, text: str, begun: bool = False) -> str:
        """An item, up to where the model goes on."""
        return text if begun or not self.tail else text.rstrip() + self.tail


def chat_template_of(tokenizer: Any) -> ChatTemplate:
    """Those of the tokenizer's chat template, which `choose_style` leaves there only for `model.prompt=chat`.

    Raises:
        UserError: the template does not show what the user says.
    """
    if not getattr(tokenizer, "chat_template", None):
        return ChatTemplate()
    said, options = "<prompt>", {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
    head, found, tail = tokenizer.apply_chat_template([{"role": "user", "content": said}], **options).partition(said)
    if not found:
        raise UserError("model.prompt=chat: the tokenizer's chat template leaves out what the user says; choose base.")
    return ChatTemplate(head, tail)


def with_prompt_style(tokenizer: Any, model: ModelConfig) -> Any:
    """The tokenizer with its chat template, or for `model.prompt=base` without: many base models' carry one.

    Raises:
        UserError: it has none.
    """
    if model.prompt == "base":
        tokenizer.chat_template = None
    elif not tokenizer.chat_template:
        raise UserError(f"model.prompt=chat: the tokenizer of {model.name} has no chat template; choose base.")
    return tokenizer


def bos_ids(tokenizer: Any) -> list[int]:
    """Ids that begin every text: those that the tokenizer adds by itself, unless the chat template brings them."""
    begin = [token for token in tokenizer("").input_ids if token != tokenizer.eos_token_id]
    head = tokenizer(chat_template_of(tokenizer).head, add_special_tokens=False).input_ids
    return [] if head[: len(begin)] == begin else begin
