"""PPO with a critic (arXiv:1707.06347) and generalized advantage estimation (arXiv:1506.02438), for language models.

    delta_t = r_t + gamma V_{t+1} - V_t,    A_t = sum_l (gamma lambda)^l delta_{t+l},    whitened over all tokens
    L = -(1/D) sum min(rho A, clip(rho) A) + c (1/D) sum 0.5 max((v - G)^2, (clip(v, v_old +- 0.2) - G)^2),   G = A + V

D = all tokens. The reward comes at the last token; a rollout that was cut off is bootstrapped with the critic's value,
one that ended is not. `critic: {kind, lr, warmup_steps}` says what the critic is and how long it learns alone. lambda
is 1 by default, so that a critic that knows nothing yet biases nothing; PPO of old takes 0.95. Leaves out an adaptive
KL coefficient; `kl: {in: reward}` is the fixed one.
"""

from __future__ import annotations

from typing import ClassVar

from superrl.config import Frozen
from superrl.methods.grpo import Grpo, GrpoOptions
from superrl.methods.policy import Baseline, Std
from superrl.reduction import Reduction


class PpoOptions(GrpoOptions):
    """GRPO's; a critic as baseline, advantages whitened over the batch, a mean over tokens."""

    baseline: Baseline = "critic"
    std: Std = "batch"
    reduction: Reduction = "token"


class Ppo(Grpo):
    """Actor and critic on the same rollouts."""

    name: ClassVar[str] = "ppo"
    Options: ClassVar[type[Frozen]] = PpoOptions
