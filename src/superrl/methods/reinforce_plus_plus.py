"""REINFORCE++ (arXiv:2501.03262): no critic and no group; token KL in the reward, advantages whitened over the batch.

    A_kt = R_k - beta sum_{i >= t} (log pi - log pi_ref)_ki,       then (A - mean A) / (std A + eps) over all tokens
    L    = -(1 / sum_k T_k) sum_k sum_t min(rho A_kt, clip(rho) A_kt)

One rollout a prompt is enough. `variant: baseline` takes the group's mean off first and only divides by the batch's
deviation, for K > 1 and verifiable rewards; its KL is k2 in the loss. There equal rewards give exactly 0, for no mean
is taken off twice. Leaves out a value of beta from the paper: 1e-3 is second-hand. For rewards alone, `kl: {in: none}`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import model_validator

from superrl.config import Frozen
from superrl.methods.grpo import Grpo, GrpoOptions
from superrl.methods.policy import Baseline, KlOptions, Std
from superrl.reduction import Reduction


class ReinforcePlusPlusOptions(GrpoOptions):
    """GRPO's; the batch as baseline and deviation, KL in the reward, a mean over tokens. `variant: baseline` is the
    paper's second algorithm: the group's mean as baseline, KL in the loss."""

    variant: Literal["plain", "baseline"] = "plain"
    baseline: Baseline = "batch"
    std: Std = "batch"
    kl: KlOptions = KlOptions(where="reward")
    reduction: Reduction = "token"

    @model_validator(mode="before")
    @classmethod
    def _what_the_variant_changes(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("variant") != "baseline":
            return values
        return {"baseline": "group", "kl": {"in": "loss", "estimator": "k2"}, **values}


class ReinforcePlusPlus(Grpo):
    """REINFORCE with PPO's clip and a whitening over everything the batch holds."""

    name: ClassVar[str] = "reinforce++"
    Options: ClassVar[type[Frozen]] = ReinforcePlusPlusOptions
