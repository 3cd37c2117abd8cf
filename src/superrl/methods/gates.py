"""Gates: whether a visit to a problem is learnt from by policy gradient (open) or from the expert (closed).

A gate sees one whole group, the advantages its rollouts would get, its settings and the method's memory of past visits.
Pure functions in a plain dict; a new switch is a new function. All but `advantage` read `Score.correct`, never the
shaped value, and count the policy's own rollouts only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import exp, fsum, lgamma
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from superrl.config import Frozen
from superrl.errors import UserError
from superrl.methods.hooks import Credit
from superrl.records import Group, State

POSITIVE = 1e-6
"""An advantage up to this is none."""


class GateOptions(Frozen):
    """`reward` opens on a success (SuperRL-R), `rate` on a success rate above `gamma` (HPT; 0 is `reward`), `history`
    where a success within `group_size` draws is likelier than not over all visits, `advantage` on a positive advantage
    (SuperRL-A), which also closes on groups that are all correct unless `exclude_solved`."""

    gate: Literal["reward", "rate", "history", "advantage"] = "reward"
    gamma: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    exclude_solved: bool = False

    @model_validator(mode="after")
    def _options_belong_to_their_gate(self) -> GateOptions:
        if "gamma" in self.model_fields_set and self.gamma and self.gate != "rate":
            raise ValueError("gamma is read by gate: rate alone")
        if self.exclude_solved and self.gate != "advantage":
            raise ValueError("exclude_solved is read by gate: advantage alone")
        return self


Gate = Callable[[Group, Sequence[Credit], GateOptions, State], bool]


def successes(group: Group) -> int:
    """How many of the policy's own rollouts are correct; a reward that does not say so is a UserError."""
    verdicts = [t.score.correct for t in group.own if t.score is not None]
    if None in verdicts:
        raise UserError(
            f"superrl's gate reads Score.correct, and the reward gave none for problem {group.problem.id!r}: set "
            "`reward.correct_at`, the value from which a completion counts as correct"
        )
    return sum(map(bool, verdicts))


def solved_now(group: Group, credits: Sequence[Credit], options: GateOptions, visits: State) -> bool:
    """Some rollout of this visit is correct (arXiv:2506.01096, SuperRL-R)."""
    return successes(group) > 0


def solved_often(group: Group, credits: Sequence[Credit], options: GateOptions, visits: State) -> bool:
    """More than a share gamma of this visit's rollouts is correct (HPT, arXiv:2509.04419)."""
    return successes(group) > options.gamma * len(group.own)


def solved_likely(group: Group, credits: Sequence[Credit], options: GateOptions, visits: State) -> bool:
    """Over all visits so far, a success within the group's draws is likelier than not."""
    correct, total = visits.get(group.problem.id, (0, 0))
    drawn = len(group.own)
    return likely_all_fail(correct + successes(group), total + drawn, drawn) <= 0.5


def some_advantage(group: Group, credits: Sequence[Credit], options: GateOptions, visits: State) -> bool:
    """max_k A_k > 0 (arXiv:2506.01096, SuperRL-A), with A_k the mean over the rollout's drawn tokens.

    The advantage is that of the shaped reward: with shaping that tells failures apart this gate does not close.
    """
    if options.exclude_solved and successes(group) == len(group.own):
        return True
    return any(_mean(group, k, credit) > POSITIVE for k, credit in enumerate(credits))


def _mean(group: Group, k: int, credit: Credit) -> float:
    if not isinstance(credit, tuple):
        return credit
    drawn = [a for a, own in zip(credit, group.own[k].loss_mask, strict=True) if own]
    return fsum(drawn) / len(drawn)


def likely_all_fail(correct: int, total: int, draws: int) -> float:
    """E[(1 - p)^draws] under the Beta(1 + correct, 1 + total - correct) posterior of a success rate p.

    >>> round(likely_all_fail(0, 8, 8), 4)
    0.5294
    """
    a, b = 1 + correct, 1 + total - correct
    return exp(lgamma(b + draws) + lgamma(a + b) - lgamma(b) - lgamma(a + b + draws))


def remember(groups: Sequence[Group], visits: Mapping[str, Any]) -> dict[str, Any]:
    """[successes, draws] of every problem seen so far, by id: what `solved_likely` reads."""
    after = dict(visits)
    for group in groups:
        correct, total = after.get(group.problem.id, (0, 0))
        after[group.problem.id] = [correct + successes(group), total + len(group.own)]
    return after


GATES: dict[str, Gate] = {
    "reward": solved_now,
    "rate": solved_often,
    "history": solved_likely,
    "advantage": some_advantage,
}
