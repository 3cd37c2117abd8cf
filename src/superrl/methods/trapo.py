"""TRAPO (arXiv:2512.17636), its trust-region SFT: imitate fully where p >= 0.1, and less the further outside p lies.

    L = (1/N) sum_x (1/L_max) { -(1/K) sum_k ratio A_k  -  [success rate <= gamma] s(min(1, p / 0.1)) log p(trace) }

The weight is min(1, p / 0.1) on grad log p, for 1 / max(p, 0.1) multiplies grad p: that, the unclipped rollouts without
deviation and their entropy bonus are as the released code has them. Leaves out the other half of the method, its
curriculum of expert prefixes (micro-groups that continue longer and longer parts of a trace): here a problem that needs
help imitates the whole trace beside its rollouts. gamma 0.5 is ours, and so is one N for both.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat

from superrl.config import Frozen
from superrl.methods.options import ImitationName, SuperRLOptions
from superrl.methods.policy import PolicyOptions, Std, Surrogate
from superrl.methods.superrl import SuperRL
from superrl.reduction import Inner


class UnclippedPolicy(PolicyOptions):
    """The policy gradient of LUFFY's and TRAPO's scripts."""

    std: Std = "none"
    surrogate: Surrogate = "none"
    entropy_bonus: NonNegativeFloat = 0.001


class TrapoOptions(SuperRLOptions):
    """SuperRL's options with TRAPO's defaults: problems up to `gamma` imitate, and keep their policy gradient."""

    gate: Literal["reward", "rate", "history", "advantage"] = "rate"
    gamma: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    failed_rollouts: Literal["drop", "keep"] | None = "keep"
    imitation: ImitationName = "trsft"
    inner: Inner = "constant"
    policy: UnclippedPolicy = UnclippedPolicy()


class Trapo(SuperRL):
    """Policy gradient everywhere, trust-region SFT beside it where too little was solved."""

    name: ClassVar[str] = "trapo"
    Options: ClassVar[type[Frozen]] = TrapoOptions
