"""What numbers over seeds can carry: t intervals, paired claims, Holm's adjustment, the smallest difference to be seen.

Leaves out, on purpose, the bootstrap over problems. The problems of one seed say nothing about how the next seed would
train: where seeds vary, as they do in reinforcement learning, its 95 % interval covers the true difference about half
the time (tests/comparison/test_statistics.py shows it). A claim is made from differences paired by seed, or not at all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from superrl.errors import UserError

LEVEL = 0.95
"""The confidence level of every interval; a claim's error rate is 1 - LEVEL, two-sided."""
POWER = 0.8
"""The chance with which the smallest detectable difference would be found."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over n seeds, its deviation, its two-sided t interval, and the p value of "the mean is 0".

    Interval and p are None where they cannot be had: of one seed, or of seeds that are all alike, whose deviation of 0
    is a matter of saturation or of coarse accuracies and no evidence that the next seed will not differ.
    """

    mean: float
    n: int
    sd: float | None = None
    lo: float | None = None
    hi: float | None = None
    p: float | None = None

    def __post_init__(self) -> None:
        if (self.lo is None) != (self.hi is None):
            raise ValueError("an interval has two ends or none")

    @property
    def alike(self) -> bool:
        """Whether several seeds gave one and the same number."""
        return self.n > 1 and self.lo is None

    def above(self, value: float = 0.0) -> bool:
        """Whether the whole interval lies above a value; never where there is no interval."""
        return self.lo is not None and self.lo > value

    def within(self, low: float, high: float) -> Estimate:
        """The same with the interval cut to the range that the quantity can take, which loses no coverage."""
        if self.lo is None or self.hi is None:
            return self
        return Estimate(self.mean, self.n, self.sd, max(low, self.lo), min(high, self.hi), self.p)


@dataclass(frozen=True, slots=True)
class Adjusted:
    """p value and interval after Holm's adjustment: the interval leaves out 0 exactly if p < 1 - LEVEL."""

    p: float
    lo: float
    hi: float


def estimate(values: Sequence[float], level: float = LEVEL) -> Estimate:
    """The mean of one number per seed with its t interval; ValueError of no numbers or of one that is not finite.

    >>> found = estimate([0.1, 0.2, 0.3])
    >>> round(found.mean, 3), round(found.lo, 3), round(found.hi, 3)
    (0.2, -0.048, 0.448)
    """
    if not values or not all(math.isfinite(value) for value in values):
        raise ValueError(f"a mean over seeds needs finite numbers, got {list(values)}")
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return Estimate(mean, n)
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    if sd <= 1e-9 * max(abs(value) for value in values):
        return Estimate(mean, n, 0.0)
    error = sd / math.sqrt(n)
    half = error * t_quantile((1 + level) / 2, n - 1)
    p = 2 * float(_special().stdtr(n - 1, -abs(mean) / error))
    return Estimate(mean, n, sd, mean - half, mean + half, p)


def claim(differences: Sequence[float]) -> Estimate:
    """The estimate behind a claim, from one paired difference per seed: the only way to make one.

    Refuses fewer than two seeds with a UserError.
    """
    if len(differences) < 2:
        raise UserError(
            f"a claim needs at least 2 seeds and has {len(differences)}: an interval from resampling the problems of "
            "one seed covers the truth far less often than it says, so run more seeds (--seeds 5)"
        )
    return estimate(differences)


def t_quantile(q: float, df: int) -> float:
    """The q-quantile of Student's t distribution with df degrees of freedom."""
    return float(_special().stdtrit(df, q))


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for being looked at together (Holm 1979, step-down), in the order given.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    return [min(1.0, p * m) for p, m in zip(p_values, _multipliers(p_values), strict=True)]


def adjust(estimates: Mapping[str, Estimate], family: int) -> dict[str, Adjusted]:
    """Holm's p and interval of the estimates that have a p value.

    `family` is the number of hypotheses that were planned: those that have no p value yet count as the least
    significant, so that a claim made early is not undone by the arms that finish late.
    """
    if family < len(estimates):
        raise ValueError(f"a family of {family} cannot hold {len(estimates)} estimates")
    tested = {name: (found, found.p) for name, found in estimates.items() if found.p is not None}
    waiting = [1.0] * (family - len(tested))
    multipliers = _multipliers([*(p for _, p in tested.values()), *waiting])
    return {
        name: _adjusted(found, p, multiplier)
        for (name, (found, p)), multiplier in zip(tested.items(), multipliers, strict=False)
    }


def _adjusted(found: Estimate, p: float, multiplier: float) -> Adjusted:
    assert found.sd is not None
    half = found.sd / math.sqrt(found.n) * t_quantile(1 - (1 - LEVEL) / (2 * multiplier), found.n - 1)
    return Adjusted(min(1.0, multiplier * p), found.mean - half, found.mean + half)


def _multipliers(p_values: Sequence[float]) -> list[float]:
    """What each p is multiplied by: the number of hypotheses still standing, or more, so that the order is kept."""
    if any(not 0 <= p <= 1 for p in p_values):
        raise ValueError(f"p values lie between 0 and 1, got {list(p_values)}")
    result, highest = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        p, left = p_values[index], len(p_values) - rank
        highest = max(highest, left * p)
        result[index] = max(float(left), highest / p) if p > 0 else float(left)
    return result


def smallest_detectable(sd: float, n: int) -> float | None:
    """The true mean difference that a two-sided paired t test of n seeds would find with chance POWER.

    `sd` is the deviation of the differences. None for fewer than 2 seeds, or a deviation of 0, which says nothing.
    """
    if n < 2 or sd <= 0:
        return None
    critical = t_quantile((1 + LEVEL) / 2, n - 1)
    # |T| > c where T = (Z + shift) / U: given U, the estimated over the true deviation, this is two normal tails. The
    # mean over U's distribution is taken on its quantiles, since the noncentral t fails at few degrees of freedom.
    middles = (np.arange(4096) + 0.5) / 4096
    thresholds = critical * np.sqrt(2 * _special().gammaincinv((n - 1) / 2, middles) / (n - 1))
    low, high = 0.0, float(thresholds[int(0.95 * len(thresholds))]) + 5.0
    for _ in range(60):
        shift = (low + high) / 2
        power = float(np.mean(_special().ndtr(shift - thresholds) + _special().ndtr(-shift - thresholds)))
        low, high = (shift, high) if power < POWER else (low, shift)
    return high * sd / math.sqrt(n)


def geometric_mean(values: Sequence[float]) -> float | None:
    """The geometric mean of ratios: 0 if one of them is, None of none; ValueError of a negative one.

    >>> round(geometric_mean([0.5, 2.0, 8.0]), 6)
    2.0
    """
    if any(value < 0 for value in values):
        raise ValueError(f"a geometric mean is of ratios >= 0, got {list(values)}")
    if not values:
        return None
    return 0.0 if 0 in values else math.exp(math.fsum(math.log(value) for value in values) / len(values))


def restricted_mean(times: Sequence[float | None], budgets: Sequence[float]) -> float | None:
    """The mean time to an event, where None, or a time beyond it, counts as that run's budget; None of no runs.

    >>> restricted_mean([10.0, None, 30.0], [50.0, 50.0, 50.0])
    30.0
    """
    spent = [budget if time is None else min(time, budget) for time, budget in zip(times, budgets, strict=True)]
    return math.fsum(spent) / len(spent) if spent else None


def _special() -> ModuleType:
    try:
        from scipy import special
    except ImportError as error:
        raise UserError(f"a comparison's intervals need scipy ({error}): pip install 'superrl[compare]'") from None
    module: ModuleType = special
    return module
