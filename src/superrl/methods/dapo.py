"""DAPO (arXiv:2503.14476): GRPO with a higher upper clip, a mean over tokens, a penalty for length, dynamic sampling.

    A_k = (R_k - mean R) / (std R + eps),     R_k with 0 up to L - C tokens, (L - C - T) / C up to L, -1 from there on
    L   = -(1 / sum_k T_k) sum_k sum_t min(rho A_k, clip(rho, 1 - 0.2, 1 + 0.28) A_k)

Its fourth part, dynamic sampling, is the stage's: `refill: {keep: mixed}` draws on until enough groups hold both right
and wrong rollouts. `overlong: filter` is the paper's other treatment of truncated rollouts. Leaves out the KL term, as
the paper does.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import PositiveFloat

from superrl.config import Frozen
from superrl.methods.grpo import Grpo, GrpoOptions
from superrl.methods.policy import Overlong
from superrl.reduction import Reduction


class DapoOptions(GrpoOptions):
    """GRPO's; clip-higher, a mean over tokens, the soft penalty."""

    clip_high: PositiveFloat = 0.28
    overlong: Overlong = "soft"
    reduction: Reduction = "token"


class Dapo(Grpo):
    """GRPO that leaves rare tokens room to grow, and counts every token alike."""

    name: ClassVar[str] = "dapo"
    Options: ClassVar[type[Frozen]] = DapoOptions
