"""Similarity of two texts as sequences of characters; every function gives a float in [0, 1], 1.0 for equal texts.

`ratcliff` is the reward of SRL (arXiv:2510.25992): 2 M / T of Ratcliff-Obershelp matching, bit for bit what Python's
`difflib` gives. It is not symmetric: the action comes first, the expert's second. `indel` (normalised longest common
subsequence) is symmetric, never smaller, and 50 to 1,000 times cheaper. Neither knows what the text means.
"""

from __future__ import annotations

from typing import NamedTuple

from cydifflib import SequenceMatcher
from rapidfuzz.distance import Indel

from superrl.similarity.cost import Block, TooDear, stretches


class Bounded(NamedTuple):
    """A similarity, and whether it is Indel's because the exact one was too dear."""

    value: float
    bounded: bool


def ratcliff(action: str, expert: str, *, autojunk: bool = False) -> float:
    """`difflib.SequenceMatcher(None, action, expert, autojunk).ratio()`, exactly, whatever it costs.

    `autojunk` is difflib's own default: it ignores every frequent character once the expert's text has 200, and so
    nearly all of a text.

    >>> ratcliff("tide", "diet"), ratcliff("diet", "tide")
    (0.25, 0.5)
    """
    return float(SequenceMatcher(None, action, expert, autojunk=autojunk).ratio())


def bounded_ratcliff(action: str, expert: str, *, autojunk: bool = False) -> Bounded:
    """As `ratcliff`; Indel for the few pairs that would cost more than `cost.BOUND`."""
    if action == expert:
        return Bounded(1.0, False)
    try:
        matched = sum(size for _, _, size in stretches(action, expert, autojunk=autojunk))
    except TooDear:
        return Bounded(indel(action, expert), True)
    return Bounded(2.0 * matched / (len(action) + len(expert)), False)


def indel(action: str, expert: str) -> float:
    """1 - (insertions + deletions) / (both lengths): twice the longest common subsequence over both lengths.

    >>> indel("tide", "diet"), indel("", "")
    (0.5, 1.0)
    """
    return float(Indel.normalized_similarity(action, expert))


def exact(action: str, expert: str) -> float:
    """1.0 iff the texts are equal once every run of white space is one space and the ends are bare.

    >>> exact(" x =\\n2", "x = 2"), exact("x=2", "x = 2")
    (1.0, 0.0)
    """
    return float(action.split() == expert.split())


def blocks(action: str, expert: str) -> list[Block]:
    """The matched stretches (start in action, start in expert, length), in order, adjacent ones merged: for people.

    Of a pair that is too dear those that were found before the bound.

    >>> blocks("x = 12", "x = 2")
    [(0, 0, 4), (5, 4, 1)]
    """
    if action == expert:
        return [(0, 0, len(action))] if action else []
    found: list[Block] = []
    try:
        for block in stretches(action, expert):
            found.append(block)
    except TooDear:
        pass
    merged: list[Block] = []
    for i, j, size in sorted(found):
        if merged and (merged[-1][0] + merged[-1][2], merged[-1][1] + merged[-1][2]) == (i, j):
            i, j, size = merged[-1][0], merged[-1][1], merged.pop()[2] + size
        merged.append((i, j, size))
    return merged
