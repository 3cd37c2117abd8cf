"""Dr.GRPO (arXiv:2503.20783): GRPO without its two normalisations, each of which biases the gradient.

    A_k = R_k - mean R,        L = -(1/K) sum_k (1/L_max) sum_t min(rho A_k, clip(rho) A_k)

Dividing by the group's deviation lifts nearly solved and nearly failed prompts; dividing by a rollout's own length lets
long failures off. Leaves out the KL term, as the paper does.
"""

from __future__ import annotations

from typing import ClassVar

from superrl.config import Frozen
from superrl.methods.grpo import Grpo, GrpoOptions
from superrl.methods.policy import Std
from superrl.reduction import Reduction


class DrGrpoOptions(GrpoOptions):
    """GRPO's; no deviation, and every token over max_new_tokens."""

    std: Std = "none"
    reduction: Reduction = "constant"


class DrGrpo(Grpo):
    """Policy gradient with the group's mean as baseline, and nothing else."""

    name: ClassVar[str] = "dr-grpo"
    Options: ClassVar[type[Frozen]] = DrGrpoOptions
