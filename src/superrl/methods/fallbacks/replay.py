"""Fallback `replay`: a prompt that fails now is learnt from a success that the policy had on it before.

No expert: the memory holds the policy's own correct, finished rollouts, at most `keep` different ones a problem, the
newest; one of them, drawn by lot, is imitated with the loss that `imitation` names. The simplest form of replaying
one's successes (ExGRPO, arXiv:2510.02245, of which we know no more than the title, is another). A problem never solved
teaches nothing. The memory is part of the checkpoint: `keep` sequences of token ids a solved problem.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar

from pydantic import PositiveInt
from torch import Tensor

from superrl.config import Frozen
from superrl.methods.fallbacks.base import Fallback, Lesson, Surroundings
from superrl.records import Group, Sample, State, View


class ReplayOptions(Frozen):
    """How many successes a problem keeps."""

    keep: PositiveInt = 4


class Replay(Fallback):
    """Learns from its own past."""

    name: ClassVar[str] = "replay"
    Options: ClassVar[type[Frozen]] = ReplayOptions
    streams: ClassVar[tuple[str, ...]] = ("replay",)

    def __init__(self, options: ReplayOptions, around: Surroundings) -> None:
        super().__init__(options, around)
        self.keep = options.keep

    def lesson(self, group: Group, index: int, memory: State) -> Lesson:
        """One remembered success as a sample of stream `replay`."""
        past = memory.get(group.problem.id, [])
        if not past:
            return Lesson((), "no success of its own to replay")
        start, tokens = random.Random(f"replay/{group.key}").choice(past)
        drawn, ones, zeros = len(tokens) - start, (1.0,) * len(tokens), (0.0,) * len(tokens)
        mask = (False,) * start + (True,) * drawn
        (weight,) = self.around.weights([drawn])
        one = Sample(tuple(tokens), mask, "replay", ones, weight, zeros, index, origin="replay")
        return Lesson((one,), f"one of {len(past)} past successes of its own")

    def token_loss(self, view: View) -> Tensor:
        """The supervised loss."""
        return self.around.imitation(view.logp, view.logp_old)

    def remember(self, groups: Sequence[Group], memory: State) -> State:
        """Problem id -> [[where the completion begins, token ids], ...], the oldest first."""
        after = dict(memory)
        for group in groups:
            good = [t for t in group.own if t.score is not None and t.score.correct and t.stop != "length"]
            found = [[t.start, list(t.tokens)] for t in good]
            kept = [one for one in after.get(group.problem.id, []) if one not in found]
            fresh = [one for i, one in enumerate(found) if one not in found[:i]]
            if kept or fresh:
                after[group.problem.id] = [*kept, *fresh][-self.keep :]
        return after
