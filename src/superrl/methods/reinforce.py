"""REINFORCE (Williams, 1992): log-likelihood weighted by reward; no group, no clip, no critic.

    L = -(1/K) sum_k (1/L_max) sum_t rho_kt (R_k - b),      b = 0, or the batch's mean reward with `baseline: batch`

rho = 1 with one update a batch. With rewards in {0, 1} and b = 0 only successes are learnt from. The simplest policy
gradient there is, as a place to start from and to compare with. Leaves out everything that lowers its variance but b.
"""

from __future__ import annotations

from typing import ClassVar

from superrl.config import Frozen
from superrl.methods.grpo import Grpo, GrpoOptions
from superrl.methods.policy import Baseline, Std, Surrogate
from superrl.reduction import Reduction


class ReinforceOptions(GrpoOptions):
    """GRPO's; no baseline, no deviation, no clip, every token over max_new_tokens."""

    baseline: Baseline = "none"
    std: Std = "none"
    surrogate: Surrogate = "none"
    reduction: Reduction = "constant"


class Reinforce(Grpo):
    """The reward times the gradient of the log-probability."""

    name: ClassVar[str] = "reinforce"
    Options: ClassVar[type[Frozen]] = ReinforceOptions
