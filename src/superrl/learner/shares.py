"""Which rank puts which sequences through the model: neighbours stay together, and every rank has as much to do.

In the order of their tokens, sequences that a prefix forest computes together stand side by side; that order is cut
into as many pieces as there are ranks, where costs balance and neighbours have little in common. Leaves out packs.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

from superrl.packing.forest import shared_prefix
from superrl.packing.pack import Tokens

SLACK = 0.1
"""How far from balance a cut may lie, as a share of a rank's work, to cut where less is computed twice."""


def divided(sequences: Sequence[Tokens], ranks: int, width: int) -> list[list[int]]:
    """The indices of the sequences that each rank takes, all of them together. `width`: the model's hidden size.

    A token at depth d costs 1 + d / (6 width): in a layer 24 width^2 operations of matrices against 4 width d of
    attention.
    """
    reach = [sequence.tokens[: _trained(sequence)] for sequence in sequences]
    order = sorted(range(len(sequences)), key=lambda i: (reach[i], i))
    common = [0, *(shared_prefix(reach[a], reach[b]) for a, b in pairwise(order))] if order else []
    costs = [_cost(shared, len(reach[i]), width) for i, shared in zip(order, common, strict=True)]
    bounds = cuts(costs, common, ranks)
    return [order[start:end] for start, end in pairwise(bounds)]


def cuts(costs: Sequence[float], common: Sequence[int], parts: int) -> list[int]:
    """Where to cut a row of items into `parts`, with both ends: near balance, where an item has least in common with
    the one before it.

    >>> cuts([4, 1, 1, 4, 1, 1], [0, 3, 3, 0, 3, 3], 2)
    [0, 3, 6]
    """
    before = list(accumulate(costs, initial=0.0))
    share = before[-1] / parts
    bounds = [0]
    for part in range(1, parts):
        distance = [abs(one - part * share) for one in before]
        near = [j for j in range(bounds[-1], len(before)) if distance[j] <= max(SLACK * share, min(distance))]
        choices = near or [bounds[-1]]
        bounds.append(min(choices, key=lambda j: (common[j] if j < len(common) else 0, distance[j])))
    return [*bounds, len(costs)]


def _cost(shared: int, length: int, width: int) -> float:
    return (length - shared) + (length**2 - shared**2) / (12 * width)


def _trained(sequence: Tokens) -> int:
    """How many tokens are read to predict the last trained one; 0 if none is trained."""
    return next((t for t in range(len(sequence.loss_mask) - 1, 0, -1) if sequence.loss_mask[t]), 0)
