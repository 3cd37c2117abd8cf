"""How hard a supervised loss pulls at a token, as a function of the probability p it has now.

Every loss here has a gradient c(p) grad log p; the methods that mix imitation into RL differ in c. Pure functions of
log-probabilities in a plain dict: `sft`, `superrl` and their relatives take any of them by name. Leaves out masks,
reductions and stream weights.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from beartype import beartype
from jaxtyping import Float, jaxtyped
from torch import Tensor

from superrl.losses import negative_log_likelihood

typed = jaxtyped(typechecker=beartype)

REACH = 0.1
"""The probability below which LUFFY's shaping and TrSFT's trust region hold back."""

Imitation = Callable[[Float[Tensor, " N"], Float[Tensor, " N"]], Float[Tensor, " N"]]
"""(logp, logp_old) [N] -> the loss of every demonstrated token [N]; logp_old is read by `rl-plus` alone."""


@typed
def nll(logp: Float[Tensor, " N"], logp_old: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Plain SFT, -log p: c = 1."""
    return negative_log_likelihood(logp)


@typed
def dft(logp: Float[Tensor, " N"], logp_old: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """DFT (arXiv:2508.05629): -s(p) log p, so c = p."""
    return -logp.exp().detach() * logp


@typed
def phi(logp: Float[Tensor, " N"], logp_old: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """CHORD-phi (arXiv:2508.11408): -s(p (1 - p)) log p, so c = p (1 - p)."""
    p = logp.exp().detach()
    return -p * (1.0 - p) * logp


@typed
def luffy(logp: Float[Tensor, " N"], logp_old: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """LUFFY's policy shaping (arXiv:2504.14945) at advantage 1: -p / (p + 0.1), so c = 0.1 p / (p + 0.1)^2."""
    p = logp.exp()
    return -p / (p + REACH)


@typed
def trsft(logp: Float[Tensor, " N"], logp_old: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """TRAPO's trust-region SFT (arXiv:2512.17636): -s(min(1, p / 0.1)) log p, so c = min(1, p / 0.1)."""
    return -(logp.exp().detach() / REACH).clamp(max=1.0) * logp


@typed
def rl_plus(logp: Float[Tensor, " N"], logp_old: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """RL-PLUS (arXiv:2508.00222) at advantage 1: -s((1 - p)^0.5) 2p / (p_old + 0.5 (p_old + 1)).

    At p = p_old, c = 4 p (1 - p)^0.5 / (3 p + 1).
    """
    p, p_old = logp.exp(), logp_old.exp()
    harder = (1.0 - p.detach()).clamp(min=0.0).sqrt()
    return -harder * 2.0 * p / (p_old + 0.5 * (p_old + 1.0))


IMITATION: dict[str, Imitation] = {
    "nll": nll, "dft": dft, "phi": phi, "luffy": luffy, "trsft": trsft, "rl-plus": rl_plus
}  # fmt: skip


def coefficient(name: str, p: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """c(p): what the loss called `name` puts on grad log p where the token has probability p [N]; by autograd."""
    logp = p.log().requires_grad_(True)
    (gradient,) = torch.autograd.grad(IMITATION[name](logp, logp.detach()).sum(), logp)
    return -gradient
