"""DyME (arXiv:2506.23061): where nothing was solved, the ground truth takes the place of a rollout, with advantage 1.

    no success:      A = (1, 0, ..., 0), the first of the K sequences being a demonstration        memorise
    all correct:     A = 0
    otherwise:       GRPO's advantages                                                              explore

All of it in GRPO's clipped surrogate, so that with one update a batch a failed group is plain SFT at 1/K of a group's
weight. Read in the paper. Leaves out its visual checker and refiner. Ours: a failed group without a demonstration
teaches nothing. The demonstration is stream `expert`, not `sft`: it has a ratio, to the policy before the step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from pydantic import model_validator

from superrl.config import Frozen
from superrl.methods.demonstrations import choose
from superrl.methods.experts import One, needs_of, told
from superrl.methods.gates import successes
from superrl.methods.grpo import Grpo, GrpoOptions
from superrl.methods.hooks import Credit, Limits, sample
from superrl.methods.rl_plus import of_experts
from superrl.records import Group, Plan, Sample, State, Trajectory, Update, View
from superrl.reduction import denominator, weights

EXPERT = "expert"


class DymeOptions(GrpoOptions):
    """GRPO's options, and which demonstration is the ground truth."""

    demonstration: One = "random"

    @model_validator(mode="after")
    def _advantages_are_the_group_s(self) -> DymeOptions:
        if self.baseline not in ("group", "leave-one-out") or self.std == "batch" or self.kl.where == "reward":
            raise ValueError(
                "DyME writes a group's advantages itself: set baseline: group, no std: batch, no kl.in: reward"
            )
        return self


class Dyme(Grpo):
    """GRPO, but for groups that failed: those learn one demonstration in a rollout's place."""

    name: ClassVar[str] = "dyme"
    Options: ClassVar[type[Frozen]] = DymeOptions
    needs_correct: ClassVar[bool] = True
    refill_keeps: ClassVar[str] = "learnable"

    def __init__(self, options: DymeOptions, limits: Limits) -> None:
        super().__init__(options, limits)
        self.choice = options.demonstration

    @property
    def needs(self) -> frozenset[str]:
        """The policy gradient's, and `demo_logp` to find the likeliest demonstration."""
        return super().needs | needs_of(self.choice)

    def plan(self, groups: Sequence[Group], state: State) -> Plan:
        """One group of K sequences a problem, the first of which may be a demonstration."""
        samples: list[Sample] = []
        shares, decisions = [], []
        for i, (group, explored) in enumerate(zip(groups, self.policy.credit(groups), strict=True)):
            at = None if group.solved else next(iter(choose(group, self.choice)), None)
            sequences = list(group.trajectories) if at is None else [group.demonstrations[at], *group.trajectories[1:]]
            credits = explored if 0 < successes(group) < len(group.own) else [0.0] * len(explored)
            lengths = [trajectory.length for trajectory in sequences]
            scale = weights(self.reduction, lengths, max_length=self.limits.max_new_tokens)
            taught, rollouts = self._apart(group, sequences, credits, scale, i)
            samples += [*taught, *rollouts]
            shares.append(denominator(self.reduction, lengths))
            decisions.append(told(group, at, any(sample.advantage[-1] for sample in rollouts)))
        streams = {**self.policy.streams(tuple(shares)), EXPERT: tuple(shares)}
        return Plan((Update(tuple(samples), streams),), tuple(decisions))

    def telemetry(self, view: View) -> Mapping[str, tuple[float, float]]:
        """The policy gradient's, and how likely the demonstrations are."""
        return {**super().telemetry(view), **of_experts(view, EXPERT)}

    def _apart(
        self,
        group: Group,
        sequences: Sequence[Trajectory],
        credits: Sequence[Credit],
        scale: Sequence[float],
        index: int,
    ) -> tuple[list[Sample], list[Sample]]:
        """The demonstration among the sequences as a sample, and the rollouts."""
        taught = [
            sample(one, EXPERT, (1.0,) * len(one.tokens), weight, index)
            for one, weight in zip(sequences, scale, strict=True)
            if one.origin == "expert"
        ]
        n = len(taught)
        drawn = replace(group, trajectories=tuple(sequences[n:]))
        return taught, self.policy.samples(drawn, credits[n:], scale[n:], index)
