"""Gates: whether a visit to a problem is learnt from by policy gradient (open) or from the expert (closed).

A gate reads `Score.correct`, never the shaped value, and sees one whole group and the method's state. Pure functions
in a plain dict; a new switch is a new function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp, lgamma

from superrl.errors import UserError
from superrl.records import Group, State


def successes(group: Group) -> int:
    """How many rollouts are correct; a reward that does not say so is a UserError."""
    if any(score.correct is None for score in group.scores):
        raise UserError(
            f"superrl's gate reads Score.correct, and the reward gave none for problem {group.problem.id!r}: set "
            "`reward.correct_at`, the value from which a completion counts as correct"
        )
    return sum(bool(score.correct) for score in group.scores)


def solved_now(group: Group, state: State) -> bool:
    """Some rollout of this visit is correct (arXiv:2506.01096, SuperRL-R)."""
    return successes(group) > 0


def solved_likely(group: Group, state: State) -> bool:
    """Over all visits so far, a success within the group's draws is likelier than not."""
    correct, total = state.get(group.problem.id, (0, 0))
    drawn = len(group.trajectories)
    return likely_all_fail(correct + successes(group), total + drawn, drawn) <= 0.5


def likely_all_fail(correct: int, total: int, draws: int) -> float:
    """E[(1 - p)^draws] under the Beta(1 + correct, 1 + total - correct) posterior of a success rate p.

    >>> round(likely_all_fail(0, 8, 8), 4)
    0.5294
    """
    a, b = 1 + correct, 1 + total - correct
    return exp(lgamma(b + draws) + lgamma(a + b) - lgamma(b) - lgamma(a + b + draws))


def remember(groups: Sequence[Group], state: State) -> State:
    """[successes, draws] of every problem seen so far, by id: what `solved_likely` reads."""
    visits = dict(state)
    for group in groups:
        correct, total = visits.get(group.problem.id, (0, 0))
        visits[group.problem.id] = [correct + successes(group), total + len(group.trajectories)]
    return visits


GATES: dict[str, Callable[[Group, State], bool]] = {"reward": solved_now, "history": solved_likely}
