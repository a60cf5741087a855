"""Text metrics of one prediction against one reference, as the field computes them."""

from __future__ import annotations

from collections import Counter

import regex
from rapidfuzz.distance import LCSseq

from selfspec.data.text import UNSPACED, fold, words

_ARTICLES = regex.compile(r"\b(a|an|the)\b")
_PUNCTUATION = regex.compile(r"[\p{P}\p{S}]")  # of ASCII, exactly string.punctuation
_UNSPACED = regex.compile(rf"([{UNSPACED}]\p{{M}}*)")


def normalize_answer(text: str) -> str:
    """Fold, and remove punctuation and articles, as SQuAD's evaluation script does for ASCII.

    Characters of scripts without spaces become words. A text of nothing else keeps its articles (the answer `A`), or
    its punctuation (the answer `%`): only an empty text becomes empty.
    """
    folded = fold(text)
    plain = _UNSPACED.sub(r" \1 ", _PUNCTUATION.sub("", folded))
    forms = (" ".join(form.split()) for form in (_ARTICLES.sub(" ", plain), plain, folded))
    return next((form for form in forms if form), "")


def token_f1(prediction: str, reference: str) -> float:
    """F1 of the two bags of words (SQuAD); 0 for an empty prediction. Probably the F1 that the paper reports."""
    predicted, expected = normalize_answer(prediction).split(), normalize_answer(reference).split()
    common = sum((Counter(predicted) & Counter(expected)).values())
    return f1_from_counts(common, len(predicted) - common, len(expected) - common)


def rouge_l(prediction: str, reference: str) -> float:
    """ROUGE-L F1 over words, without stemming."""
    predicted, expected = words(prediction), words(reference)
    if not predicted or not expected:
        return 0.0
    common: int = LCSseq.similarity(predicted, expected)
    return f1_from_counts(common, len(predicted) - common, len(expected) - common)


def f1_from_counts(true_positives: float, false_positives: float, false_negatives: float) -> float:
    """F1 from counts; 0 without true positives."""
    if not true_positives:
        return 0.0
    return 2 * true_positives / (2 * true_positives + false_positives + false_negatives)
