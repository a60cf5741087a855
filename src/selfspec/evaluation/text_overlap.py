"""Text metrics of one prediction against one reference, as the field computes them."""

from __future__ import annotations

import re
import string
from collections import Counter

from rapidfuzz.distance import LCSseq

from selfspec.data.text import words

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Lower-case and remove punctuation and articles, as SQuAD's evaluation script does."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def token_f1(prediction: str, reference: str) -> float:
    """F1 of the two bags of words (SQuAD); 1 when both are empty. Probably the F1 that the paper reports."""
    predicted, expected = normalize_answer(prediction).split(), normalize_answer(reference).split()
    if not predicted or not expected:
        return float(predicted == expected)
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
