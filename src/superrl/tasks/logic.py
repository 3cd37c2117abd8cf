"""Proofs with rules `pq>r` (p and q give r): from the facts to the goal (`>`), or from the goal back (`<`).

    >ce:ab>d,ce>a,ax>f,ae>b:d=    ce>a, ae>b, ab>d     answer a b d
    <ce:ab>d,ce>a,ax>f,ae>b:d=    ab>d, ae>b, ce>a     answer d b a

Each rule of the proof needs the conclusion before it, so their order is forced; a distractor needs a letter that
nothing gives. `way=mixed` draws the way for every problem.
"""

from __future__ import annotations

import random
import string
from dataclasses import dataclass
from typing import Literal

from superrl.tasks.family import Item, check_range, item


@dataclass(frozen=True)
class Logic:
    """A proof of `depth` steps from two facts, hidden among `distractors` rules that never apply."""

    depth: int = 3
    distractors: int = 1
    way: Literal["forward", "backward", "mixed"] = "forward"

    def __post_init__(self) -> None:
        check_range("depth", self.depth, 1, 8)
        check_range("distractors", self.distractors, 0, 5)

    def make(self, rng: random.Random) -> Item:
        way = rng.choice(("forward", "backward")) if self.way == "mixed" else self.way
        letters = iter(rng.sample(string.ascii_lowercase, 2 + self.depth + 2 * self.distractors))
        known = [next(letters), next(letters)]
        facts, proof = "".join(known), []
        for step in range(self.depth):
            premises = known[:] if step == 0 else [known[-1], rng.choice(known[:-1])]
            known.append(next(letters))
            proof.append(rule(rng, premises, known[-1]))
        rules = proof[:]
        for _ in range(self.distractors):
            rules.append(rule(rng, [rng.choice(known), next(letters)], next(letters)))
        rng.shuffle(rules)
        working, results = (proof, known[2:]) if way == "forward" else (proof[::-1], known[:1:-1])
        marker = ">" if way == "forward" else "<"
        return item(f"{marker}{facts}:{','.join(rules)}:{known[-1]}=", working, results)


def rule(rng: random.Random, premises: list[str], conclusion: str) -> str:
    """Two premises in either order, and what they give."""
    return f"{''.join(rng.sample(premises, 2))}>{conclusion}"
