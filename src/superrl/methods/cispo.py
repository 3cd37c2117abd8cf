"""CISPO (MiniMax-M1, arXiv:2506.13585): the importance weight is capped and constant, so no token is clipped out.

    L = -(1 / sum_k T_k) sum_k sum_t s(min(rho_kt, 1 + clip_high)) A_k log pi(y_kt),       s = stop-gradient

A_k as in GRPO. The paper sets no lower bound and does not print its upper one; 4 (a cap at 5) is what ScaleRL
(arXiv:2510.13786) is quoted with, second-hand. Leaves out the paper's mask that brings PPO's clip back, and a KL term.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import PositiveFloat

from superrl.config import Frozen
from superrl.methods.grpo import Grpo, GrpoOptions
from superrl.methods.policy import Surrogate
from superrl.reduction import Reduction


class CispoOptions(GrpoOptions):
    """GRPO's; the capped weight, and a mean over tokens."""

    surrogate: Surrogate = "cispo"
    clip_high: PositiveFloat = 4.0
    reduction: Reduction = "token"


class Cispo(Grpo):
    """Weighted log-likelihood in which every token keeps its gradient."""

    name: ClassVar[str] = "cispo"
    Options: ClassVar[type[Frozen]] = CispoOptions
