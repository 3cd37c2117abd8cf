"""Fallback `ngrpo` (NGRPO, arXiv:2509.18851): failures are pushed down as if one more rollout had earned the maximum.

    A_k = (R_k - mean) / (std + 1e-6)    over R_1 ... R_K and one virtual reward `max_reward`; std with n - 1

so that K equal zeros get -1 / sqrt(K + 1) each instead of 0. Stream `ngrpo`: PPO's surrogate under the paper's clip,
tighter for negative advantages (0.16) than for positive ones (0.24). Read in the released code, as all numbers here.
There the virtual reward is in the statistics of every group; here, as a fallback, of failed groups only.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, PositiveFloat
from torch import Tensor

from superrl.advantages import standardize
from superrl.config import Frozen
from superrl.losses import clipped_surrogate
from superrl.methods.fallbacks.base import Fallback, Lesson, Surroundings
from superrl.methods.hooks import policy_samples
from superrl.records import Group, State, View


class NgrpoOptions(Frozen):
    """`max_reward` is the best reward there is."""

    max_reward: float = 1.0
    clip_low: Annotated[float, Field(gt=0.0, le=1.0)] = 0.16
    clip_high: PositiveFloat = 0.24


class Ngrpo(Fallback):
    """Learns to avoid what it did."""

    name: ClassVar[str] = "ngrpo"
    Options: ClassVar[type[Frozen]] = NgrpoOptions
    streams: ClassVar[tuple[str, ...]] = ("ngrpo",)

    def __init__(self, options: NgrpoOptions, around: Surroundings) -> None:
        super().__init__(options, around)
        self.options = options

    def lesson(self, group: Group, index: int, memory: State) -> Lesson:
        """The group's own rollouts against one that never was."""
        rewards = [self.around.policy.reward(t) for t in group.own]
        credits = standardize([*rewards, self.options.max_reward], std="sample", eps=1e-6)[:-1]
        scale = self.around.weights([t.length for t in group.own])
        kept = [w if self.around.policy.trains(t) else 0.0 for t, w in zip(group.own, scale, strict=True)]
        samples = policy_samples(group.own, credits, kept, index, stream="ngrpo")
        return Lesson(samples, "its failures, against a virtual best rollout" if samples else "all at max_reward")

    def token_loss(self, view: View) -> Tensor:
        """The surrogate under its own clip."""
        o = self.options
        return clipped_surrogate(view.logp - view.logp_old, view.advantage, clip_low=o.clip_low, clip_high=o.clip_high)
