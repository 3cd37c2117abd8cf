"""Group-relative policy gradient: GRPO (arXiv:2402.03300), and the base of every pure policy gradient here.

The baseline is the mean reward of a prompt's own rollouts, the deviation divides, tokens are averaged a sequence. The
relatives are files of their own that change these defaults: `dr_grpo`, `dapo`, `gspo`, `cispo`, `rloo`, `reinforce`,
`reinforce_plus_plus`, `maxrl`, `ppo`. At one update a batch the ratio is 1 and no clip acts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from superrl.config import Frozen
from superrl.methods.hooks import Credit, Limits
from superrl.methods.mixed import WithPolicy, decide
from superrl.methods.policy import PolicyOptions
from superrl.records import Group, Plan, Sample, State, Update
from superrl.reduction import Reduction, denominator, weights


class GrpoOptions(PolicyOptions):
    """The policy gradient's options and how tokens are averaged."""

    reduction: Reduction = "sequence"


class Grpo(WithPolicy):
    """Policy gradient on every rollout whose advantage is not zero."""

    name: ClassVar[str] = "grpo"
    Options: ClassVar[type[Frozen]] = GrpoOptions

    def __init__(self, options: GrpoOptions, limits: Limits) -> None:
        super().__init__(options, limits, options)
        self.reduction = options.reduction

    def credits(self, groups: Sequence[Group]) -> list[list[Credit]]:
        """One advantage a rollout, or one a token."""
        return self.policy.credit(groups)

    def plan(self, groups: Sequence[Group], state: State) -> Plan:
        """All rollouts, each with its advantage."""
        samples: list[Sample] = []
        shares, decisions = [], []
        for index, (group, credits) in enumerate(zip(groups, self.credits(groups), strict=True)):
            lengths = [trajectory.length for trajectory in group.trajectories]
            scale = weights(self.reduction, lengths, max_length=self.limits.max_new_tokens)
            trained = self.policy.samples(group, credits, scale, index)
            samples += trained
            shares.append(denominator(self.reduction, lengths))
            decisions.append(decide(group, bool(trained)))
        update = Update(tuple(samples), self.policy.streams(tuple(shares)), self.policy.stream_weights)
        return Plan((update,), tuple(decisions))
