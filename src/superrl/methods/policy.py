"""The policy gradient as a part: credit, samples and token loss, for methods that are one and that mix one in.

What the published methods differ in is four choices: the baseline, what advantages are divided by, the surrogate
(where a ratio is clipped), and how a reference policy holds it back. `policy_gradient` (of `actor_critic`) builds the
part that an options object describes; with `baseline: critic` that is an `ActorCritic`. Leaves out reductions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from pydantic import ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from superrl import losses
from superrl.config import Frozen
from superrl.errors import UserError
from superrl.methods import credit
from superrl.methods.hooks import Credit, CriticOptions, Limits, policy_samples
from superrl.records import Group, Sample, Trajectory, View

Baseline = Literal["group", "leave-one-out", "batch", "none", "critic"]
Std = Literal["sample", "population", "mean", "batch", "none"]
Surrogate = Literal["token", "sequence", "cispo", "none"]
Overlong = Literal["keep", "filter", "soft"]

K1_REFUSED = (
    "k1 in the loss has zero expected gradient: use k2 (the gradient of the reverse KL), k3 (that of GRPO), "
    "or `in: reward`"
)
READ_BY = {
    **dict.fromkeys(
        ("gamma", "gae_lambda", "bootstrap", "value_weight", "value_clip", "critic"), ("baseline", ("critic",))
    ),
    "clip_low": ("surrogate", ("token", "sequence")),
    "clip_high": ("surrogate", ("token", "sequence", "cispo")),
    "overlong_buffer": ("overlong", ("soft",)),
}
"""Option -> the option that decides whether it is read, and the values with which it is."""


class KlOptions(Frozen):
    """A pull towards the policy that the stage began with. `in`: `loss` adds `coefficient` x the estimate to every
    rollout token's loss (k2 unless said otherwise); `reward` takes coefficient x (log p - log p_ref) off every token's
    reward, after normalisation by group: there the estimate is k1, whose expectation is the KL."""

    where: Annotated[Literal["none", "loss", "reward"], Field(alias="in")] = "none"
    coefficient: NonNegativeFloat = 1e-3
    estimator: Literal["k1", "k2", "k3"] | None = None

    model_config = ConfigDict(populate_by_name=True)

    @model_validator(mode="after")
    def _an_estimate_that_pulls(self) -> KlOptions:
        if self.where == "none" and self.model_fields_set & {"coefficient", "estimator"}:
            raise ValueError("the KL is in neither: set `in: loss` or `in: reward`")
        if self.where == "loss" and self.estimator == "k1":
            raise ValueError(K1_REFUSED)
        if self.where == "reward" and self.estimator in ("k2", "k3"):
            raise ValueError("in the reward the estimator is k1, whose expectation is the KL: leave estimator out")
        return self


class PolicyOptions(Frozen):
    """`baseline`: the mean of the group, of the rest of the group, of the batch, nothing, or a critic. `std` divides by
    the group's deviation (`sample`: n - 1, `population`: n), its mean reward (MaxRL) or the batch's deviation.
    `surrogate`: PPO's clip a token or a sequence (GSPO), CISPO's, or none. `overlong`: what becomes of rollouts cut off
    at max_new_tokens; `soft` takes up to 1 off the reward over the last `overlong_buffer` tokens (DAPO; None: a fifth
    of max_new_tokens). With a critic, `bootstrap` adds its value of where a cut-off rollout stopped to the reward; off,
    the reward of a cut-off rollout is all there is."""

    baseline: Baseline = "group"
    std: Std = "sample"
    eps: NonNegativeFloat = 1e-4
    surrogate: Surrogate = "token"
    clip_low: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    clip_high: PositiveFloat = 0.2
    kl: KlOptions = KlOptions()
    entropy_bonus: NonNegativeFloat = 0.0
    overlong: Overlong = "keep"
    overlong_buffer: PositiveInt | None = None
    gamma: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    gae_lambda: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0
    bootstrap: bool = True
    value_weight: PositiveFloat = 0.5
    value_clip: PositiveFloat | None = 0.2
    critic: CriticOptions = CriticOptions()

    @model_validator(mode="after")
    def _options_agree(self) -> PolicyOptions:
        if self.baseline != "group" and self.std not in ("batch", "none"):
            raise ValueError(f"baseline: {self.baseline} divides by no group's deviation: set std: batch or none")
        if self.std == "mean" and self.overlong == "soft":
            raise ValueError("std: mean divides by the mean reward, which overlong: soft makes negative: choose one")
        for name in sorted(self.model_fields_set & READ_BY.keys()):
            decides, values = READ_BY[name]
            if getattr(self, decides) not in values:
                raise ValueError(f"{name} is read by {decides}: {' or '.join(values)} alone")
        return self


class PolicyGradient:
    """Credit by rewards alone: every rollout's tokens share one advantage, but for a KL term in the reward."""

    def __init__(self, options: PolicyOptions, limits: Limits) -> None:
        if options.baseline in ("group", "leave-one-out") and limits.group_size < 2:
            raise UserError("group_size must be at least 2: the baseline of a rollout is the rest of its group")
        self.buffer = options.overlong_buffer or max(limits.max_new_tokens // 5, 1)
        if self.buffer > limits.max_new_tokens:
            raise UserError(
                f"overlong_buffer is {self.buffer}, but a completion has at most max_new_tokens = "
                f"{limits.max_new_tokens}: take less"
            )
        self.options = options
        self.limits = limits

    @property
    def needs(self) -> frozenset[str]:
        """`logp_ref` for a KL term, `entropy` for a bonus."""
        o = self.options
        return frozenset({"logp_ref"} if o.kl.where != "none" else ()) | ({"entropy"} if o.entropy_bonus else set())

    @property
    def critic(self) -> CriticOptions | None:
        """None: no critic."""
        return None

    @property
    def keeps_failed(self) -> bool:
        """Whether a group that failed has an advantage of its own, so that dropping it would be selection."""
        return self.options.baseline in ("batch", "critic", "none") or self.options.std == "batch"

    def credit(self, groups: Sequence[Group]) -> list[list[Credit]]:
        """One advantage a rollout, or one a token; exactly 0.0 where a group's rewards are equal (group baselines)."""
        o = self.options
        rewards = [[self.reward(t) for t in group.trajectories] for group in groups]
        found = credit.relative(rewards, baseline=o.baseline, std=o.std, eps=o.eps)
        credits: list[list[Credit]] = [list(one) for one in found]
        if o.kl.where == "reward":
            credits = [
                [credit.less_kl(t, a, o.kl.coefficient) for t, a in zip(group.trajectories, own, strict=True)]
                for group, own in zip(groups, credits, strict=True)
            ]
        return self.whitened(groups, credits, shift=o.baseline == "batch") if o.std == "batch" else credits

    def whitened(
        self, groups: Sequence[Group], credits: Sequence[Sequence[Credit]], *, shift: bool
    ) -> list[list[Credit]]:
        """Credits over their deviation among the tokens that are trained, and minus their mean if `shift`."""
        return credit.whitened(groups, credits, eps=self.options.eps, shift=shift, counts=self.trains)

    def samples(self, group: Group, credits: Sequence[Credit], weights: Sequence[float], index: int) -> list[Sample]:
        """The rollouts to train, as stream `pg`."""
        kept = [w if self.trains(t) else 0.0 for t, w in zip(group.trajectories, weights, strict=True)]
        held = self.options.kl.where == "loss" or self.options.entropy_bonus > 0
        return policy_samples(group.trajectories, credits, kept, index, keep_zero=held)

    def streams(self, shares: tuple[float, ...]) -> dict[str, tuple[float, ...]]:
        """The denominators of its streams, where group g adds `shares[g]`."""
        return {"pg": shares}

    @property
    def stream_weights(self) -> dict[str, float]:
        """Those of its streams that are not 1."""
        return {}

    def token_loss(self, view: View) -> Tensor:
        """The surrogate, with the KL term and the entropy bonus where they are asked for, [N]."""
        o = self.options
        if o.surrogate == "cispo":
            loss = losses.clipped_weight(view.logp, view.logp_old, view.advantage, clip_high=o.clip_high)
        elif o.surrogate == "none":
            loss = -losses.importance_ratio(view.logp - view.logp_old) * view.advantage
        else:
            loss = losses.clipped_surrogate(
                self._log_ratio(view), view.advantage, clip_low=o.clip_low, clip_high=o.clip_high
            )
        if o.kl.where == "loss" and bool(view.of("pg").any()):  # a micro-batch of demonstrations has no reference
            reference = view.annotation("logp_ref")
            k3 = o.kl.estimator == "k3"
            pull = losses.kl_estimate(reference, view.logp) if k3 else losses.kl_squared(view.logp, reference)
            loss = loss + o.kl.coefficient * pull
        if o.entropy_bonus:
            assert view.entropy is not None
            loss = loss - o.entropy_bonus * view.entropy
        return loss

    def telemetry(self, view: View) -> Mapping[str, tuple[float, float]]:
        """The share of policy tokens whose clip is active, and the distance from the reference."""
        o, rollouts = self.options, view.of("pg")
        n = float(rollouts.sum())
        if o.surrogate == "none":
            clipped = torch.zeros_like(rollouts)
        elif o.surrogate == "cispo":
            clipped = view.logp - view.logp_old > math.log1p(o.clip_high)
        else:
            clipped = losses.is_clipped(
                self._log_ratio(view), view.advantage, clip_low=o.clip_low, clip_high=o.clip_high
            )
        told = {"policy/clip_fraction": (float((clipped & rollouts).sum()), n)}
        if o.kl.where != "none" and n:
            away = losses.kl_estimate(view.annotation("logp_ref"), view.logp)[rollouts]
            told["method/kl_reference"] = (float(away.double().sum()), n)
        return told

    def reward(self, trajectory: Trajectory) -> float:
        """A rollout's reward, with DAPO's penalty for length if `overlong: soft`."""
        assert trajectory.score is not None, "a rollout that is not scored yet"
        value = float(trajectory.score.value)
        if self.options.std == "mean" and value < 0.0:
            raise UserError(
                f"std: mean (MaxRL) divides by the mean reward, so rewards must not be negative, got {value}"
            )
        if self.options.overlong != "soft":
            return value
        length = trajectory.length + trajectory.prefix
        return value + credit.overlong_penalty(length, self.limits.max_new_tokens, self.buffer)

    def trains(self, trajectory: Trajectory) -> bool:
        """False for a rollout that `overlong: filter` leaves out."""
        return self.options.overlong != "filter" or trajectory.stop != "length"

    def _log_ratio(self, view: View) -> Tensor:
        ratio = view.logp - view.logp_old
        return view.sequence_mean(ratio) if self.options.surrogate == "sequence" else ratio
