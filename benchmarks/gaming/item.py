"""One expert step with its twins, and the edit that makes a wrong twin.

A wrong twin is the expert's text, or a right twin's, after one edit: a digit, a sign, an operator, a variable. A right
twin says the same in other words, another order or another notation.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Item:
    """`wrong` edits the expert's own text, `reworded` edits a right twin; all three name a kind and give a text."""

    expert: str
    right: Mapping[str, str]
    wrong: Mapping[str, str]
    reworded: Mapping[str, str]

    def __post_init__(self) -> None:
        twins = [*self.right.values(), *self.wrong.values(), *self.reworded.values()]
        if len({self.expert, *twins}) != 1 + len(twins):
            raise ValueError(f"two twins are the same text, or a twin is the expert's: {self.expert!r}")


Template = Callable[[random.Random], Item]


def edit(text: str, old: str, new: str) -> str:
    """`text` with `old`, which stands in it exactly once, made `new`."""
    if text.count(old) != 1 or old == new:
        raise ValueError(f"{old!r} stands {text.count(old)} times in {text!r}")
    return text.replace(old, new)
