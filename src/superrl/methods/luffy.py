"""LUFFY (arXiv:2504.14945): one expert trace is a member of the group, and its tokens are shaped.

    A_k = R_k - mean(R over K - 1 rollouts and the demonstration)                               no deviation
    L   = -(1/D) sum (1/L_max) { ratio A_k on rollouts | A f(p) on the demonstration },         D = all K sequences

f(p) = p / (p + 0.1). Rollouts are unclipped, with an entropy bonus of 0.001; the demonstration's behaviour probability
counts as 1. Read in the paper and its released script. Ours: a problem without a right demonstration rolls out all K; a
demonstration that fails the reward is refused, and one below its group's mean left out, for without a clip both would
be unlearnt without end; the bonus is on rollouts alone. Leaves out several traces of one problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import NonNegativeFloat, model_validator
from torch import Tensor

from superrl.config import Frozen
from superrl.imitation import IMITATION
from superrl.methods.experts import One, choose_right, joined, needs_of, refused, right, told
from superrl.methods.grpo import Grpo, GrpoOptions
from superrl.methods.hooks import Credit, Limits, sample
from superrl.methods.options import ImitationName
from superrl.methods.policy import Std, Surrogate
from superrl.records import Group, Plan, Request, Sample, State, Trajectory, Update, View
from superrl.reduction import Reduction, denominator, weights


class GroupedOptions(GrpoOptions):
    """GRPO's options, which demonstration joins the group, and how its tokens are shaped."""

    demonstration: One = "random"
    imitation: ImitationName = "luffy"

    @model_validator(mode="after")
    def _rewards_alone_give_credit(self) -> GroupedOptions:
        if self.baseline == "critic" or self.kl.where == "reward":
            raise ValueError(
                "a demonstration in the group has a reward and no more: no baseline: critic, no kl.in: reward"
            )
        return self


class LuffyOptions(GroupedOptions):
    """LUFFY's defaults."""

    std: Std = "none"
    surrogate: Surrogate = "none"
    entropy_bonus: NonNegativeFloat = 0.001
    reduction: Reduction = "constant"


class Luffy(Grpo):
    """Policy gradient over rollouts and one right demonstration of their problem."""

    name: ClassVar[str] = "luffy"
    Options: ClassVar[type[Frozen]] = LuffyOptions
    needs_correct: ClassVar[bool] = True
    refill_keeps: ClassVar[str] = "learnable"
    stream: ClassVar[str] = "sft"
    """The demonstration's stream."""

    def __init__(self, options: GroupedOptions, limits: Limits) -> None:
        super().__init__(options, limits)
        self.choice = options.demonstration
        self.shape = IMITATION[options.imitation]

    @property
    def needs(self) -> frozenset[str]:
        """The policy gradient's, and `demo_logp` to find the likeliest demonstration."""
        return super().needs | needs_of(self.choice)

    def requests(self, groups: Sequence[Group], state: State) -> list[Sequence[Request]]:
        """One rollout fewer where a demonstration takes its place."""
        return [(Request(self.limits.group_size - bool(right(group))),) for group in groups]

    def plan(self, groups: Sequence[Group], state: State) -> Plan:
        """Rollouts and demonstration with the advantages of one group."""
        chosen = [choose_right(group, self.choice) for group in groups]
        whole = [joined(group, at) for group, at in zip(groups, chosen, strict=True)]
        samples: list[Sample] = []
        shares, decisions = [], []
        for i, (group, at, credits) in enumerate(zip(groups, chosen, self.policy.credit(whole), strict=True)):
            lengths = [trajectory.length for trajectory in whole[i].trajectories]
            scale = weights(self.reduction, lengths, max_length=self.limits.max_new_tokens)
            n = len(group.trajectories)
            rollouts = self.policy.samples(group, credits[:n], scale[:n], i)
            taught = [] if at is None else self.taught(group.demonstrations[at], credits[n], scale[n], i)
            samples += [*rollouts, *taught]
            shares.append(denominator(self.reduction, lengths))
            decisions.append(told(group, at if taught else None, bool(rollouts)))
        streams = {**self.policy.streams(tuple(shares)), self.stream: tuple(shares)}
        return Plan((Update(tuple(samples), streams, self.policy.stream_weights),), tuple(decisions), refused(groups))

    def taught(self, expert: Trajectory, credit: Credit, weight: float, index: int) -> list[Sample]:
        """The demonstration as a sample, unless it is no better than its group."""
        advantage = credit if isinstance(credit, tuple) else (credit,) * len(expert.tokens)
        return [sample(expert, self.stream, advantage, weight, index)] if max(advantage) > 0.0 else []

    def token_loss(self, view: View) -> Tensor:
        """A x the shaped loss on the demonstration, the policy gradient's on rollouts."""
        shaped = view.advantage * self.shape(view.logp, view.logp_old)
        return torch.where(view.of(self.stream), shaped, super().token_loss(view))
