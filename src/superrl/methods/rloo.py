"""RLOO (arXiv:2402.14740): REINFORCE whose baseline for a rollout is the mean reward of the prompt's other rollouts.

    A_k = R_k - (1/(K-1)) sum_{j != k} R_j = K/(K-1) (R_k - mean R)
    L   = -(1/K) sum_k (1/L_max) sum_t rho_kt A_k,      rho = 1 with one update a batch

A completion is one action: its tokens are summed, over a constant and not over their number. The paper's KL in the
reward, for tuning on preferences, is `kl: {in: reward}`; it is off here. Leaves out a clip; `surrogate: token` has it.
"""

from __future__ import annotations

from typing import ClassVar

from superrl.config import Frozen
from superrl.methods.grpo import Grpo, GrpoOptions
from superrl.methods.policy import Baseline, Std, Surrogate
from superrl.reduction import Reduction


class RlooOptions(GrpoOptions):
    """GRPO's; the rest of the group as baseline, no deviation, no clip, every token over max_new_tokens."""

    baseline: Baseline = "leave-one-out"
    std: Std = "none"
    surrogate: Surrogate = "none"
    reduction: Reduction = "constant"


class Rloo(Grpo):
    """REINFORCE with a baseline that is unbiased."""

    name: ClassVar[str] = "rloo"
    Options: ClassVar[type[Frozen]] = RlooOptions
