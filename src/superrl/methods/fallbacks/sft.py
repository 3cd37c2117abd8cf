"""Fallback `sft` (SuperRL, arXiv:2506.01096): the problem's own expert trajectory, imitated. And `none`: nothing."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from superrl.methods.demonstrations import choose, describe
from superrl.methods.fallbacks.base import Fallback, Lesson
from superrl.methods.hooks import expert_samples
from superrl.records import Group, State, View


class Imitate(Fallback):
    """-log p of the chosen demonstrations, or another loss of `superrl.imitation`."""

    name: ClassVar[str] = "sft"
    streams: ClassVar[tuple[str, ...]] = ("sft",)

    @property
    def needs(self) -> frozenset[str]:
        """`demo_logp` when it must find the likeliest demonstration."""
        return frozenset({"demo_logp"} if self.around.demonstration == "likeliest" else ())

    def lesson(self, group: Group, index: int, memory: State) -> Lesson:
        """The chosen demonstrations, their mean."""
        chosen = choose(group, self.around.demonstration)
        experts = [group.demonstrations[i] for i in chosen]
        if not experts:
            return Lesson((), "no demonstration")
        samples = expert_samples(experts, self.around.weights([expert.length for expert in experts]), index)
        return Lesson(samples, describe(group, chosen), chosen[0] if len(chosen) == 1 else None)

    def token_loss(self, view: View) -> Tensor:
        """The supervised loss."""
        return self.around.imitation(view.logp, view.logp_old)


class Nothing(Fallback):
    """Failed groups teach nothing: the policy gradient with SuperRL's denominator."""

    name: ClassVar[str] = "none"
