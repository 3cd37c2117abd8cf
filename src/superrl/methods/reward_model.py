"""A reward model in the manner of RLHF (arXiv:2203.02155 eq. 1; second-hand): demonstration against failing rollout.

    L = (1/D) sum_x mean over pairs of -log sigmoid(r(x, y+) - r(x, y-)),     D = prompts that have a pair

y+ is a demonstration chosen for the prompt, y- a rollout of the policy's own that is not correct; r is what the critic
says after the whole text, closed by the token that ends demonstrations. The policy only samples: no gradient reaches
it, and it ends the stage as it began. The two texts of a pair need not meet in one pack: under the weights before the
update dL/dr+ = -sigmoid(r- - r+) and dL/dr- is its opposite, so each text is a row of stream `value` with that number
as its advantage. That is exact for one update a batch, which `whole` makes it whatever the stage's epochs and
mini-batches. A stage's end writes the model to `reward-model/` in the run folder. Leaves out people's preferences.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from superrl.config import Frozen
from superrl.methods.demonstrations import Choice, choose
from superrl.methods.hooks import CriticOptions, Limits, Method
from superrl.methods.pairs import Pairs, paired_samples
from superrl.metrics import mean
from superrl.records import Decision, Group, Plan, Request, State, Update, View


class RewardModelOptions(Frozen):
    """`lr` is the reward model's; the stage's optimizer says everything else of its AdamW."""

    lr: Annotated[float, Field(gt=0.0)] = 1e-5
    demonstration: Choice = "random"


class RewardModel(Method):
    """Trains a copy of the policy to prefer the expert's text to the policy's own failures."""

    name: ClassVar[str] = "reward-model"
    Options: ClassVar[type[Frozen]] = RewardModelOptions
    refill_keeps: ClassVar[str] = "learnable"
    needs_correct: ClassVar[bool] = True
    keeps: ClassVar[str | None] = "reward-model"

    def __init__(self, options: RewardModelOptions, limits: Limits) -> None:
        super().__init__(options, limits)
        self.options = options

    @property
    def needs(self) -> frozenset[str]:
        """The critic's word on whole texts, and `demo_logp` where the likeliest demonstration is wanted."""
        return frozenset({"end_value"} | ({"demo_logp"} if self.options.demonstration == "likeliest" else set()))

    @property
    def critic(self) -> CriticOptions:
        """The reward model: a network of its own, for a head would train the policy's trunk."""
        return CriticOptions(kind="model", lr=self.options.lr)

    def requests(self, groups: Sequence[Group], state: State) -> list[Sequence[Request]]:
        """Nothing of prompts that nobody demonstrated: they can give no pair."""
        return [(Request(self.limits.group_size),) if group.demonstrations else () for group in groups]

    def plan(self, groups: Sequence[Group], state: State) -> Plan:
        """A row for every text that is in a pair."""
        samples, decisions, margins = [], [], []
        every = [self._pairs(group) for group in groups]
        for index, (group, pairs) in enumerate(zip(groups, every, strict=True)):
            found = pairs.margins
            samples += paired_samples(pairs, index) if found else []
            decisions.append(_decision(group, found))
            margins += found
        shares = tuple(float(bool(pairs.margins)) for pairs in every)
        told = {"pair_accuracy": mean(float(margin > 0) for margin in margins), "margin": mean(margins)}
        metrics = {"pairs": float(len(margins))} | {name: value for name, value in told.items() if value is not None}
        return Plan((Update(tuple(samples), {"value": shares}, whole=True),), tuple(decisions), metrics)

    def token_loss(self, view: View) -> Tensor:
        """The pairs' loss before the update, with its gradient in the values."""
        assert view.value is not None
        return view.annotation("pair_loss") - view.advantage * (view.value - view.value.detach())

    def _pairs(self, group: Group) -> Pairs:
        chosen = [group.demonstrations[i] for i in choose(group, self.options.demonstration)]
        return Pairs(chosen, [t for t in group.own if t.score is not None and t.score.correct is False])


def _decision(group: Group, margins: Sequence[float]) -> Decision:
    if margins:
        return Decision("pg", f"{sum(margin > 0 for margin in margins)} of {len(margins)} pairs in the right order")
    return Decision("none", "no rollout failed" if group.demonstrations else "no demonstration")
