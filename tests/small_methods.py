"""A method for the tests of resuming that reads all a learner can keep for a stage: a critic, a reference policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from superrl.config import Frozen
from superrl.methods.hooks import CriticOptions, Method, policy_samples
from superrl.records import Decision, Group, Plan, State, Trajectory, Update, View

NAME = "python:small_methods.Watched"


class Options(Frozen):
    critic: CriticOptions | None = None
    reference: bool = False


class Watched(Method):
    """Advantage R - V(before t) - 0.1 (logp_sampler - logp_ref), and (V - R)^2 in the stream of the critic."""

    Options = Options

    def __init__(self, options: Options, limits) -> None:
        super().__init__(options, limits)
        self.options = options

    @property
    def critic(self) -> CriticOptions | None:
        return self.options.critic

    @property
    def needs(self) -> frozenset[str]:
        wanted = {"value": self.options.critic is not None, "logp_ref": self.options.reference}
        return frozenset(name for name, asked in wanted.items() if asked)

    def plan(self, groups: Sequence[Group], state: State) -> Plan:
        samples = []
        for index, group in enumerate(groups):
            rollouts = group.trajectories
            credits = [self._credit(one) for one in rollouts]
            samples += policy_samples(rollouts, credits, [0.2] * len(rollouts), index)
            if self.critic:
                returns = [_flat(one, one.score.value) for one in rollouts]
                noted = [replace(t, annotations={"return": r}) for t, r in zip(rollouts, returns, strict=True)]
                samples += policy_samples(noted, returns, [0.5] * len(noted), index, stream="value", keep_zero=True)
        shares = (1.0,) * len(groups)
        update = Update(tuple(samples), {"pg": shares} | ({"value": shares} if self.critic else {}))
        return Plan((update,), tuple(Decision("pg", "watched") for _ in groups))

    def _credit(self, one: Trajectory) -> tuple[float, ...]:
        values = one.annotations["value"] if self.critic else _flat(one, 0.5)
        told = one.annotations["logp_ref"] if self.options.reference else one.logp_sampler
        assert len(set(told[one.start :])) > 1 or len(told) - one.start < 3
        pairs = zip(values, one.logp_sampler, told, strict=True)
        return tuple(one.score.value - v - 0.1 * (sampled - before) for v, sampled, before in pairs)

    def token_loss(self, view: View) -> Tensor:
        policy = -(view.logp - view.logp_old).exp() * view.advantage
        if view.value is None:
            return policy
        return torch.where(view.of("value"), (view.value - view.annotation("return")) ** 2, policy)


def _flat(one: Trajectory, value: float) -> tuple[float, ...]:
    return (value,) * len(one.tokens)
