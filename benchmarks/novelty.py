"""The novelty filter against rouge_score, row by row: same decisions, and the ratio of CPU seconds.

python benchmarks/novelty.py [rows]
"""

from __future__ import annotations

import random
import sys
import time

from rouge_score.rouge_scorer import RougeScorer

from selfspec.data.records import Draft
from selfspec.filters.novelty import Novelty
from selfspec.filters.protocol import Candidate


def rows(count: int) -> list[Draft]:
    """Texts of 30 to 70 words from 300 words; every fourth repeats most of an earlier one."""
    chance, made = random.Random(0), list[Draft]()
    words = [f"w{number}" for number in range(300)]
    for number in range(count):
        text = chance.choices(words, k=chance.randint(30, 70))
        if made and number % 4 == 0:
            text = chance.choice(made).input.split()
            for place in chance.sample(range(len(text)), len(text) // chance.choice([3, 5, 8])):
                text[place] = chance.choice(words)
        made.append(Draft("t", "", " ".join(text), ()))
    return made


def ours(drafts: list[Draft]) -> list[bool]:
    novelty, kept = Novelty([], 0.7), []
    for candidate in (Candidate("", draft, "text") for draft in drafts):
        new = not novelty.check(candidate)
        if new:
            novelty.keep(candidate)
        kept.append(new)
    return kept


def plain(drafts: list[Draft]) -> list[bool]:
    scorer, texts, kept = RougeScorer(["rougeL"]), list[str](), []
    for draft in drafts:
        text = f"{draft.instruction} {draft.input}"
        new = all(scorer.score(other, text)["rougeL"].fmeasure <= 0.7 for other in texts)
        if new:
            texts.append(text)
        kept.append(new)
    return kept


def main() -> None:
    drafts, seconds, decisions = rows(int(sys.argv[1]) if len(sys.argv) > 1 else 400), [], []
    for way in (ours, plain):
        started = time.process_time()
        decisions.append(way(drafts))
        seconds.append(time.process_time() - started)
    assert decisions[0] == decisions[1], "the decisions differ"
    print(f"{len(drafts)} rows, {sum(decisions[0])} kept, equal decisions")
    print(f"ours {seconds[0]:.2f} s, rouge_score {seconds[1]:.2f} s: {seconds[1] / seconds[0]:.0f} times")


if __name__ == "__main__":
    main()
