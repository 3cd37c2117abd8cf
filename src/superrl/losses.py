"""Token losses: pure functions from flat per-token tensors [N] to a per-token loss [N], unreduced.

Leaves out masks (the tokens given are the trained ones), reductions (`reduction.py`) and everything a method decides.
"""

from __future__ import annotations

import torch
from beartype import beartype
from jaxtyping import Bool, Float, jaxtyped
from torch import Tensor

typed = jaxtyped(typechecker=beartype)


@typed
def negative_log_likelihood(logp: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Supervised loss -log p, the gradient of which is the policy gradient at ratio 1 and advantage 1."""
    return -logp


@typed
def importance_ratio(logp: Float[Tensor, " N"], logp_old: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """pi(token) / pi_old(token). The log-ratio is bounded at +-20 so that one lost token cannot make an infinity."""
    return torch.exp((logp - logp_old).clamp(-20.0, 20.0))


@typed
def clipped_surrogate(
    logp: Float[Tensor, " N"],
    logp_old: Float[Tensor, " N"],
    advantage: Float[Tensor, " N"],
    *,
    clip_low: float,
    clip_high: float,
) -> Float[Tensor, " N"]:
    """PPO's clipped objective (arXiv:1707.06347 eq. 7), negated; `clip_high > clip_low` is DAPO's clip-higher."""
    ratio = importance_ratio(logp, logp_old)
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip_low, 1 + clip_high) * advantage)


@typed
def is_clipped(
    logp: Float[Tensor, " N"],
    logp_old: Float[Tensor, " N"],
    advantage: Float[Tensor, " N"],
    *,
    clip_low: float,
    clip_high: float,
) -> Bool[Tensor, " N"]:
    """Where `clipped_surrogate` has no gradient because its clip is active."""
    ratio = importance_ratio(logp, logp_old)
    return ((ratio > 1 + clip_high) & (advantage > 0)) | ((ratio < 1 - clip_low) & (advantage < 0))


@typed
def kl_estimate(logp: Float[Tensor, " N"], logp_other: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """The k3 estimate of KL(other || policy) a token, for tokens drawn from `other`: exp(d) - 1 - d >= 0.

    Source: Schulman 2020, "Approximating KL divergence"; here telemetry only, never a loss.
    """
    d = logp - logp_other
    return torch.expm1(d) - d  # not exp(d) - 1 - d: near 0, where it matters, that is rounding alone
