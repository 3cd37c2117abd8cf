"""How far the sampler's log-probabilities are from the learner's, for the same weights, and the weight that mends it.

Another engine, another kernel or another precision gives another log p. Where the gap is large the engine holds other
weights or draws from another distribution, and the run stops (`sampler.max_gap`); where it is small, a truncated
importance weight takes the bias out of the gradient (`sampler.importance_cap`). Leaves out rollouts of older weights:
their `logp_old` is their sampler's, and the method's own ratio corrects them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from superrl.errors import RunError
from superrl.losses import truncated_importance
from superrl.metrics import Means
from superrl.records import Sample, Trajectory, View

GAP = "policy/sampler_gap"
"""Mean |logp_sampler - logp| a drawn token, in nats, both of the weights that drew it."""
WITHOUT_WEIGHT = frozenset({"sft", "value"})
"""Streams of rollouts that no policy gradient is taken of."""


def drawn_now(view: View, rows: Sequence[Sample]) -> Tensor:
    """[N]: tokens of a policy gradient that these very weights drew, before the step's first update."""
    own = [
        row.origin == "policy"
        and row.stream not in WITHOUT_WEIGHT
        and row.annotations.get("logp_old") is not row.logp_sampler  # an older rollout's is that
        for row in rows
    ]
    return torch.tensor(own, device=view.logp.device)[view.sequence]


def correction(view: View, rows: Sequence[Sample], cap: float) -> Tensor:
    """[N]: the truncated importance weight of every token; 1 where it is not of `drawn_now`."""
    weight = truncated_importance(view.logp_old, view.logp_sampler, cap=cap)
    return torch.where(drawn_now(view, rows), weight, torch.ones_like(weight))


@torch.no_grad()
def observe_gap(view: View, rows: Sequence[Sample], means: Means) -> None:
    """Count the gaps of a pack's tokens."""
    now = drawn_now(view, rows)
    if n := int(now.sum()):
        means.add(GAP, float((view.logp_old - view.logp_sampler)[now].abs().double().sum()), n)


def gap_of(trajectory: Trajectory, logp: Sequence[float]) -> float:
    """The gaps of a trajectory's drawn tokens, summed."""
    columns = zip(trajectory.loss_mask, trajectory.logp_sampler, logp, strict=True)
    return sum(abs(ours - theirs) for drawn, theirs, ours in columns if drawn)


def check_gap(means: Means, largest: float | None, step: int) -> None:
    """Stop where the mean gap of a step is too large; None: nothing is."""
    found = means.value(GAP)
    if largest is not None and found is not None and not found <= largest:
        raise RunError(
            f"step {step}: the sampler's log-probabilities are {found:.3g} nats a token from the learner's "
            f"(sampler.max_gap: {largest:g}): it holds other weights or computes otherwise; use engine: local, or "
            "raise max_gap and --resume"
        )
