"""Steps to target: how soon an arm is as good as a share of what the tuned baseline reaches, in steps, tokens, seconds.

- The baseline's best is the highest mean of 3 consecutive evaluations of its mean validation curve over seeds; a target
  tau is 50, 75 or 90 % of it.
- The baseline *learns* in a setting if the 95 % t interval over seeds of (mean of the last 3 evaluations - start) lies
  above 0 (or if all seeds gained the same). Where it does not, it reaches nothing worth the name: no targets, and the
  setting is listed apart. Where it does, some run of it reaches every target, as no mean is above all its terms. A
  target within the 95 % interval of the start's accuracy is listed apart too: the untrained model may well be there, as
  where the baseline learns to solve two problems in a hundred.
- A run reaches tau at the last of the first 3 consecutive evaluations whose mean is >= tau: when one could have known.
  A run that never does counts with its budget: in steps that of the setting, the most that any run there did (an arm
  that stops early because it has drawn its tokens shall not look quick), in tokens and seconds all that it spent. Such
  a restricted mean makes an arm that often fails look less slow than it is: how many seeds reached stands beside it.
- Over settings: the geometric mean of the ratio to the baseline. Tokens are those drawn from the model (0 for SFT).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from superrl.comparison.results import Point, Results, Run
from superrl.comparison.statistics import estimate, geometric_mean, restricted_mean

FRACTIONS = (0.5, 0.75, 0.9)
UNITS = ("steps", "tokens", "seconds")
WINDOW = 3
"""Evaluations whose mean is taken: a single one is too noisy to stop a clock."""


@dataclass(frozen=True, slots=True)
class Reach:
    """An arm and a target: restricted mean cost by unit (None: no clock), how many of n runs reached, and each run's
    step (None: never)."""

    mean: Mapping[str, float | None]
    reached: int
    n: int
    steps: Mapping[int, int | None]


@dataclass(frozen=True, slots=True)
class Target:
    """A share of the baseline's best as an accuracy, the setting's budget in steps, every arm's way to it, and why it
    counts for nothing, if so."""

    fraction: float
    tau: float
    budget: int
    arms: Mapping[str, Reach]
    apart: str | None


@dataclass(frozen=True, slots=True)
class SettingTargets:
    """One setting's targets: none, and the reason, where the baseline does not learn."""

    best: float | None
    why_none: str | None
    targets: tuple[Target, ...]


def window_means(curve: Sequence[Point]) -> list[tuple[int, float]]:
    """(step of the last, mean) of every WINDOW consecutive evaluations."""
    ends = range(WINDOW, len(curve) + 1)
    return [(curve[e - 1].step, sum(point.accuracy for point in curve[e - WINDOW : e]) / WINDOW) for e in ends]


def first_reaching(curve: Sequence[Point], tau: float) -> int | None:
    """The step at which the mean of 3 consecutive evaluations first is >= tau; None if it never is."""
    return next((step for step, value in window_means(curve) if value >= tau - 1e-9), None)


def mean_curve(curves: Sequence[Sequence[Point]]) -> list[Point]:
    """The mean over runs at the steps that all of them evaluated."""
    by_step = [{point.step: point.accuracy for point in curve} for curve in curves]
    common = sorted(set.intersection(*(set(curve) for curve in by_step))) if by_step else []
    return [Point(step, sum(curve[step] for curve in by_step) / len(by_step), None) for step in common]


def why_not_learning(curves: Sequence[Sequence[Point]]) -> str | None:
    """None if the runs learn, in the sense above; else what is wrong."""
    if len(curves) < 2:
        return (
            f"has {len(curves)} finished seed{'' if len(curves) == 1 else 's'}, and 2 are needed to say that it learns"
        )
    if any(len(curve) < WINDOW for curve in curves):
        return f"has fewer than {WINDOW} validation evaluations in a run"
    gain = estimate([window_means(curve)[-1][1] - curve[0].accuracy for curve in curves])
    if gain.above() or (gain.alike and gain.mean > 0):
        return None
    return "is not shown to learn: the interval of its gain on validation does not lie above 0"


def setting_targets(runs: Mapping[str, Sequence[Run]], baseline: str) -> SettingTargets:
    """The targets of one setting, from its finished runs by arm."""
    curves = [run.validation for run in runs[baseline]]
    if why := why_not_learning(curves):
        return SettingTargets(None, f"{baseline} {why}", ())
    mean = mean_curve(curves)
    if len(mean) < WINDOW:
        return SettingTargets(None, f"the runs of {baseline} share fewer than {WINDOW} evaluated steps", ())
    start = max(curve[0].accuracy if curve[0].ci95 is None else curve[0].ci95[1] for curve in curves)
    best = max(value for _, value in window_means(mean))
    targets = tuple(_target(fraction, fraction * best, start, runs) for fraction in FRACTIONS)
    return SettingTargets(best, None, targets)


def _target(fraction: float, tau: float, start: float, runs: Mapping[str, Sequence[Run]]) -> Target:
    budget = max(run.steps for of_arm in runs.values() for run in of_arm)
    arms = {arm: reach(of_arm, tau, budget) for arm, of_arm in runs.items() if of_arm}
    return Target(fraction, tau, budget, arms, "it lies within the start's 95 % interval" if tau <= start else None)


def reach(runs: Sequence[Run], tau: float, budget: int) -> Reach:
    """How soon the runs of an arm reach an accuracy; `budget` is the setting's, in steps."""
    steps = {run.seed: first_reaching(run.validation, tau) for run in runs}
    means = {unit: _restricted([(run, steps[run.seed]) for run in runs], unit, budget) for unit in UNITS}
    return Reach(means, sum(step is not None for step in steps.values()), len(runs), steps)


def _restricted(reached: Sequence[tuple[Run, int | None]], unit: str, most_steps: int) -> float | None:
    times: list[float | None] = []
    budgets: list[float] = []
    for run, step in reached:
        budget = float(most_steps) if unit == "steps" else run.cost(unit)
        if budget is None:
            return None
        budgets.append(budget)
        times.append(None if step is None else run.cost(unit, step))
    return restricted_mean(times, budgets)


@dataclass(frozen=True, slots=True)
class Ratio:
    """The geometric mean over settings of an arm's restricted mean over the baseline's; how many of its n runs there
    reached the target."""

    ratio: float | None
    settings: int
    reached: int
    n: int


def ratios(settings: Mapping[str, SettingTargets], arm: str, baseline: str, fraction: float, unit: str) -> Ratio:
    """An arm against the baseline, over the settings where the target counts and both have the unit's numbers."""
    found, reached, n = [], 0, 0
    for setting in settings.values():
        for target in setting.targets:
            if target.fraction == fraction and target.apart is None and arm in target.arms:
                own, other = target.arms[arm].mean[unit], target.arms[baseline].mean[unit]
                if own is not None and other:
                    found.append(own / other)
                    reached, n = reached + target.arms[arm].reached, n + target.arms[arm].n
    return Ratio(geometric_mean(found), len(found), reached, n)


def by_setting(results: Results) -> dict[str, SettingTargets]:
    """The targets of every setting of a comparison."""
    plan = results.plan
    return {
        setting: setting_targets({arm: results.of(setting, arm) for arm in plan.arms}, plan.baseline)
        for setting in plan.settings
    }
