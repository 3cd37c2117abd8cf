"""Top-k, top-p and min-p: which tokens a sampler may draw. Imports no torch; `sampling.draw` applies it.

Leaves out penalties and everything that looks at earlier tokens.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator


class Truncation(BaseModel):
    """Only likely tokens are drawn, in proportion to their probabilities; None: not cut by this rule.

    `top_k`: the k likeliest. `top_p`: of those, the likeliest that together hold at least this share of their mass
    (arXiv:1904.09751). `min_p`: those at least this fraction as likely as the likeliest (arXiv:2407.01082). Tokens as
    likely as the last one kept are kept too. Probabilities are those at the sampling temperature.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    top_k: PositiveInt | None = None
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    min_p: Annotated[float, Field(ge=0.0, le=1.0)] | None = None

    @model_validator(mode="after")
    def _cuts(self) -> Truncation:
        if self.top_k is None and self.top_p is None and self.min_p is None:
            raise ValueError("name at least one of top_k, top_p and min_p, or leave it out")
        return self


class BiasedTruncation(Truncation):
    """The same for rollouts to learn from, by those who know what they ask for: the recorded log-probabilities and the
    learner's are those of the whole distribution, which the rollouts then are not from."""

    biased: bool = False

    @model_validator(mode="after")
    def _knowingly(self) -> BiasedTruncation:
        if not self.biased:
            raise ValueError(
                "the learner's distribution is not truncated, so that gradients from truncated rollouts are biased: "
                "leave it out, or add `biased: true`"
            )
        return self
