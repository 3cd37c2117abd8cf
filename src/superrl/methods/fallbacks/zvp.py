"""Fallback `zvp` (RL-ZVP, arXiv:2509.21880 eq. 5-6): where all rewards are equal, a failure's tokens are pushed down.

    A_kt = -alpha (max_j H_kj - H_kt)        H_kt: the policy's entropy at token t of rollout k, without gradient

in PPO's surrogate: sure tokens are punished most, and of every rollout the least sure one not at all. Formula and alpha
0.1 are read in the paper. It is the negative half: the positive one (+alpha H where all are correct) is none of a
fallback's business. Failures with different rewards are GRPO's in the paper (here with `failed_rollouts: keep`).
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import PositiveFloat
from torch import Tensor

from superrl.advantages import EQUAL
from superrl.config import Frozen
from superrl.losses import clipped_surrogate
from superrl.methods.fallbacks.base import Fallback, Lesson, Surroundings
from superrl.methods.hooks import policy_samples
from superrl.records import Group, State, View


class ZvpOptions(Frozen):
    """The scale of the advantages (the paper: 0.1 best, 0.05 and 0.3 clearly worse)."""

    alpha: PositiveFloat = 0.1


class Zvp(Fallback):
    """Learns to be less sure of what failed."""

    name: ClassVar[str] = "zvp"
    Options: ClassVar[type[Frozen]] = ZvpOptions
    for_failures: ClassVar[bool] = True
    streams: ClassVar[tuple[str, ...]] = ("zvp",)

    def __init__(self, options: ZvpOptions, around: Surroundings) -> None:
        super().__init__(options, around)
        self.alpha = options.alpha

    @property
    def needs(self) -> frozenset[str]:
        """The entropy at every token."""
        return frozenset({"entropy"})

    def lesson(self, group: Group, index: int, memory: State) -> Lesson:
        """The group's own rollouts; their advantages are made where the entropy is, in the loss."""
        rewards = [self.around.policy.reward(t) for t in group.own]
        if max(rewards) - min(rewards) > EQUAL:
            return Lesson((), "the failures' rewards differ")
        scale = self.around.weights([t.length for t in group.own])
        kept = [w if self.around.policy.trains(t) else 0.0 for t, w in zip(group.own, scale, strict=True)]
        samples = policy_samples(group.own, [0.0] * len(rewards), kept, index, stream="zvp", keep_zero=True)
        return Lesson(samples, "its failures, by its certainty" if samples else "all cut off")

    def token_loss(self, view: View) -> Tensor:
        """The surrogate with the advantages of the formula."""
        assert view.entropy is not None
        entropy = view.entropy.detach()
        advantage = -self.alpha * (view.sequence_max(entropy) - entropy)
        clip = self.around.policy.options
        return clipped_surrogate(view.logp - view.logp_old, advantage, clip_low=clip.clip_low, clip_high=clip.clip_high)
