"""Ratcliff-Obershelp matching with a bound on its cost that is a pure function of the two texts, never of a clock.

The matching is recursive: find the longest common stretch, then match what is left and what is right of it. One search
costs about one unit for every pair of equal characters, and how many searches there will be shows only on the way: text
such as "0 0 0 ..." against "000..." takes n/2 searches of n^2/2 units each (24 s at 4,000 characters). So the recursion
is driven from here, every search is priced before it is made, and a pair whose price passes `BOUND` is given up.

Prices: 2 to 6 ns a unit (x86-64, one core), so the most that a pair costs is some 50 ms (150 ms if thousands of its
characters are all different). Ordinary prose reaches the bound at about 5,000 characters, text of two characters at
half of that (`benchmarks/similarity_speed.py`).
Leaves out what to do instead: `sequence.bounded_ratcliff` takes Indel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import accumulate

from cydifflib import SequenceMatcher

BOUND = 16_000_000
"""Units after which a pair is given up."""

CHARACTER = 40
"""Units for every character of the first text that a search walks over, whether or not it has equals."""

SEARCH = 400
"""Units for what a search costs besides its pairs of equal characters."""

AUTOJUNK_FROM = 200
"""Length of the second text from which difflib's `autojunk` leaves out its frequent characters."""

Block = tuple[int, int, int]
"""A common stretch: where it begins in the first text, where in the second, and how long it is."""


class TooDear(Exception):
    """The pair costs more than `BOUND`."""


def stretches(a: str, b: str, *, autojunk: bool = False) -> Iterator[Block]:
    """The common stretches of `difflib.SequenceMatcher(None, a, b, autojunk)`, in the order in which they are found.

    Adjacent ones are not merged. Raises `TooDear` before the search that would pass the bound.
    """
    partners = Counter(b)
    if autojunk and len(b) >= AUTOJUNK_FROM:
        frequent = len(b) // 100 + 1
        partners = Counter({char: count for char, count in partners.items() if count <= frequent})
    price = [0, *accumulate(partners[char] + CHARACTER for char in a)]
    search = SequenceMatcher(None, a, b, autojunk=autojunk).find_longest_match
    spent, waiting = 0, [(0, len(a), 0, len(b))]
    while waiting:
        a_from, a_to, b_from, b_to = waiting.pop()
        spent += price[a_to] - price[a_from] + SEARCH
        if spent > BOUND:
            raise TooDear
        i, j, size = search(a_from, a_to, b_from, b_to)
        if not size:
            continue
        yield i, j, size
        if a_from < i and b_from < j:
            waiting.append((a_from, i, b_from, j))
        if i + size < a_to and j + size < b_to:
            waiting.append((i + size, a_to, j + size, b_to))
