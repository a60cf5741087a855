"""The novelty filter and rouge_score on the same rows: equal decisions, and the ratio of CPU seconds.

python benchmarks/novelty.py [NUM_ROWS]
"""

from __future__ import annotations

import random
import sys
import time

from rouge_score.rouge_scorer import RougeScorer

from selfspec.data.records import Draft
from selfspec.filters.novelty import Novelty
from selfspec.filters.protocol import Candidate

THRESHOLD = 0.7  # ROUGE-L


def random_drafts(count: int) -> list[Draft]:
    """Texts of 30 to 70 words out of 300; every fourth repeats most of an earlier one."""
    rng, drafts = random.Random(0), list[Draft]()
    words = [f"w{number}" for number in range(300)]
    for number in range(count):
        text = rng.choices(words, k=rng.randint(30, 70))
        if drafts and number % 4 == 0:
            text = rng.choice(drafts).input.split()
            for position in rng.sample(range(len(text)), len(text) // rng.choice([3, 5, 8])):
                text[position] = rng.choice(words)
        drafts.append(Draft("t", "", " ".join(text), ()))
    return drafts


def novelty_filter(drafts: list[Draft]) -> list[bool]:
    novelty, decisions = Novelty([], THRESHOLD), []
    for candidate in (Candidate("", draft, "text") for draft in drafts):
        is_new = not novelty.check(candidate)
        if is_new:
            novelty.keep(candidate)
        decisions.append(is_new)
    return decisions


def rouge_score(drafts: list[Draft]) -> list[bool]:
    scorer, texts, decisions = RougeScorer(["rougeL"]), list[str](), []
    for draft in drafts:
        text = f"{draft.instruction} {draft.input}"
        is_new = all(scorer.score(other, text)["rougeL"].fmeasure <= THRESHOLD for other in texts)
        if is_new:
            texts.append(text)
        decisions.append(is_new)
    return decisions


def main() -> None:
    drafts, seconds, decisions = random_drafts(int(sys.argv[1]) if len(sys.argv) > 1 else 400), [], []
    for method in (novelty_filter, rouge_score):
        started = time.process_time()
        decisions.append(method(drafts))
        seconds.append(time.process_time() - started)
    assert decisions[0] == decisions[1], "the decisions differ"
    print(f"{len(drafts)} rows, {sum(decisions[0])} kept, equal decisions")
    print(f"novelty filter {seconds[0]:.2f} s, rouge_score {seconds[1]:.2f} s: {seconds[1] / seconds[0]:.0f} times")


if __name__ == "__main__":
    main()
