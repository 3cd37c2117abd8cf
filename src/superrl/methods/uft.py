"""UFT (arXiv:2505.16984): GRPO on prompts with a hint, the first parts of a solution, that shrinks away over time.

    p(t) = low + (high - low) / 2 (1 + cos(pi t / hint_steps)),  t = 1, 2, ...      hint = Binomial(parts, p(t)) parts
    L = L_GRPO(what follows the hint) + KL + hint_weight * CE(hint)                 no hint after `hint_steps`

All rollouts of a group share the hint, and CE is the mean over its tokens, so that `hint_weight` is the paper's beta
whatever the reduction. Schedule, 0.001 and 5 parts are read in the released code. There a part is a fifth of the
solution's sentences, and five parts are all of it; here it is a fifth of the tokens, and never all of them.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from superrl.config import Frozen
from superrl.losses import negative_log_likelihood
from superrl.methods import prefixes
from superrl.methods.grpo import GrpoOptions
from superrl.methods.hooks import Limits
from superrl.methods.policy import KlOptions
from superrl.records import Decision, Group, Plan, Request, Sample, State, View

Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class UftOptions(GrpoOptions):
    """GRPO's with a KL term in the loss, and the hint's."""

    kl: KlOptions = KlOptions.model_validate({"in": "loss"})
    parts: PositiveInt = 5
    low: Probability = 0.05
    high: Probability = 0.95
    hint_steps: PositiveInt = 300
    hint_weight: PositiveFloat = 1e-3
    demonstration: prefixes.Chosen = "random"

    @model_validator(mode="after")
    def _the_hint_shrinks(self) -> UftOptions:
        if self.low > self.high:
            raise ValueError("low is where the hint's probability ends, so it cannot be above high, where it begins")
        return self


class Uft(prefixes.Counting):
    """Policy gradient on what follows a hint, and a little imitation of the hint."""

    name: ClassVar[str] = "uft"
    Options: ClassVar[type[Frozen]] = UftOptions

    def __init__(self, options: UftOptions, limits: Limits) -> None:
        super().__init__(options, limits)
        self.hints = options

    def probability(self, state: State) -> float:
        """p(t) of the step that comes next."""
        o, t = self.hints, state["step"] + 1
        return prefixes.falling(t, o.hint_steps, o.high, o.low) if t <= o.hint_steps else 0.0

    def requests(self, groups: Sequence[Group], state: State) -> list[Sequence[Request]]:
        """Every prompt `group_size` times, after its hint."""
        p = self.probability(state)
        return [(Request(self.limits.group_size, prefix=self._hint(group, p)),) for group in groups]

    def asked(self, state: State) -> Mapping[str, float]:
        """The schedule's p."""
        return {"hint_probability": self.probability(state)}

    def plan(self, groups: Sequence[Group], state: State) -> Plan:
        """GRPO's plan, and every hint as a sample of stream `sft`."""
        plan = super().plan(groups, state)
        (update,) = plan.updates
        shares = update.denominators["pg"]
        hints = [_taught(group, share, g) for g, (group, share) in enumerate(zip(groups, shares, strict=True))]
        decisions = [_told(*one) for one in zip(groups, plan.decisions, hints, strict=True)]
        told = {"hint_tokens": prefixes.given_tokens(groups)}
        taught = [hint for one in hints for hint in one]
        return Plan((prefixes.beside(update, "sft", taught, self.hints.hint_weight),), tuple(decisions), told)

    def token_loss(self, view: View) -> Tensor:
        """-log p on the hint, the policy gradient's elsewhere."""
        return torch.where(view.of("sft"), negative_log_likelihood(view.logp), super().token_loss(view))

    def _hint(self, group: Group, p: float) -> tuple[int, ...]:
        expert, lots = prefixes.expert_of(group, self.hints.demonstration), random.Random(f"uft/{group.key}")
        parts = sum(lots.random() < p for _ in range(self.hints.parts))
        if expert is None:
            return ()
        return prefixes.prefix_of(expert, round(parts * expert.length / self.hints.parts), self.limits)


def _taught(group: Group, share: float, index: int) -> list[Sample]:
    """The hint that the group's rollouts share, with the whole group's weight; at temperature 1."""
    hinted = [t for t in group.trajectories if t.prefix][:1]
    rows = [prefixes.given(t, prefixes.prefix_places(t), "sft", 1.0, share / t.prefix, index) for t in hinted]
    return [replace(row, temperature=1.0) for row in rows]


def _told(group: Group, decision: Decision, hint: Sequence[Sample]) -> Decision:
    trained = decision.kind == "pg"
    kind = ("both" if trained else "sft") if hint else decision.kind
    why = prefixes.outcome(group.trajectories)
    return Decision(kind, why if trained else f"{why}; equal rewards carry no gradient")
