"""HPT, hybrid post-training (arXiv:2509.04419): a prompt's success rate chooses between its RL and its SFT loss.

    P(x) > gamma: Dr.GRPO on the rollouts;    else: -log p of one expert trace;    both sums over tokens / L_max / N

Formula read in the paper: gamma 0 (Qwen) is SuperRL's reward switch, 2/8 (Llama) falls back more often. Ours: both
streams over one constant length. Its rate (5e-6) and gradient norm (80) belong to the stage's `optimizer`. Leaves out
gates that are not 0 or 1.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from superrl.config import Frozen
from superrl.methods.options import SuperRLOptions
from superrl.methods.policy import PolicyOptions, Std
from superrl.methods.superrl import SuperRL
from superrl.reduction import Inner


class DrGrpoPolicy(PolicyOptions):
    """Rewards minus their mean, not divided."""

    std: Std = "none"


class HptOptions(SuperRLOptions):
    """SuperRL's options with HPT's defaults; `gamma` is the success rate up to which a prompt imitates."""

    gate: Literal["reward", "rate", "history", "advantage"] = "rate"
    inner: Inner = "constant"
    policy: DrGrpoPolicy = DrGrpoPolicy()


class Hpt(SuperRL):
    """SuperRL with a threshold on the success rate."""

    name: ClassVar[str] = "hpt"
    Options: ClassVar[type[Frozen]] = HptOptions
