"""SRFT (arXiv:2506.19767): SFT and RL in one stage, weighed by the policy's entropy H.

    L = w_sft E_demo[-log p] + E_demo[-A f(p)] + w_rl E_{y correct}[-log p] + E_{y wrong}[log p]
    w_sft = 0.5 s(exp(-H)),   w_rl = 0.1 s(exp(+H)),   f(p) = p / (p + 0.1),   A = R - mean(R over rollouts and demo)

All of it second-hand; the released code reportedly has exp(+H) on the SFT term, and this is the paper's sign. Ours:
H is the batch's mean a token, known before the first backward (where the sampler notes no entropy, the mean of its
-log p, which estimates it); both expectations over rollouts are over all of them; tokens are averaged as in `luffy`.
Demonstrations and rollouts have a D of their own. Leaves out a baseline on rollouts: the formula has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, fsum
from typing import ClassVar, Literal

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from superrl import advantages
from superrl.config import Frozen
from superrl.errors import UserError
from superrl.imitation import IMITATION
from superrl.methods.experts import One, choose_right, joined, needs_of, refused, right, told
from superrl.methods.hooks import Limits, Method, policy_samples, sample
from superrl.methods.options import ImitationName
from superrl.records import Group, Plan, Request, Sample, State, Update, View
from superrl.reduction import Reduction, denominator, weights


class SrftOptions(Frozen):
    """The constants of both weights, and what is as in LUFFY."""

    sft_weight: NonNegativeFloat = 0.5
    positive_weight: NonNegativeFloat = 0.1
    std: Literal["sample", "population", "none"] = "none"
    imitation: ImitationName = "luffy"
    reduction: Reduction = "constant"
    demonstration: One = "random"


class Srft(Method):
    """Imitation, LUFFY's demonstration in the group, and REINFORCE without a baseline, at once."""

    name: ClassVar[str] = "srft"
    Options: ClassVar[type[Frozen]] = SrftOptions
    needs_correct: ClassVar[bool] = True
    refill_keeps: ClassVar[str] = "learnable"

    def __init__(self, options: SrftOptions, limits: Limits) -> None:
        super().__init__(options, limits)
        if limits.group_size < 2:
            raise UserError("group_size must be at least 2: a demonstration takes the place of one rollout")
        self.options = options

    @property
    def needs(self) -> frozenset[str]:
        """`demo_logp` to find the likeliest demonstration."""
        return needs_of(self.options.demonstration)

    def requests(self, groups: Sequence[Group], state: State) -> list[Sequence[Request]]:
        """One rollout fewer where a demonstration takes its place."""
        return [(Request(self.limits.group_size - bool(right(group))),) for group in groups]

    def plan(self, groups: Sequence[Group], state: State) -> Plan:
        """Rollouts in stream `pg`, the demonstrations in `sft` and, with the group's advantage, in `expert`."""
        o, h = self.options, entropy(groups)
        w_sft, w_rl = o.sft_weight * exp(-h), o.positive_weight * exp(h)
        samples: list[Sample] = []
        drawn, demonstrated, decisions = [], [], []
        for i, group in enumerate(groups):
            at = choose_right(group, o.demonstration)
            lengths = [trajectory.length for trajectory in group.trajectories]
            credits = [w_rl if score.correct else -1.0 for score in group.scores]
            rollouts = policy_samples(group.trajectories, credits, self._weights(lengths), i)
            samples += [*rollouts, *([] if at is None else self._taught(group, at, i))]
            drawn.append(denominator(o.reduction, lengths))
            demonstrated.append(0.0 if at is None else denominator(o.reduction, [group.demonstrations[at].length]))
            decisions.append(told(group, at, bool(rollouts)))
        denominators = {"pg": tuple(drawn), "sft": tuple(demonstrated), "expert": tuple(demonstrated)}
        update = Update(tuple(samples), denominators, {"sft": w_sft})
        metrics = {"weight/sft": w_sft, "weight/positive": w_rl, **refused(groups)}
        return Plan((update,), tuple(decisions), metrics)

    def token_loss(self, view: View) -> Tensor:
        """-A log p on rollouts, -log p on demonstrations, -A f(p) on demonstrations as members of their group."""
        plain = -view.advantage * view.logp
        shaped = view.advantage * IMITATION[self.options.imitation](view.logp, view.logp_old)
        return torch.where(view.of("expert"), shaped, plain)

    def _taught(self, group: Group, at: int, index: int) -> list[Sample]:
        expert, std = group.demonstrations[at], self.options.std
        (weight,) = self._weights([expert.length])
        rewards = [score.value for score in joined(group, at).scores]
        credit = advantages.center(rewards) if std == "none" else advantages.standardize(rewards, std=std)
        credits = {"sft": 1.0, "expert": max(credit[-1], 0.0)}  # one below its group's mean is not unlearnt
        return [sample(expert, s, (a,) * len(expert.tokens), weight, index) for s, a in credits.items() if a]

    def _weights(self, lengths: Sequence[int]) -> tuple[float, ...]:
        return weights(self.options.reduction, lengths, max_length=self.limits.max_new_tokens)


def entropy(groups: Sequence[Group]) -> float:
    """Mean entropy a drawn token of a batch, in nats: the sampler's, or where it notes none, the mean of its -log p."""
    rollouts = [one for group in groups for one in group.trajectories]
    totals = [-fsum(one.logp_sampler) if one.entropy is None else one.entropy * one.length for one in rollouts]
    return fsum(totals) / max(sum(one.length for one in rollouts), 1)
