"""What every method with a policy gradient shares: the part itself, and the hooks that only pass on to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from superrl.config import Frozen
from superrl.methods.actor_critic import policy_gradient
from superrl.methods.hooks import CriticOptions, Limits, Method
from superrl.methods.policy import PolicyOptions
from superrl.records import Decision, DecisionKind, Group, Sample, Update, View


class WithPolicy(Method):
    """A method with a policy gradient, `self.policy`; alone, its token loss is the policy gradient's."""

    def __init__(self, options: Frozen, limits: Limits, policy: PolicyOptions) -> None:
        super().__init__(options, limits)
        self.policy = policy_gradient(policy, limits)

    @property
    def needs(self) -> frozenset[str]:
        """The policy gradient's."""
        return self.policy.needs

    @property
    def critic(self) -> CriticOptions | None:
        """The policy gradient's."""
        return self.policy.critic

    def token_loss(self, view: View) -> Tensor:
        """The policy gradient's."""
        return self.policy.token_loss(view)

    def telemetry(self, view: View) -> Mapping[str, tuple[float, float]]:
        """The policy gradient's."""
        return self.policy.telemetry(view)


def apart(update: Update, streams: Sequence[str], optimizer: str, lr_scale: float) -> tuple[Update, Update]:
    """An update as two: without some streams, and these alone, under an optimizer state of their own."""

    def only(inside: bool) -> tuple[tuple[Sample, ...], dict[str, tuple[float, ...]], dict[str, float]]:
        samples = tuple(one for one in update.samples if (one.stream in streams) == inside)
        shares = {s: shares for s, shares in update.denominators.items() if (s in streams) == inside}
        return samples, shares, {s: w for s, w in update.stream_weights.items() if (s in streams) == inside}

    return Update(*only(False)), Update(*only(True), optimizer=optimizer, lr_scale=lr_scale)


def kind_of(rollouts: Sequence[Sample], taught: Sequence[Sample]) -> DecisionKind:
    """What a group is learnt from: its rollouts (`pg`), the expert (`sft`), both or nothing."""
    if taught:
        return "both" if rollouts else "sft"
    return "pg" if rollouts else "none"


def decide(group: Group, trained: bool) -> Decision:
    """What a policy gradient makes of a group, in words."""
    counted = solved_of(group)
    return Decision("pg", counted) if trained else Decision("none", f"{counted}; equal rewards carry no gradient")


def solved_of(group: Group) -> str:
    """`3 of 8 correct` of the policy's own, or the mean reward where the reward does not say what is correct."""
    scores = [t.score for t in group.own if t.score is not None]
    if any(score.correct is None for score in scores):
        return f"mean reward {sum(score.value for score in scores) / max(len(scores), 1):.3g}"
    return f"{sum(bool(score.correct) for score in scores)} of {len(scores)} correct"
