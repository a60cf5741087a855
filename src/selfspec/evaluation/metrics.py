"""Measures of one reply against one answer, as the field computes them."""

from __future__ import annotations

import re
import string
from collections import Counter

from rapidfuzz.distance import LCSseq

from selfspec.data.text import words

_ARTICLES = re.compile(r"\b(a|an|the)\b")


_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Lower case without punctuation and articles, as SQuAD's evaluation script does it."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def token_f1(reply: str, answer: str) -> float:
    """F1 over the two bags of words (SQuAD); 1 when both are empty. The paper's F1 is almost surely this one."""
    mine, theirs = normalize_answer(reply).split(), normalize_answer(answer).split()
    if not mine or not theirs:
        return float(mine == theirs)
    common = sum((Counter(mine) & Counter(theirs)).values())
    return f1_from_counts(common, len(mine) - common, len(theirs) - common)


def rouge_l(reply: str, answer: str) -> float:
    """ROUGE-L F1 over words, without stemming."""
    mine, theirs = words(reply), words(answer)
    if not mine or not theirs:
        return 0.0
    common: int = LCSseq.similarity(mine, theirs)
    return f1_from_counts(common, len(mine) - common, len(theirs) - common)


def f1_from_counts(right: float, wrong: float, missed: float) -> float:
    """Harmonic mean of precision and recall from counts; 0 when nothing is right."""
    return 2 * right / (2 * right + wrong + missed) if right else 0.0
