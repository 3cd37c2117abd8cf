"""Learned stream weights: log-sigma uncertainty weighting of a policy gradient and a supervised loss.

    L = exp(-2 s_pg) L_pg + exp(-2 s_sft) L_sft + s_pg + s_sft        (SuperRL, arXiv:2506.01096, Hybrid Actor)

The gradient is closed form in the global stream losses, dL/ds = 1 - 2 exp(-2 s) L, so one plain SGD step on s is taken
once per optimizer step; the signed L_pg has no optimum in s, hence the clamp on both sides. Pure functions of floats;
leaves out which signal stands for L_pg (`methods/hybrid.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import exp

START = {"pg": 0.0, "sft": 1.0}
"""The first s of every stream."""


def stream_weight(s: float) -> float:
    """exp(-2 s): what a stream's loss is multiplied by.

    >>> stream_weight(0.0)
    1.0
    """
    return exp(-2.0 * s)


def gradient(s: float, loss: float) -> float:
    """dL/ds = 1 - 2 exp(-2 s) L."""
    return 1.0 - 2.0 * stream_weight(s) * loss


def descend(
    log_sigmas: Mapping[str, float], losses: Mapping[str, float | None], *, lr: float, decay: float, bound: float
) -> dict[str, float]:
    """One SGD step of every s whose loss is known, after multiplying by `decay`, kept within +-bound.

    For L > 0 it settles where exp(-2 s) = 1 / (2 L).

    >>> descend({"sft": 0.0}, {"sft": 0.5}, lr=0.1, decay=1.0, bound=2.0)
    {'sft': 0.0}
    """
    after = {}
    for stream, s in log_sigmas.items():
        loss = losses.get(stream)
        moved = s if loss is None else s * decay - lr * gradient(s, loss)
        after[stream] = min(max(moved, -bound), bound)
    return after
