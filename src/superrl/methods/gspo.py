"""GSPO (arXiv:2507.18071): one importance ratio and one clip a sequence, as there is one reward a sequence.

    s_k = exp((1/T_k) sum_t log rho_kt),     L = -(1/K) sum_k min(s_k A_k, clip(s_k, 1 - 3e-4, 1 + 4e-4) A_k)

A_k as in GRPO. The mean log-ratio moves far less than a token's, hence the narrow clip. With one update a batch s_k is
1 and this is GRPO. Leaves out GSPO-token, the variant with an advantage a token, and the KL term.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, PositiveFloat

from superrl.config import Frozen
from superrl.methods.grpo import Grpo, GrpoOptions
from superrl.methods.policy import Surrogate


class GspoOptions(GrpoOptions):
    """GRPO's; the ratio of the sequence, and its clip."""

    surrogate: Surrogate = "sequence"
    clip_low: Annotated[float, Field(gt=0.0, le=1.0)] = 3e-4
    clip_high: PositiveFloat = 4e-4


class Gspo(Grpo):
    """GRPO whose clip takes or leaves a rollout whole."""

    name: ClassVar[str] = "gspo"
    Options: ClassVar[type[Frozen]] = GspoOptions
