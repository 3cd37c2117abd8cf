"""The policy gradient whose baseline is a critic: PPO's credit (GAE) and its value loss, as a part.

The critic learns on the same rollouts, which are samples a second time, of stream `value`: the learner computes their
tokens once, and the stream has a weight, a loss and telemetry of its own. A rollout that was cut off is bootstrapped
with the critic's value of where it stopped; one that ended is not. Leaves out the critic itself (the learner's).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from superrl.advantages import generalized_advantages
from superrl.losses import clipped_value_loss
from superrl.methods.credit import drawn, kl_cost
from superrl.methods.hooks import Credit, CriticOptions, Limits, policy_samples
from superrl.methods.policy import PolicyGradient, PolicyOptions
from superrl.records import Group, Sample, Trajectory, View


class ActorCritic(PolicyGradient):
    """Credit by generalized advantage estimation over tokens; `std: batch` whitens it over the batch (PPO's habit)."""

    @property
    def needs(self) -> frozenset[str]:
        """The critic's values, besides what regularisation reads."""
        return super().needs | {"value"}

    @property
    def critic(self) -> CriticOptions | None:
        """The options' critic."""
        return self.options.critic

    def credit(self, groups: Sequence[Group]) -> list[list[Credit]]:
        """One advantage a token, [len(tokens)] a rollout."""
        credits: list[list[Credit]] = [[self._advantages(t) for t in group.trajectories] for group in groups]
        return self.whitened(groups, credits, shift=True) if self.options.std == "batch" else credits

    def samples(self, group: Group, credits: Sequence[Credit], weights: Sequence[float], index: int) -> list[Sample]:
        """The rollouts as stream `pg`, and once more, with their returns, as stream `value`."""
        valued = [self._with_return(t) for t in group.trajectories if self.trains(t)]
        kept = [w for t, w in zip(group.trajectories, weights, strict=True) if self.trains(t)]
        ones = [1.0] * len(valued)
        return super().samples(group, credits, weights, index) + policy_samples(
            valued, ones, kept, index, stream="value"
        )

    def streams(self, shares: tuple[float, ...]) -> dict[str, tuple[float, ...]]:
        """Both streams are over one denominator."""
        return {"pg": shares, "value": shares}

    @property
    def stream_weights(self) -> dict[str, float]:
        """The value loss weighs `value_weight`."""
        return {"value": self.options.value_weight}

    def token_loss(self, view: View) -> Tensor:
        """The surrogate on stream `pg`, the value loss on stream `value`."""
        loss, valued = super().token_loss(view), view.of("value")
        if not bool(valued.any()):  # a micro-batch of demonstrations has no returns
            return loss
        assert view.value is not None
        old, returns = view.annotation("value"), view.annotation("return")
        value_loss = clipped_value_loss(view.value, old, returns, clip=self.options.value_clip)
        return torch.where(valued, value_loss, loss)

    def telemetry(self, view: View) -> Mapping[str, tuple[float, float]]:
        """The policy's, and the critic's mean value and squared error."""
        told, valued = dict(super().telemetry(view)), view.of("value")
        if n := float(valued.sum()):
            assert view.value is not None
            error = (view.value - view.annotation("return"))[valued]
            told["method/value"] = float(view.value[valued].double().sum()), n
            told["method/value_error"] = float((error**2).double().sum()), n
        return told

    def _advantages(self, trajectory: Trajectory) -> tuple[float, ...]:
        o, places = self.options, drawn(trajectory)
        if not places:
            return (0.0,) * len(trajectory.tokens)
        costs = o.kl.coefficient if o.kl.where == "reward" else 0.0
        rewards = [-kl_cost(trajectory, t, costs) if costs else 0.0 for t in places]
        rewards[-1] += self.reward(trajectory)
        values = [trajectory.annotations["value"][t] for t in places]
        goes_on = o.bootstrap and trajectory.stop == "length"
        last = trajectory.annotations["value_next"][places[-1]] if goes_on else 0.0
        estimated = iter(generalized_advantages(rewards, values, last, gamma=o.gamma, lam=o.gae_lambda))
        return tuple(next(estimated) if own else 0.0 for own in trajectory.loss_mask)

    def _with_return(self, trajectory: Trajectory) -> Trajectory:
        """The rollout with the target of the critic, advantage + value, noted on it."""
        values = trajectory.annotations["value"]
        returns = tuple(a + v for a, v in zip(self._advantages(trajectory), values, strict=True))
        return replace(trajectory, annotations={**trajectory.annotations, "return": returns})


def policy_gradient(options: PolicyOptions, limits: Limits) -> PolicyGradient:
    """The part that the options describe."""
    return (ActorCritic if options.baseline == "critic" else PolicyGradient)(options, limits)
