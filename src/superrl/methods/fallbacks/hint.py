"""Fallback `hint`: a failed prompt is drawn again after the beginning of its demonstration (POPE, arXiv:2601.18779).

The policy gradient is taken among the hinted rollouts alone, on the tokens they drew; the expert's are never trained.
If none of them is correct, or all are, nothing is learnt. Second-hand: POPE writes the beginning into the prompt, with
an instruction to build on it, takes the shortest one that ever works, and mixes prompts with and without. Here it
begins the completion itself, its length is a fixed share, and it is given where all fail.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import Field

from superrl.config import Frozen
from superrl.errors import UserError
from superrl.methods.fallbacks.base import Fallback, Lesson, Surroundings
from superrl.methods.prefixes import Chosen, expert_of, outcome, prefix_of
from superrl.records import Group, Request, State


class HintOptions(Frozen):
    """`share` of the demonstration's tokens is given; `n` rollouts follow it (None: as many as at first)."""

    share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    n: Annotated[int, Field(ge=2)] | None = None


class Hint(Fallback):
    """Learns to finish what the expert began."""

    name: ClassVar[str] = "hint"
    Options: ClassVar[type[Frozen]] = HintOptions
    for_failures: ClassVar[bool] = True

    def __init__(self, options: HintOptions, around: Surroundings) -> None:
        super().__init__(options, around)
        if around.demonstration == "all" or around.demonstration == "likeliest":
            raise UserError("fallback: hint continues one demonstration: set demonstration: first, random or shortest")
        if around.policy.options.baseline not in ("group", "leave-one-out") or around.policy.options.std == "batch":
            raise UserError("fallback: hint compares a group's hinted rollouts: set baseline: group, no std: batch")
        self.demonstration: Chosen = around.demonstration
        self.options = options

    def retry(self, group: Group) -> Sequence[Request]:
        """One round after the hint."""
        expert = expert_of(group, self.demonstration)
        if expert is None or any(t.assisted for t in group.trajectories):
            return ()
        prefix = prefix_of(expert, round(self.options.share * expert.length), self.around.limits)
        return (Request(self.options.n or self.around.limits.group_size, prefix=prefix),) if prefix else ()

    def lesson(self, group: Group, index: int, memory: State) -> Lesson:
        """The hinted rollouts, each against the others."""
        hinted = tuple(t for t in group.trajectories if t.assisted)
        if not hinted:
            return Lesson((), "no demonstration to hint with")
        if not any(t.score is not None and t.score.correct for t in hinted):
            return Lesson((), outcome(hinted))
        among = replace(group, trajectories=hinted)
        (credits,) = self.around.policy.credit([among])
        samples = self.around.policy.samples(among, credits, self.around.weights([t.length for t in hinted]), index)
        return Lesson(samples, f"{'rollouts, ' if samples else ''}{outcome(hinted)}")
