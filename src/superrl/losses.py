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
def importance_ratio(log_ratio: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """pi(token) / pi_old(token). The log-ratio is bounded at +-20 so that one lost token cannot make an infinity."""
    return torch.exp(log_ratio.clamp(-20.0, 20.0))


@typed
def clipped_surrogate(
    log_ratio: Float[Tensor, " N"], advantage: Float[Tensor, " N"], *, clip_low: float, clip_high: float
) -> Float[Tensor, " N"]:
    """PPO's clipped objective (arXiv:1707.06347 eq. 7), negated; `clip_high > clip_low` is DAPO's clip-higher, and a
    log-ratio that is one number a sequence is GSPO's (arXiv:2507.18071 eq. 5)."""
    ratio = importance_ratio(log_ratio)
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip_low, 1 + clip_high) * advantage)


@typed
def is_clipped(
    log_ratio: Float[Tensor, " N"], advantage: Float[Tensor, " N"], *, clip_low: float, clip_high: float
) -> Bool[Tensor, " N"]:
    """Where `clipped_surrogate` has no gradient because its clip is active."""
    ratio = importance_ratio(log_ratio)
    return ((ratio > 1 + clip_high) & (advantage > 0)) | ((ratio < 1 - clip_low) & (advantage < 0))


@typed
def clipped_weight(
    logp: Float[Tensor, " N"], logp_old: Float[Tensor, " N"], advantage: Float[Tensor, " N"], *, clip_high: float
) -> Float[Tensor, " N"]:
    """CISPO (arXiv:2506.13585 eq. 4), negated: -s(min(ratio, 1 + clip_high)) A log p. No token loses its gradient."""
    weight = importance_ratio(logp - logp_old).clamp(max=1 + clip_high).detach()
    return -weight * advantage * logp


@typed
def truncated_importance(
    logp_old: Float[Tensor, " N"], logp_sampler: Float[Tensor, " N"], *, cap: float
) -> Float[Tensor, " N"]:
    """min(p_old / p_sampler, cap), without gradient: the weight of a token drawn by an engine whose probabilities
    differ from the learner's for the same weights (truncated importance sampling, Ionides 2008)."""
    return importance_ratio(logp_old - logp_sampler).clamp(max=cap).detach()


@typed
def kl_estimate(logp: Float[Tensor, " N"], logp_other: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """The k3 estimate of KL(other || policy) a token, for tokens drawn from `other`: exp(d) - 1 - d >= 0.

    Source: Schulman 2020, "Approximating KL divergence"; as a loss (`other` the policy) it is GRPO's, and biased.
    """
    d = (logp - logp_other).clamp(-20.0, 20.0)
    return torch.expm1(d) - d  # not exp(d) - 1 - d: near 0, where it matters, that is rounding alone


@typed
def kl_squared(logp: Float[Tensor, " N"], logp_ref: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """The k2 estimate (log ratio)^2 / 2; on-policy its gradient is that of KL(policy || reference)."""
    return 0.5 * (logp - logp_ref) ** 2


@typed
def clipped_value_loss(
    value: Float[Tensor, " N"], value_old: Float[Tensor, " N"], returns: Float[Tensor, " N"], *, clip: float | None
) -> Float[Tensor, " N"]:
    """0.5 max((v - R)^2, (clip(v, v_old +- c) - R)^2): PPO's value loss; without `clip` half the squared error."""
    plain = (value - returns) ** 2
    if clip is None:
        return 0.5 * plain
    near = value_old + (value - value_old).clamp(-clip, clip)
    return 0.5 * torch.maximum(plain, (near - returns) ** 2)


@typed
def distillation(
    logp: Float[Tensor, " N"], logp_old: Float[Tensor, " N"], logp_teacher: Float[Tensor, " N"]
) -> Float[Tensor, " N"]:
    """Per-token reverse KL to a teacher on the policy's own tokens, as the policy gradient with advantage
    log p_teacher - log p: -ratio s(log p_teacher - log p)."""
    return -importance_ratio(logp - logp_old) * (logp_teacher - logp).detach()
