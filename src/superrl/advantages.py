"""Group advantages: pure functions from the rewards of one group to one number a rollout.

Computed in Python floats (float64): in float32 eight equal rewards of 0.3 would give |A| up to 0.75 after division by a
deviation that is only rounding. Equal rewards give exactly 0.0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

EQUAL = 1e-8
"""Rewards whose range is at most this are equal: nothing distinguishes the rollouts."""

AdvantageFunction = Callable[[Sequence[float]], tuple[float, ...]]


def center(rewards: Sequence[float]) -> tuple[float, ...]:
    """A_k = R_k - mean(R): Dr.GRPO (arXiv:2503.20783).

    >>> center([1.0, 0.0, 0.0, 0.0])
    (0.75, -0.25, -0.25, -0.25)
    """
    if not rewards or max(rewards) - min(rewards) <= EQUAL:
        return (0.0,) * len(rewards)
    mean = math.fsum(rewards) / len(rewards)
    return tuple(reward - mean for reward in rewards)


def standardize(rewards: Sequence[float], *, std: str = "sample", eps: float = 1e-4) -> tuple[float, ...]:
    """A_k = (R_k - mean) / (std + eps): GRPO (arXiv:2402.03300 eq. 4); std is `sample` (n - 1) or `population` (n).

    >>> [round(a, 4) for a in standardize([1.0, 0.0], std="population", eps=0.0)]
    [1.0, -1.0]
    """
    centered = center(rewards)
    if not any(centered):
        return centered
    freedom = len(rewards) - 1 if std == "sample" else len(rewards)
    deviation = math.sqrt(math.fsum(a * a for a in centered) / freedom)
    return tuple(a / (deviation + eps) for a in centered)
