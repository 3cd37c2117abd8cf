"""How much of an optimizer step comes from each stream: norms, directions, and shares of what Adam makes of them.

A stream with a small gradient can own most of a step, and the other way round, because Adam divides by the root of the
second moment; so the share is taken after that division. What momentum carries over from earlier steps is left out: it
is no longer any stream's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor

from superrl.learner.sharding import whole

Gradient = Sequence[Tensor]


def describe_streams(gradients: Mapping[str, Gradient], scales: Sequence[Tensor]) -> dict[str, float]:
    """`grad_norm/S`, `share/S` of the preconditioned update (they sum to 1), and the cosines between streams: `cosine`
    and `update_cosine` of two streams, and of pg and sft where there are more; of other pairs `cosine/A-B`.

    `gradients`: of every stream, with its weight, one tensor a parameter. `scales`: sqrt(second moment) + eps after the
    step. The share of s is <u_s, u> / <u, u> with u_s = g_s / scale and u their sum; negative if s is pulled against.
    """
    updates = {s: [g / scale for g, scale in zip(one, scales, strict=True)] for s, one in gradients.items()}
    whole = [torch.stack(column).sum(0) for column in zip(*updates.values(), strict=True)]
    size = inner(whole, whole)
    found = {f"grad_norm/{s}": inner(one, one) ** 0.5 for s, one in gradients.items()}
    if size > 0:
        found |= {f"share/{s}": inner(one, whole) / size for s, one in updates.items()}
    for a, b in combinations(sorted(gradients), 2):
        pair = "" if len(gradients) == 2 or (a, b) == ("pg", "sft") else f"/{a}-{b}"
        found |= _cosine(f"cosine{pair}", gradients[a], gradients[b])
        found |= _cosine(f"update_cosine{pair}", updates[a], updates[b])
    return found


def inner(one: Gradient, other: Gradient) -> float:
    """The inner product over all parameters, in float64."""
    return sum(float(whole((a.double() * b.double()).sum())) for a, b in zip(one, other, strict=True))


def _cosine(name: str, one: Gradient, other: Gradient) -> dict[str, float]:
    norms = (inner(one, one) * inner(other, other)) ** 0.5
    return {name: inner(one, other) / norms} if norms > 0 else {}
