"""The yoked control of SuperRL's switch: as many fallbacks a step as a paired run, on groups chosen at random.

Two effects are in SuperRL's result: that some groups learn from the expert, and that it is those which earned nothing.
This arm keeps the first and removes the second. It is a control for comparisons, not a method to use. Leaves out where
the counts come from: `switch/fallbacks` of the paired run's metrics.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from superrl.config import Frozen, NonNegativeInt
from superrl.methods.hooks import Limits
from superrl.methods.options import SuperRLOptions
from superrl.methods.superrl import SuperRL
from superrl.records import Group, Plan, State, StepRecord


class YokedOptions(SuperRLOptions):
    """SuperRL's, of which `gate` is not read. `counts`: the paired run's fallbacks at every step of the stage; 0 past
    their end."""

    counts: list[NonNegativeInt]


class Yoked(SuperRL):
    """SuperRL whose gate is a draw of lots among the groups that have a demonstration."""

    name: ClassVar[str] = "yoked"
    Options: ClassVar[type[Frozen]] = YokedOptions

    def __init__(self, options: YokedOptions, limits: Limits) -> None:
        super().__init__(options.model_copy(update={"gate": "yoked"}), limits)
        self.counts = tuple(options.counts)

    def initial_state(self) -> State:
        """The first of the counts is next."""
        return {**super().initial_state(), "step": 0}

    def opened(self, groups: Sequence[Group], state: State) -> list[bool]:
        """False for as many groups as the step's count says (all that have a demonstration, if those are fewer)."""
        lots = [(_lot(group), index) for index, group in enumerate(groups) if group.demonstrations]
        closed = {index for _, index in sorted(lots)[: self._count(state)]}
        return [index not in closed for index in range(len(groups))]

    def plan(self, groups: Sequence[Group], state: State) -> Plan:
        """SuperRL's plan; `shortfall` is how many fallbacks of the count had no demonstration to fall back on."""
        plan = super().plan(groups, state)
        possible = sum(bool(group.demonstrations) for group in groups)
        decisions = tuple(replace(decision, why=f"yoked: {decision.why}") for decision in plan.decisions)
        return replace(plan, decisions=decisions, metrics={"shortfall": float(max(self._count(state) - possible, 0))})

    def after_step(self, record: StepRecord, groups: Sequence[Group], state: State) -> State:
        """The next step's count is next."""
        return {**super().after_step(record, groups, state), "step": state["step"] + 1}

    def _count(self, state: State) -> int:
        return self.counts[state["step"]] if state["step"] < len(self.counts) else 0


def _lot(group: Group) -> float:
    """A uniform number that is the group's own: a pure function of its key."""
    return random.Random(f"yoked/{group.key}").random()
