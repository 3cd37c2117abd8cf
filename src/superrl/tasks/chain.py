"""Chains of single-digit arithmetic modulo ten, without precedence: from the left (`>`), or from the right (`<`).

    >3+4*7=    3+4=7, 7*7=9       answer 7 9
    <3+4*7=    4*7=8, 3+8=1       answer 8 1

The two orders need the same skills; only the procedure differs. `order=mixed` draws the order for every problem.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from superrl.tasks.family import Item, check_range, item

APPLY = {"+": lambda a, b: (a + b) % 10, "-": lambda a, b: (a - b) % 10, "*": lambda a, b: (a * b) % 10}


@dataclass(frozen=True)
class Chain:
    """`ops` operations, evaluated from one end to the other."""

    ops: int = 3
    order: Literal["left", "right", "mixed"] = "left"

    def __post_init__(self) -> None:
        check_range("ops", self.ops, 1, 12)

    def make(self, rng: random.Random) -> Item:
        order = rng.choice(("left", "right")) if self.order == "mixed" else self.order
        digits = [rng.randrange(10) for _ in range(self.ops + 1)]
        signs = [rng.choice("+-*") for _ in range(self.ops)]
        marker = ">" if order == "left" else "<"
        question = marker + str(digits[0]) + "".join(f"{s}{d}" for s, d in zip(signs, digits[1:], strict=True)) + "="
        return item(question, *evaluate(digits, signs, order))


def evaluate(digits: list[int], signs: list[str], order: str) -> tuple[list[str], list[str]]:
    """The working, an equation an operation, and the intermediate results."""
    working, results = [], []
    value, operands = (digits[0], digits[1:]) if order == "left" else (digits[-1], digits[-2::-1])
    for sign, digit in zip(signs if order == "left" else signs[::-1], operands, strict=True):
        left, right = (value, digit) if order == "left" else (digit, value)
        value = APPLY[sign](left, right)
        working.append(f"{left}{sign}{right}={value}")
        results.append(str(value))
    return working, results
