"""MaxRL (arXiv:2602.02710): the policy gradient of log P(success) instead of P(success), as far as K rollouts show it.

    A_k = (R_k - mean R) / (mean R + eps),      L = -(1/K) sum_k (1/T_k) sum_t min(rho A_k, clip(rho) A_k)

A prompt solved once in K weighs K times what it does with the bare difference: rare successes count more than under
GRPO's deviation. Rewards must not be negative (they are refused), and nothing is learnt where all are 0. The formula is
second-hand. Leaves out the paper's truncated objectives of other orders than K.
"""

from __future__ import annotations

from typing import ClassVar

from superrl.config import Frozen
from superrl.methods.grpo import Grpo, GrpoOptions
from superrl.methods.policy import Std


class MaxRLOptions(GrpoOptions):
    """GRPO's; the mean reward divides."""

    std: Std = "mean"


class MaxRL(Grpo):
    """GRPO that divides by the success rate."""

    name: ClassVar[str] = "maxrl"
    Options: ClassVar[type[Frozen]] = MaxRLOptions
