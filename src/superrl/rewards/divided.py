"""A reward whose completions are dealt out among the processes of a run; every one gets all scores.

All completions of one problem are scored by one process, in one call: a function of the user's that compares them sees
them all. One that compares problems would see only its share. Leaves out how completions are scored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from superrl.parallel import World, dealt
from superrl.records import Problem, Score, Trajectory
from superrl.rewards.base import Fingerprint, Reward

Pair = tuple[Problem, Any]


class DividedReward(Reward):
    """The `Reward` of one rank, made one of all."""

    def __init__(self, inner: Reward, world: World) -> None:
        self.inner = inner
        self.world = world
        self.gives_correct = inner.gives_correct

    def score(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Score]:
        return self._divided(problems, completions, self.inner.score, len)

    def score_rollouts(self, problems: Sequence[Problem], trajectories: Sequence[Trajectory]) -> list[Score]:
        return self._divided(problems, trajectories, self.inner.score_rollouts, lambda one: len(one.text))

    def _divided(
        self,
        problems: Sequence[Problem],
        answers: Sequence[Any],
        score: Callable[[Sequence[Problem], Sequence[Any]], list[Score]],
        cost: Callable[[Any], int],
    ) -> list[Score]:
        blocks = [list(block) for _, block in groupby(range(len(problems)), key=lambda i: problems[i].id)]
        hands = dealt([sum(1 + cost(answers[i]) for i in block) for block in blocks], self.world.size)
        shares = [[i for b in hand for i in blocks[b]] for hand in hands]

        def work(mine: Sequence[Pair]) -> list[Score]:
            return score([problem for problem, _ in mine], [answer for _, answer in mine]) if mine else []

        return self.world.spread(list(zip(problems, answers, strict=True)), shares, work)

    @property
    def fingerprint(self) -> Fingerprint | None:
        return self.inner.fingerprint

    @property
    def awaits(self) -> frozenset[str]:
        return self.inner.awaits

    @property
    def part_names(self) -> tuple[str, ...]:
        return self.inner.part_names

    def reads(self, problem: Problem) -> Any:
        return self.inner.reads(problem)

    def unreadable_all(self, problems: Sequence[Problem]) -> list[str | None]:
        return self.inner.unreadable_all(problems)

    def open(self) -> None:
        self.inner.open()

    def close(self) -> None:
        self.inner.close()
