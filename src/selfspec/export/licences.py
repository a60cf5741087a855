"""Licences of base models, and what they require when a derived model is shared. This is not legal advice."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Licence:
    """A licence as the model card names it."""

    name: str
    identifier: str  # of the Hugging Face hub; `other` for a licence that it does not list
    url: str
    requirements: str  # in short, for sharing a derived model

    @property
    def slug(self) -> str:
        """The name as the hub's `license_name` of a licence that it does not list."""
        return re.sub(r"[^a-z0-9.]+", "-", self.name.lower()).strip("-")


_KNOWN = (
    Licence(
        "Apache-2.0",
        "apache-2.0",
        "https://www.apache.org/licenses/LICENSE-2.0",
        "include its text and the notices of the base model, and state that the weights were changed",
    ),
    Licence(
        "Gemma terms of use",
        "gemma",
        "https://ai.google.dev/gemma/terms",
        "an adapter, merged weights and models trained on their outputs are Model Derivatives: include the terms, "
        "bind recipients to the use restrictions (section 3.2), state that files were changed, and add the "
        'notice "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms"',
    ),
    Licence(
        "Llama 2 Community License",
        "llama2",
        "https://ai.meta.com/llama/license/",
        "include the agreement and its Acceptable Use Policy, add the notice "
        '"Llama 2 is licensed under the LLAMA 2 Community License, Copyright (c) Meta Platforms, Inc. All Rights '
        'Reserved.", and do not use the model or its outputs to improve another large language model',
    ),
    Licence(
        "Llama 3.1 Community License",
        "llama3.1",
        "https://www.llama.com/llama3_1/license/",
        'include the agreement and its Acceptable Use Policy, display "Built with Llama", begin the model\'s name with '
        '"Llama", and add the notice "Llama 3.1 is licensed under the Llama 3.1 Community License, Copyright (c) Meta '
        'Platforms, Inc. All Rights Reserved."',
    ),
)


def find_licence(name: str) -> Licence:
    """The licence that `model.licence` names, known or not."""
    unknown = Licence(name, "other", "", "read it before you share the model")
    return next((licence for licence in _KNOWN if licence.name == name), unknown)
