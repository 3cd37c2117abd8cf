"""Supervised fine-tuning on the demonstrations: no rollouts, no reward.

One step is one batch of problems that have a demonstration; the loss is -log p at temperature 1, or another one of
`superrl.imitation` (`imitation: dft` is DFT, arXiv:2508.05629; `trsft` TRAPO's TrSFT). The same data, order
and denominator as every other method here, so that a fallback-only batch of `superrl` has exactly this gradient
(reduction `prompt`). Leaves out sequence packing tricks and label smoothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from superrl.config import Frozen
from superrl.imitation import IMITATION
from superrl.methods.demonstrations import Choice, choose, describe
from superrl.methods.hooks import Limits, Method, expert_samples
from superrl.methods.options import ImitationName
from superrl.records import Decision, Group, Plan, State, Update, View
from superrl.reduction import Reduction, denominator, weights


class SftOptions(Frozen):
    """`reduction: token` weighs every token alike (the usual SFT loss); `prompt` every problem alike."""

    demonstration: Choice = "random"
    imitation: ImitationName = "nll"
    reduction: Reduction = "token"


class Sft(Method):
    """-log p of the expert's tokens."""

    name: ClassVar[str] = "sft"
    Options: ClassVar[type[Frozen]] = SftOptions
    rolls_out: ClassVar[bool] = False

    def __init__(self, options: SftOptions, limits: Limits) -> None:
        super().__init__(options, limits)
        self.options = options

    @property
    def needs(self) -> frozenset[str]:
        """`demo_logp` when it must find the likeliest demonstration."""
        return frozenset({"demo_logp"} if self.options.demonstration == "likeliest" else ())

    def plan(self, groups: Sequence[Group], state: State) -> Plan:
        """Every problem's chosen demonstrations."""
        samples, shares, decisions = [], [], []
        for index, group in enumerate(groups):
            chosen = choose(group, self.options.demonstration)
            experts = [group.demonstrations[i] for i in chosen]
            lengths = [expert.length for expert in experts]
            scale = weights(self.options.reduction, lengths, max_length=self.limits.max_new_tokens)
            samples += expert_samples(experts, scale, index)
            shares.append(denominator(self.options.reduction, lengths))
            decisions.append(Decision("sft", describe(group, chosen), chosen[0] if len(chosen) == 1 else None))
        return Plan((Update(tuple(samples), {"sft": tuple(shares)}),), tuple(decisions))

    def token_loss(self, view: View) -> Tensor:
        """-log p, or what `imitation` says."""
        return IMITATION[self.options.imitation](view.logp, view.logp_old)
