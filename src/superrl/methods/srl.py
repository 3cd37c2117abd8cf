"""SRL: the policy gradient on how like the expert's its next step is (arXiv:2510.25992 section 3).

A group is one step of an expert's trajectory (`steps:` data), its reward the similarity of the proposed action to the
expert's (`step_similarity`), -1 where the format gate refuses. As published: GRPO on those rewards, every drawn token
trained, thought included, and dynamic sampling that keeps the groups whose rewards deviate.

One refused rollout among eight lifts the worst of the others to +0.25, and seven lift the eighth to +2.65. So `format`
says what a refusal is: a `reward` (the paper), `mask` (such rollouts are neither trained nor compared with), or
`decoupled` (similarity is normalised among the valid, format among all, and the two are added; GDPO, arXiv:2601.05242).
Leaves out the gate and the similarity, which are the reward's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from superrl.advantages import deviation
from superrl.config import Frozen
from superrl.methods.grpo import Grpo, GrpoOptions
from superrl.methods.hooks import Credit, Limits
from superrl.methods.validity import added, among_valid, by_gate, check_format
from superrl.metrics import mean
from superrl.records import Group, Plan, State, StepRecord


class SrlOptions(GrpoOptions):
    """`least_format`: the share of the first step's rollouts that must pass the gate, lest nothing ever trains."""

    format: Literal["reward", "mask", "decoupled"] = "reward"
    least_format: Annotated[float, Field(ge=0.0, le=1.0)] = 0.05

    @model_validator(mode="after")
    def _refusals_are_apart(self) -> SrlOptions:
        held = self.kl.where != "none" or self.entropy_bonus > 0
        others = {"kl or entropy_bonus": held, "overlong": self.overlong == "soft", "critic": self.baseline == "critic"}
        if self.format != "reward" and (mixed := next((name for name, on in others.items() if on), None)):
            raise ValueError(f"format: {self.format} keeps refused rollouts apart, which {mixed} would mix in again")
        return self


class Srl(Grpo):
    """GRPO on step rewards."""

    name: ClassVar[str] = "srl"
    Options: ClassVar[type[Frozen]] = SrlOptions
    refill_keeps: ClassVar[str] = "deviation"

    def __init__(self, options: SrlOptions, limits: Limits) -> None:
        super().__init__(options, limits)
        self.options = options

    def initial_state(self) -> State:
        """Whether the first batch has been looked at."""
        return {"looked": False}

    def check_drawn(self, groups: Sequence[Group], state: State) -> None:
        """Refuses to go on where hardly any rollout of the first step passed the gate."""
        if not state["looked"]:
            check_format(groups, self.options.least_format)

    def credits(self, groups: Sequence[Group]) -> list[list[Credit]]:
        """One advantage a rollout. Where the gate's refusals are no reward, similarity is compared among the valid."""
        if self.options.format == "reward":
            return super().credits(groups)
        found = among_valid(groups, super().credits)
        if self.options.format == "mask":
            return found
        by_format = super().credits([replace(g, trajectories=tuple(map(by_gate, g.trajectories))) for g in groups])
        return [[added(a, b) for a, b in zip(*both, strict=True)] for both in zip(found, by_format, strict=True)]

    def plan(self, groups: Sequence[Group], state: State) -> Plan:
        """GRPO's, with the groups' deviations: of all rewards, and of the valid rollouts' alone."""
        plan = super().plan(groups, state)
        told = {
            "deviation": mean(deviation([s.value for s in g.scores]) for g in groups),
            "deviation_valid": mean(deviation([s.value for s in g.scores if s.valid]) for g in groups),
        }
        return replace(plan, metrics={name: value for name, value in told.items() if value is not None})

    def after_step(self, record: StepRecord, groups: Sequence[Group], state: State) -> State:
        """The first batch has been looked at."""
        return {"looked": True}
