"""Prefix-RFT (arXiv:2507.01679): one of a prompt's N rollouts continues the beginning of a demonstration.

    length = floor(l T),  l ~ U(low(t), high),  low(t) = low_to + (high - low_to) / 2 (1 + cos(pi t / schedule_steps))

All N are one group. The continuation is trained as any rollout; of the prefix only the `top_share` tokens at which the
policy is least certain, with the continuation's advantage and the same surrogate, as stream `prefix`. They are chosen
before the update, by the entropy at temperature 1, so D is known. Dr.GRPO as base. Second-hand: 0.95, 0.05, 500 steps,
20 %. Leaves out that in the released code the prefix's advantage is reported to be taken against the other N - 1 alone.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from superrl.config import Frozen
from superrl.methods import prefixes
from superrl.methods.grpo import GrpoOptions
from superrl.methods.hooks import Credit, Limits
from superrl.methods.policy import Std
from superrl.records import Decision, Group, Plan, Request, Sample, State, Trajectory
from superrl.reduction import weights

Share = Annotated[float, Field(ge=0.0, lt=1.0)]


class PrefixRftOptions(GrpoOptions):
    """Dr.GRPO's, and the prefix's."""

    std: Std = "none"
    reduction: Literal["constant"] = "constant"
    high: Share = 0.95
    low_to: Share = 0.05
    schedule_steps: PositiveInt = 500
    top_share: Annotated[float, Field(ge=0.0, le=1.0)] = 0.2
    demonstration: prefixes.Chosen = "random"

    @model_validator(mode="after")
    def _the_prefix_shrinks(self) -> PrefixRftOptions:
        if self.low_to > self.high:
            raise ValueError("low_to is where the shortest prefix ends, so it cannot be above high")
        return self


class PrefixRft(prefixes.Counting):
    """Policy gradient on N - 1 rollouts from scratch and one from an expert's beginning."""

    name: ClassVar[str] = "prefix-rft"
    Options: ClassVar[type[Frozen]] = PrefixRftOptions

    def __init__(self, options: PrefixRftOptions, limits: Limits) -> None:
        super().__init__(options, limits)
        self.options = options

    @property
    def needs(self) -> frozenset[str]:
        """The entropy at the demonstrations' tokens, besides the policy gradient's."""
        return super().needs | {"demo_entropy"}

    def low(self, state: State) -> float:
        """low(t) of the step that comes next; t = 0 is the first."""
        return prefixes.falling(state["step"], self.options.schedule_steps, self.options.high, self.options.low_to)

    def requests(self, groups: Sequence[Group], state: State) -> list[Sequence[Request]]:
        """N - 1 rollouts from scratch and one after a prefix; N where there is no demonstration."""
        n, given = self.limits.group_size, [self._prefix(group, self.low(state)) for group in groups]
        return [(Request(n - 1), Request(1, prefix=prefix)) if prefix else (Request(n),) for prefix in given]

    def asked(self, state: State) -> Mapping[str, float]:
        """The schedule's low(t)."""
        return {"prefix_low": self.low(state)}

    def plan(self, groups: Sequence[Group], state: State) -> Plan:
        """Dr.GRPO's plan, and the chosen tokens of every prefix."""
        plan, credits = super().plan(groups, state), self.policy.credit(groups)
        taught = [self._taught(group, credits[g], g) for g, group in enumerate(groups)]
        decisions = [_told(*one) for one in zip(groups, plan.decisions, taught, strict=True)]
        update = prefixes.beside(plan.updates[0], "prefix", [row for one in taught for row in one])
        return Plan((update,), tuple(decisions), {"prefix_tokens": prefixes.given_tokens(groups)})

    def _prefix(self, group: Group, low: float) -> tuple[int, ...]:
        expert = prefixes.expert_of(group, self.options.demonstration)
        share = random.Random(f"prefix-rft/{group.key}").uniform(low, self.options.high)
        return () if expert is None else prefixes.prefix_of(expert, int(share * expert.length), self.limits)

    def _taught(self, group: Group, credits: Sequence[Credit], index: int) -> list[Sample]:
        """The uncertain tokens of the group's prefix, with the advantage of the first token drawn after it."""
        scale = weights(self.reduction, [t.length for t in group.trajectories], max_length=self.limits.max_new_tokens)
        expert, taught = prefixes.expert_of(group, self.options.demonstration), []
        for t, credit, weight in zip(group.trajectories, credits, scale, strict=True):
            advantage = credit[t.start + t.prefix] if isinstance(credit, tuple) else credit
            if expert is not None and t.prefix and advantage and self.policy.trains(t):
                places = uncertain(expert.annotations["demo_entropy"], t, self.options.top_share)
                taught += [prefixes.given(t, places, "prefix", advantage, weight, index)] if places else []
        return taught


def uncertain(entropy: Sequence[float], trajectory: Trajectory, share: float) -> list[int]:
    """The places of that share of a trajectory's prefix (at least one, if any) where `entropy` is highest."""
    places = prefixes.prefix_places(trajectory)
    count = max(round(share * len(places)), 1) if share else 0
    return sorted(places, key=lambda i: (-entropy[i], i))[:count]


def _told(group: Group, decision: Decision, taught: Sequence[Sample]) -> Decision:
    helped = prefixes.outcome([t for t in group.trajectories if t.prefix])
    return Decision("both", f"{decision.why}; {helped}") if taught else decision
