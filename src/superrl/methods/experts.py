"""What methods share that train a demonstration beside every rollout: which one is fit, in the group, and in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

from superrl.methods.demonstrations import Choice, choose, describe
from superrl.methods.hooks import expert_samples
from superrl.methods.mixed import decide, solved_of
from superrl.records import Decision, Group, Sample
from superrl.reduction import Reduction, denominator, weights

One = Literal["first", "random", "shortest", "likeliest"]
"""The choices of a single demonstration."""


def needs_of(choice: Choice) -> frozenset[str]:
    """What the learner must note on the demonstrations for a choice."""
    return frozenset({"demo_logp"} if choice == "likeliest" else ())


def right(group: Group) -> list[int]:
    """Which of a problem's demonstrations the run's reward calls correct."""
    return [i for i, one in enumerate(group.demonstrations) if one.score is not None and one.score.correct]


def choose_right(group: Group, choice: One) -> int | None:
    """The index of the demonstration to learn from, chosen among those that are right; None if none is."""
    fit = right(group)
    among = replace(group, demonstrations=tuple(group.demonstrations[i] for i in fit))
    return fit[choose(among, choice)[0]] if fit else None


def joined(group: Group, at: int | None) -> Group:
    """The group with a demonstration as its last member."""
    return group if at is None else replace(group, trajectories=(*group.trajectories, group.demonstrations[at]))


def told(group: Group, at: int | None, rollouts: bool) -> Decision:
    """What was made of a group: whether its rollouts are learnt from, and which demonstration is."""
    if at is None:
        return decide(group, rollouts)
    why = f"{solved_of(group)}; learns from {describe(group, [at])}"
    return Decision("both" if rollouts else "sft", why, at)


def refused(groups: Sequence[Group]) -> dict[str, float]:
    """`refused`: how many problems have demonstrations, and none that the run's reward calls correct."""
    return {"refused": float(sum(bool(group.demonstrations) and not right(group) for group in groups))}


class Lessons(NamedTuple):
    """Demonstrations of a batch to imitate: the samples, what each group adds to their own D, which were chosen."""

    samples: list[Sample]
    shares: tuple[float, ...]
    chosen: list[list[int]]


def lessons(groups: Sequence[Group], choice: Choice, reduction: Reduction, max_length: int) -> Lessons:
    """The chosen demonstrations of every group, as stream `sft`."""
    chosen = [choose(group, choice) for group in groups]
    experts = [[group.demonstrations[at] for at in ats] for group, ats in zip(groups, chosen, strict=True)]
    lengths = [[one.length for one in ones] for ones in experts]
    rows = [
        expert_samples(ones, weights(reduction, n, max_length=max_length), i)
        for i, (ones, n) in enumerate(zip(experts, lengths, strict=True))
    ]
    shares = tuple(denominator(reduction, n) if n else 0.0 for n in lengths)
    return Lessons([one for row in rows for one in row], shares, chosen)


def beside(decision: Decision, group: Group, chosen: Sequence[int]) -> Decision:
    """A policy gradient's decision, when demonstrations are learnt beside it."""
    if not chosen:
        return decision
    why, one = f"{decision.why}; learns from {describe(group, chosen)}", chosen[0] if len(chosen) == 1 else None
    return Decision("both" if decision.kind == "pg" else "sft", why, one)
