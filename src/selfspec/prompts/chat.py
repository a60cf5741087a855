"""Chat templates, and the tokens that begin every text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from selfspec.config.schema import ModelConfig
from selfspec.errors import UserError


@dataclass(frozen=True)
class ChatTemplate:
    """The text around a prompt: empty for a base model, the user turn of an instruct model.

    A prompt is the user's message. An item that `continues_response` is the beginning of what the model writes, so it
    belongs to the model's turn.
    """

    head: str = ""
    tail: str = ""  # between the user's message and the model's

    def prefix(self, text: str, continues_response: bool = False) -> str:
        """What precedes an item."""
        return self.head + text + (self.tail if continues_response else "")

    def item(self, text: str, continues_response: bool = False) -> str:
        """An item, up to where the model continues."""
        return text if continues_response or not self.tail else text.rstrip() + self.tail


def chat_template_of(tokenizer: Any) -> ChatTemplate:
    """The chat template of a tokenizer, which `with_prompt_style` keeps for `model.prompt=chat` only.

    Raises:
        UserError: the template leaves out the user's message.
    """
    if not getattr(tokenizer, "chat_template", None):
        return ChatTemplate()
    mark, options = "<prompt>", {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
    head, match, tail = tokenizer.apply_chat_template([{"role": "user", "content": mark}], **options).partition(mark)
    if not match:
        raise UserError("model.prompt=chat: the tokenizer's chat template leaves out the user's message; choose base.")
    return ChatTemplate(head, tail)


def with_prompt_style(tokenizer: Any, model: ModelConfig) -> Any:
    """The tokenizer with its chat template, or without it for `model.prompt=base`: many base models have one.

    Raises:
        UserError: it has none.
    """
    if model.prompt == "base":
        tokenizer.chat_template = None
    elif not tokenizer.chat_template:
        raise UserError(f"model.prompt=chat: the tokenizer of {model.name} has no chat template; choose base.")
    return tokenizer


def bos_ids(tokenizer: Any) -> list[int]:
    """Ids that begin every text: those that the tokenizer adds by itself, unless the chat template contains them."""
    begin = [token for token in tokenizer("").input_ids if token != tokenizer.eos_token_id]
    head = tokenizer(chat_template_of(tokenizer).head, add_special_tokens=False).input_ids
    return [] if head[: len(begin)] == begin else begin
