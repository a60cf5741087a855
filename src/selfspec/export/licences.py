"""Licences of base models, and what they ask of whoever passes on a model made from one. No legal advice."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Licence:
    """A licence as a model card names it."""

    name: str
    identifier: str  # the hub's: `other` for those that it does not know
    url: str
    asks: str  # in short

    @property
    def slug(self) -> str:
        """The hub's form of the name of a licence that it does not know."""
        return re.sub(r"[^a-z0-9.]+", "-", self.name.lower()).strip("-")


_KNOWN = (
    Licence(
        "Apache-2.0",
        "apache-2.0",
        "https://www.apache.org/licenses/LICENSE-2.0",
        "pass on its text and the base's notices, and say that the weights were changed",
    ),
    Licence(
        "Gemma terms of use",
        "gemma",
        "https://ai.google.dev/gemma/terms",
        "an adapter, merged weights and models trained on their outputs are Model Derivatives: pass on the terms, keep "
        "the use restrictions (section 3.2) in force for who gets them, say that files were changed, and add the "
        'notice "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms"',
    ),
    Licence(
        "Llama 2 Community License",
        "llama2",
        "https://ai.meta.com/llama/license/",
        "pass on the agreement and its Acceptable Use Policy, add the notice "
        '"Llama 2 is licensed under the LLAMA 2 Community License, Copyright (c) Meta Platforms, Inc. All Rights '
        'Reserved.", and use the model or its outputs to improve no other large language model',
    ),
    Licence(
        "Llama 3.1 Community License",
        "llama3.1",
        "https://www.llama.com/llama3_1/license/",
        'pass on the agreement and its Acceptable Use Policy, display "Built with Llama", begin the model\'s name with '
        '"Llama", and add the notice "Llama 3.1 is licensed under the Llama 3.1 Community License, Copyright (c) Meta '
        'Platforms, Inc. All Rights Reserved."',
    ),
)


def licence_of(name: str) -> Licence:
    """The licence that `model.licence` names; one that is not known is to be read."""
    own = Licence(name, "other", "", "read it before you pass the model on")
    return next((licence for licence in _KNOWN if licence.name == name), own)
