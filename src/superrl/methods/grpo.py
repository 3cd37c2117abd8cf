"""Group-relative policy gradient: GRPO (arXiv:2402.03300), with Dr.GRPO's and DAPO's choices as options.

The baseline is the mean reward of a prompt's own rollouts. GRPO: `std: sample, reduction: sequence`; Dr.GRPO
(arXiv:2503.20783): `std: none, reduction: constant`; DAPO (arXiv:2503.14476): `clip_high: 0.28, reduction: token`,
with the stage's `refill` for its dynamic sampling. Leaves out a KL term and an entropy bonus; at one update a batch
the ratio is 1 and no clip acts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from superrl.advantages import center, standardize
from superrl.config import Frozen
from superrl.errors import UserError
from superrl.losses import clipped_surrogate, is_clipped
from superrl.methods.hooks import Credit, Limits, Method, policy_samples
from superrl.records import Decision, Group, Plan, Sample, State, Update, View
from superrl.reduction import Reduction, denominator, weights


class ClipOptions(Frozen):
    """How advantages are normalised and ratios clipped. `std: sample` divides by n - 1, `population` by n."""

    std: Literal["sample", "population", "none"] = "sample"
    eps: Annotated[float, Field(ge=0.0)] = 1e-4
    clip_low: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    clip_high: Annotated[float, Field(gt=0.0)] = 0.2


class GrpoOptions(ClipOptions):
    """The clip's options and how tokens are averaged."""

    reduction: Reduction = "sequence"


class ClippedPolicyGradient:
    """GRPO's two halves, for every method that mixes them with something else: credit and token loss."""

    def __init__(self, options: ClipOptions, limits: Limits) -> None:
        if limits.group_size < 2:
            raise UserError("group_size must be at least 2: the baseline of a rollout is the rest of its group")
        self.options = options

    def credit(self, groups: Sequence[Group]) -> list[list[Credit]]:
        """The group-normalised reward of every rollout; exactly 0.0 where a group's rewards are equal."""
        o = self.options
        rewards = [[score.value for score in group.scores] for group in groups]
        if o.std == "none":
            return [list(center(r)) for r in rewards]
        return [list(standardize(r, std=o.std, eps=o.eps)) for r in rewards]

    def token_loss(self, view: View) -> Tensor:
        """PPO's clipped surrogate."""
        o = self.options
        return clipped_surrogate(view.logp, view.logp_old, view.advantage, clip_low=o.clip_low, clip_high=o.clip_high)

    def telemetry(self, view: View) -> Mapping[str, tuple[float, float]]:
        """The share of policy tokens whose clip is active."""
        o, rollouts = self.options, view.of("pg")
        clipped = is_clipped(view.logp, view.logp_old, view.advantage, clip_low=o.clip_low, clip_high=o.clip_high)
        return {"policy/clip_fraction": (float((clipped & rollouts).sum()), float(rollouts.sum()))}


class Grpo(Method):
    """Policy gradient on every rollout whose advantage is not zero."""

    Options: ClassVar[type[Frozen]] = GrpoOptions

    def __init__(self, options: GrpoOptions, limits: Limits) -> None:
        super().__init__(options, limits)
        self.reduction = options.reduction
        self.policy = ClippedPolicyGradient(options, limits)

    def plan(self, groups: Sequence[Group], state: State) -> Plan:
        """All rollouts, each with its group-relative advantage."""
        samples: list[Sample] = []
        shares, decisions = [], []
        for index, (group, credits) in enumerate(zip(groups, self.policy.credit(groups), strict=True)):
            lengths = [trajectory.length for trajectory in group.trajectories]
            scale = weights(self.reduction, lengths, max_length=self.limits.max_new_tokens)
            samples += policy_samples(group.trajectories, credits, scale, index)
            shares.append(denominator(self.reduction, lengths))
            decisions.append(decide(group, any(credits)))
        return Plan((Update(tuple(samples), {"pg": tuple(shares)}),), tuple(decisions))

    def token_loss(self, view: View) -> Tensor:
        """PPO's clipped surrogate."""
        return self.policy.token_loss(view)

    def telemetry(self, view: View) -> Mapping[str, tuple[float, float]]:
        """The share of clipped tokens."""
        return self.policy.telemetry(view)


def decide(group: Group, signal: bool) -> Decision:
    """What a policy gradient makes of a group, in words."""
    counted = solved_of(group)
    return Decision("pg", counted) if signal else Decision("none", f"{counted}; equal rewards carry no gradient")


def solved_of(group: Group) -> str:
    """`3 of 8 correct`, or the mean reward where the reward does not say what is correct."""
    scores = group.scores
    if any(score.correct is None for score in scores):
        return f"mean reward {sum(score.value for score in scores) / max(len(scores), 1):.3g}"
    return f"{sum(bool(score.correct) for score in scores)} of {len(scores)} correct"
