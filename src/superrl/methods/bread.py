"""BREAD (arXiv:2506.17211): a prompt whose rollouts all fail is tried again from a point inside the expert's trace.

The point is found by bisection: first the middle of the trace, further on while the branch's success rate is below the
target window, back while it is above, for at most `rounds` rounds. GRPO is then taken over one branch's rollouts: that
in the window, else the one whose rate is nearest to its middle (of equals, the shortest prefix). The expert's tokens
are not trained. That it branches only where all fail, and searches by bisection, is second-hand; the window, the number
of rounds and the search over tokens (the paper's: over pieces of the trace) are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import Field, PositiveInt, model_validator

from superrl.config import Frozen
from superrl.methods.grpo import Grpo, GrpoOptions
from superrl.methods.hooks import Limits
from superrl.methods.prefixes import Chosen, expert_of, longest, outcome, prefix_of
from superrl.records import Group, Plan, Request, State, Trajectory

Rate = Annotated[float, Field(gt=0.0, lt=1.0)]
MAX_ROUNDS = 12
"""Below the loop's own bound; and no trace is longer than 2^12 tokens by much."""


class BreadOptions(GrpoOptions):
    """GRPO's, the window of success rates that a branch should have, and how often it is moved."""

    low: Rate = 0.25
    high: Rate = 0.75
    rounds: Annotated[PositiveInt, Field(le=MAX_ROUNDS)] = 4
    demonstration: Chosen = "random"

    @model_validator(mode="after")
    def _a_window(self) -> BreadOptions:
        if self.low > self.high:
            raise ValueError("low and high are the ends of the window of success rates, so low cannot be above high")
        return self


class Bread(Grpo):
    """Policy gradient on a prompt's own rollouts, or on a branch of the expert's trace where all of them fail."""

    name: ClassVar[str] = "bread"
    Options: ClassVar[type[Frozen]] = BreadOptions
    needs_correct: ClassVar[bool] = True

    def __init__(self, options: BreadOptions, limits: Limits) -> None:
        super().__init__(options, limits)
        self.search = options

    def retry(self, groups: Sequence[Group], state: State) -> Mapping[int, Sequence[Request]]:
        """The next branch of every failed group whose search has not ended."""
        prefixes = {g: self._next(group) for g, group in enumerate(groups)}
        return {g: (Request(self.limits.group_size, prefix=prefix),) for g, prefix in prefixes.items() if prefix}

    def plan(self, groups: Sequence[Group], state: State) -> Plan:
        """GRPO's plan over each group's own rollouts or its branch; D counts what is trained of every group."""
        branches = [self._branch(group) for group in groups]
        trained = [
            replace(group, trajectories=branch) if branch else group
            for group, branch in zip(groups, branches, strict=True)
        ]
        plan = super().plan(trained, state)
        decisions = [
            replace(d, why=f"0 of {len(group.own)} correct; branched, {outcome(branch)}") if branch else d
            for group, branch, d in zip(groups, branches, plan.decisions, strict=True)
        ]
        drawn = [len(branches_of(group)) for group in groups]
        tokens = [branch[0].prefix for branch in branches if branch]
        told = {"branches": float(sum(drawn)), "branch_tokens": sum(tokens) / max(len(tokens), 1)}
        return replace(plan, decisions=tuple(decisions), metrics=told)

    def _next(self, group: Group) -> tuple[int, ...]:
        """The prefix to branch from, () when the search has ended or never begins."""
        expert, tried = expert_of(group, self.search.demonstration), branches_of(group)
        if group.solved or expert is None or len(tried) >= self.search.rounds:
            return ()
        short, long = 0, longest(expert, self.limits) + 1
        for length, branch in tried.items():
            rate = success_rate(branch)
            if self.search.low <= rate <= self.search.high:
                return ()
            short, long = (length, long) if rate < self.search.low else (short, length)
        return prefix_of(expert, (short + long) // 2, self.limits) if long - short > 1 else ()

    def _branch(self, group: Group) -> tuple[Trajectory, ...]:
        """The branch to learn from, () if none was drawn."""
        middle = (self.search.low + self.search.high) / 2
        tried = branches_of(group)
        best = min(tried, key=lambda length: (abs(success_rate(tried[length]) - middle), length), default=0)
        return tuple(tried[best]) if best else ()


def branches_of(group: Group) -> dict[int, list[Trajectory]]:
    """The rollouts drawn after an expert's tokens, by how many those were, in the order of the rounds."""
    tried: dict[int, list[Trajectory]] = {}
    for one in group.trajectories:
        if one.prefix:
            tried.setdefault(one.prefix, []).append(one)
    return tried


def success_rate(branch: Sequence[Trajectory]) -> float:
    """The share of a branch's rollouts that is correct."""
    return sum(bool(t.score and t.score.correct) for t in branch) / len(branch)
