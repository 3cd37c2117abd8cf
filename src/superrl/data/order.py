"""The order in which problems are visited: an endless concatenation of shuffled epochs.

A pure function of (seed, stage, epoch), so that a resumed run needs to know nothing but how many items were taken.
"""

from __future__ import annotations

import random
from functools import lru_cache


def take(n_items: int, start: int, count: int, *, seed: int, stage: int) -> list[int]:
    """The indices at places start, ..., start + count - 1 of the order; every epoch visits every item once."""
    if n_items < 1 or start < 0 or count < 0:
        raise ValueError(f"cannot take {count} of {n_items} items from place {start}")
    places = (divmod(place, n_items) for place in range(start, start + count))
    return [_permutation(n_items, seed, stage, epoch)[offset] for epoch, offset in places]


@lru_cache(maxsize=8)
def _permutation(n_items: int, seed: int, stage: int, epoch: int) -> tuple[int, ...]:
    order = list(range(n_items))
    random.Random(f"superrl/order/{seed}/{stage}/{epoch}").shuffle(order)
    return tuple(order)
