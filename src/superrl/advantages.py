"""Advantages: pure functions from the rewards of one group, or of a batch, to one number a rollout or a token.

Computed in Python floats (float64): in float32 eight equal rewards of 0.3 would give |A| up to 0.75 after division by a
deviation that is only rounding. Equal rewards give exactly 0.0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

EQUAL = 1e-8
"""Rewards whose range is at most this are equal: nothing distinguishes the rollouts."""


def deviation(rewards: Sequence[float]) -> float:
    """The population deviation of some rewards; 0.0 of none.

    >>> deviation([1.0, 0.0])
    0.5
    """
    mean = math.fsum(rewards) / len(rewards) if rewards else 0.0
    return math.sqrt(math.fsum((reward - mean) ** 2 for reward in rewards) / max(len(rewards), 1))


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


def leave_one_out(rewards: Sequence[float]) -> tuple[float, ...]:
    """A_k = R_k - mean of the others = K / (K - 1) (R_k - mean): RLOO (arXiv:2402.14740 eq. 6).

    >>> leave_one_out([1.0, 0.0, 0.0])
    (1.0, -0.5, -0.5)
    """
    centered = center(rewards)
    if not any(centered):
        return centered
    scale = len(rewards) / (len(rewards) - 1)
    return tuple(scale * a for a in centered)


def per_success(rewards: Sequence[float], *, eps: float = 1e-4) -> tuple[float, ...]:
    """A_k = (R_k - mean) / (mean + eps): MaxRL, for rewards >= 0; rare successes weigh more than GRPO's deviation says.

    >>> [round(a, 3) for a in per_success([1.0, 0.0, 0.0, 0.0])]
    [2.999, -1.0, -1.0, -1.0]
    """
    mean = math.fsum(rewards) / max(len(rewards), 1)
    return tuple(a / (mean + eps) for a in center(rewards))


def whiten(columns: Sequence[Sequence[float]], *, eps: float = 1e-4, shift: bool = True) -> list[tuple[float, ...]]:
    """All numbers of a batch over their common deviation (n - 1), minus their common mean unless `shift` is False.

    >>> [tuple(round(x, 3) for x in c) for c in whiten([[1.0], [0.0, 0.0, 0.0]], eps=0.0)]
    [(1.5,), (-0.5, -0.5, -0.5)]
    """
    values = [value for column in columns for value in column]
    if len(values) < 2 or max(values) - min(values) <= EQUAL:
        return [tuple(0.0 if shift else value for value in column) for column in columns]
    mean = math.fsum(values) / len(values)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return [tuple((value - (mean if shift else 0.0)) / (deviation + eps) for value in column) for column in columns]


def generalized_advantages(
    rewards: Sequence[float], values: Sequence[float], last: float, *, gamma: float, lam: float
) -> tuple[float, ...]:
    """GAE (arXiv:1506.02438 eq. 16): A_t = sum_l (gamma lam)^l (r_{t+l} + gamma V_{t+l+1} - V_{t+l}).

    `values[t]` is the critic's before token t; `last` after the last one: 0 at an end of sequence, the critic's where a
    rollout was cut off.

    >>> generalized_advantages([0.0, 1.0], [0.5, 0.5], 0.0, gamma=1.0, lam=1.0)
    (0.5, 0.5)
    """
    advantages = [0.0] * len(rewards)
    after, ahead = last, 0.0
    for t in reversed(range(len(rewards))):
        ahead = rewards[t] + gamma * after - values[t] + gamma * lam * ahead
        advantages[t], after = ahead, values[t]
    return tuple(advantages)
