"""Pairs of texts of which one is preferred, as rows that train a critic to say so (Bradley-Terry).

    L = mean over pairs of -log sigmoid(r+ - r-),     r: annotation `end_value`, the critic's word on the whole text

The rows carry the loss under the weights before the update and its derivative in each r. Leaves out where pairs come
from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from superrl.methods.hooks import ended
from superrl.records import Sample, Trajectory


@dataclass(frozen=True, slots=True)
class Pairs:
    """The texts of one prompt: each of `chosen` (demonstrations) is preferred to each of `rejected`."""

    chosen: Sequence[Trajectory]
    rejected: Sequence[Trajectory]

    @property
    def margins(self) -> list[float]:
        """r+ - r- of every pair."""
        return [end_value(one) - end_value(other) for one in self.chosen for other in self.rejected]


def end_value(one: Trajectory) -> float:
    """The critic's value of the whole text."""
    return one.annotations["end_value"][-1]


def pull(margin: float) -> float:
    """sigmoid(-margin), what a pair still pulls its two texts apart with.

    >>> pull(0.0), pull(1000.0), pull(-1000.0)
    (0.5, 0.0, 1.0)
    """
    return 0.5 * (1.0 - math.tanh(0.5 * margin))


def pair_loss(margin: float) -> float:
    """-log sigmoid(margin).

    >>> round(pair_loss(0.0), 4), pair_loss(1000.0), pair_loss(-1000.0)
    (0.6931, 0.0, 1000.0)
    """
    return max(-margin, 0.0) + math.log1p(math.exp(-abs(margin)))


def paired_samples(pairs: Pairs, group: int) -> list[Sample]:
    """Each text as a row of stream `value`: `advantage` is -dL/dr. The loss stands by the chosen, as `pair_loss`."""
    share = 1.0 / (len(pairs.chosen) * len(pairs.rejected))
    end = pairs.chosen[0].tokens[-1]
    rows = []
    for one in pairs.chosen:
        margins = [end_value(one) - end_value(other) for other in pairs.rejected]
        rows.append(_row(one, end, share * sum(map(pull, margins)), share * sum(map(pair_loss, margins)), group))
    for one in pairs.rejected:
        margins = [end_value(other) - end_value(one) for other in pairs.chosen]
        rows.append(_row(one, end, -share * sum(map(pull, margins)), 0.0, group))
    return rows


def _row(one: Trajectory, end: int, push: float, loss: float, group: int) -> Sample:
    """The text, and one token more that nobody reads: the value before it is that of the whole text."""
    tokens = ended(one, end)
    before = (0.0,) * len(tokens)
    return Sample(
        tokens=(*tokens, 0),
        loss_mask=(False,) * len(tokens) + (True,),
        stream="value",
        advantage=(*before, push),
        weight=1.0,
        logp_sampler=(*before, 0.0),
        group=group,
        version=one.version,
        origin=one.origin,
        annotations={"pair_loss": (*before, loss)},
    )
