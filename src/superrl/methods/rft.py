"""RFT, rejection-sampling fine-tuning (arXiv:2308.01825), and expert iteration: -log p of one's own correct rollouts.

One batch a step, so the data are always the policy's latest: expert iteration with as many rounds as steps. The loss of
a rollout is taken at the temperature it was drawn at. Leaves out experts, a baseline and what failed rollouts say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from superrl.config import Frozen
from superrl.losses import negative_log_likelihood
from superrl.methods.hooks import Limits, Method, policy_samples
from superrl.records import Decision, Group, Plan, Sample, State, Update, View
from superrl.reduction import Reduction, denominator, weights


class RftOptions(Frozen):
    """`distinct`: of equal rollouts of a prompt only the first is learnt from (the paper keeps distinct ones)."""

    reduction: Reduction = "sequence"
    distinct: bool = True


class Rft(Method):
    """Learns from what it got right."""

    name: ClassVar[str] = "rft"
    Options: ClassVar[type[Frozen]] = RftOptions
    needs_correct: ClassVar[bool] = True

    def __init__(self, options: RftOptions, limits: Limits) -> None:
        super().__init__(options, limits)
        self.options = options

    def plan(self, groups: Sequence[Group], state: State) -> Plan:
        """Correct rollouts get advantage 1, the others 0: those are left out, and D still counts them."""
        samples: list[Sample] = []
        shares, decisions = [], []
        for index, group in enumerate(groups):
            lengths = [trajectory.length for trajectory in group.trajectories]
            scale = weights(self.options.reduction, lengths, max_length=self.limits.max_new_tokens)
            credits = self._credits(group)
            samples += policy_samples(group.trajectories, credits, scale, index)
            shares.append(denominator(self.options.reduction, lengths))
            decisions.append(_decision(group, credits))
        return Plan((Update(tuple(samples), {"pg": tuple(shares)}),), tuple(decisions))

    def token_loss(self, view: View) -> Tensor:
        """-log p."""
        return negative_log_likelihood(view.logp)

    def _credits(self, group: Group) -> list[float]:
        seen: set[tuple[int, ...]] = set()
        credits = []
        for trajectory, score in zip(group.trajectories, group.scores, strict=True):
            repeated = self.options.distinct and trajectory.tokens in seen
            credits.append(float(bool(score.correct) and not repeated))
            seen.add(trajectory.tokens)
        return credits


def _decision(group: Group, credits: Sequence[float]) -> Decision:
    correct, kept = sum(bool(score.correct) for score in group.scores), int(sum(credits))
    told = f"{correct} of {len(credits)} correct" + (f", {kept} of them distinct" if kept < correct else "")
    return Decision("pg" if kept else "none", told)
