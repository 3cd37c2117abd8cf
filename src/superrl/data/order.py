"""The order in which problems are visited: an endless concatenation of shuffled epochs, of items or of whole blocks.

A pure function of (seed, stage, epoch), so that a resumed run needs to know nothing but how many items were taken.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby


def take(n_items: int, start: int, count: int, *, seed: int, stage: int) -> list[int]:
    """The indices at places start, ..., start + count - 1 of the order; every epoch visits every item once."""
    if n_items < 1 or start < 0 or count < 0:
        raise ValueError(f"cannot take {count} of {n_items} items from place {start}")
    places = (divmod(place, n_items) for place in range(start, start + count))
    return [_permutation(n_items, seed, stage, epoch)[offset] for epoch, offset in places]


def take_whole(blocks: Sequence[str], start: int, count: int, *, seed: int, stage: int) -> list[int]:
    """The indices of the next whole blocks that fit into `count` items, at least one block.

    `blocks` names the block of every item; the items of one stand together and keep their order. `start` counts items
    and stands at a block's beginning, as it does after every call.
    """
    spans = [[i for i, _ in run] for _, run in groupby(enumerate(blocks), key=lambda item: item[1])]
    if len({blocks[span[0]] for span in spans}) < len(spans):
        raise ValueError("the items of a block must stand together")
    if not spans or start < 0 or count < 0:
        raise ValueError(f"cannot take {count} of {len(blocks)} items from place {start}")
    epoch, place = divmod(start, len(blocks))
    taken: list[int] = []
    while True:
        for block in _permutation(len(spans), seed, stage, epoch):
            span = spans[block]
            if place > 0:
                place -= len(span)
                if place < 0:
                    raise ValueError(f"place {start} is inside a block")
            elif taken and len(taken) + len(span) > count:
                return taken
            else:
                taken += span
        epoch += 1


@lru_cache(maxsize=8)
def _permutation(n_items: int, seed: int, stage: int, epoch: int) -> tuple[int, ...]:
    order = list(range(n_items))
    random.Random(f"superrl/order/{seed}/{stage}/{epoch}").shuffle(order)
    return tuple(order)
