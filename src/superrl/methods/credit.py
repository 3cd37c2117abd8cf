"""Credit by rewards alone, as pure functions on whole groups: baseline, DAPO's length penalty, KL as a cost, whitening.

A credit is the advantage of a rollout, or of each of its tokens. Numbers come from `superrl.advantages`, in float64.
Leaves out critics (`actor_critic`) and which of these a method takes (`policy`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from superrl import advantages
from superrl.methods.hooks import Credit
from superrl.records import Group, Trajectory


def drawn(trajectory: Trajectory) -> list[int]:
    """The positions of the drawn tokens."""
    return [t for t, own in enumerate(trajectory.loss_mask) if own]


def overlong_penalty(length: int, limit: int, buffer: int) -> float:
    """DAPO's soft punishment (arXiv:2503.14476 eq. 13): 0 up to limit - buffer tokens, then linear to -1 at the limit.

    >>> [overlong_penalty(length, limit=10, buffer=4) for length in (6, 8, 10)]
    [0.0, -0.5, -1.0]
    """
    return min(0.0, max(-1.0, (limit - buffer - length) / buffer))


def relative(rewards: Sequence[Sequence[float]], *, baseline: str, std: str, eps: float) -> list[tuple[float, ...]]:
    """The rewards of every group against a baseline; exactly 0.0 where those of a group (or the batch) are equal."""
    if baseline == "none":
        return [tuple(map(float, group)) for group in rewards]
    if baseline == "batch":
        rest = iter(advantages.center([reward for group in rewards for reward in group]))
        return [tuple(next(rest) for _ in group) for group in rewards]
    if baseline == "leave-one-out":
        return [advantages.leave_one_out(group) for group in rewards]
    if std == "mean":
        return [advantages.per_success(group, eps=eps) for group in rewards]
    if std in ("sample", "population"):
        return [advantages.standardize(group, std=std, eps=eps) for group in rewards]
    return [advantages.center(group) for group in rewards]


def kl_cost(trajectory: Trajectory, t: int, coefficient: float) -> float:
    """What token t's reward loses to the reference: coefficient (log p - log p_ref), under the weights that drew it."""
    return coefficient * (trajectory.logp_sampler[t] - trajectory.annotations["logp_ref"][t])


def less_kl(trajectory: Trajectory, credit: Credit, coefficient: float) -> Credit:
    """A rollout's credit, less what the KL costs from each token on; one number a token."""
    ahead, out = 0.0, [0.0] * len(trajectory.tokens)
    for t in reversed(drawn(trajectory)):
        ahead += kl_cost(trajectory, t, coefficient)
        out[t] = (credit[t] if isinstance(credit, tuple) else credit) - ahead
    return tuple(out)


def whitened(
    groups: Sequence[Group],
    credits: Sequence[Sequence[Credit]],
    *,
    eps: float,
    shift: bool,
    counts: Callable[[Trajectory], bool],
) -> list[list[Credit]]:
    """Credits over their deviation among all drawn tokens of the batch, and minus their mean if `shift`. A rollout that
    does not count (it is not trained) has credit 0.0 and no say."""
    rows = [
        (t, a) for group, own in zip(groups, credits, strict=True) for t, a in zip(group.trajectories, own, strict=True)
    ]
    columns = [[a[i] if isinstance(a, tuple) else a for i in drawn(t)] if counts(t) else [] for t, a in rows]
    trajectories, done = [t for t, _ in rows], advantages.whiten(columns, eps=eps, shift=shift)
    spread = iter([_spread(t, column) for t, column in zip(trajectories, done, strict=True)])
    return [[next(spread) for _ in own] for own in credits]


def _spread(trajectory: Trajectory, column: Sequence[float]) -> Credit:
    if not column:
        return 0.0
    values = iter(column)
    return tuple(next(values) if own else 0.0 for own in trajectory.loss_mask)
