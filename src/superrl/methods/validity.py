"""Credit where a reward has a format gate: comparing among the rollouts it let pass, and a stop where hardly any do.

Leaves out the gate itself, which is the reward's: here a rollout is `Score.valid` or not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from superrl.errors import UserError
from superrl.methods.hooks import Credit
from superrl.records import Group, Score, Trajectory


def check_format(groups: Sequence[Group], least: float) -> None:
    """Refuse to go on where hardly a rollout passes the gate: all rewards are equal, and nothing would ever train."""
    scores = [score for group in groups for score in group.scores]
    passed = sum(score.valid for score in scores)
    if passed >= least * len(scores):
        return
    reasons = Counter(name for s in scores for name, value in s.parts.items() if "format/" in name and value)
    told = ", ".join(f"{name.rpartition('format/')[2]} {count}" for name, count in reasons.most_common(3))
    raise UserError(
        f"only {passed} of the first {len(scores)} rollouts pass the format gate ({told}), so nothing would train: set "
        "think=prefilled or think=none in the `steps:` data, put an SFT stage on the same data before this one, raise "
        "max_new_tokens if they are cut, or allow it with method.least_format: 0"
    )


def among_valid(groups: Sequence[Group], credit: Callable[[Sequence[Group]], list[list[Credit]]]) -> list[list[Credit]]:
    """What `credit` gives the valid rollouts of every group when the others were never drawn; those have 0.0."""
    kept = [replace(g, trajectories=tuple(t for t in g.trajectories if is_valid(t))) for g in groups]
    found = []
    for group, own in zip(groups, credit(kept), strict=True):
        rest = iter(own)
        found.append([next(rest) if is_valid(t) else 0.0 for t in group.trajectories])
    return found


def by_gate(trajectory: Trajectory) -> Trajectory:
    """The rollout with the gate's verdict for its reward: 1.0 or 0.0."""
    return replace(trajectory, score=Score(float(is_valid(trajectory))))


def is_valid(trajectory: Trajectory) -> bool:
    """Whether a scored rollout passed the gate."""
    assert trajectory.score is not None, "a rollout that is not scored yet"
    return trajectory.score.valid


def added(a: Credit, b: Credit) -> Credit:
    """The sum of two credits of one rollout; a number stands for all its tokens."""
    if isinstance(a, tuple):
        return tuple(x + y for x, y in zip(a, b if isinstance(b, tuple) else (b,) * len(a), strict=True))
    return tuple(a + y for y in b) if isinstance(b, tuple) else a + b
