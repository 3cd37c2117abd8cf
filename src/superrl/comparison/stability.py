"""How steady an arm is: drawdown and collapse of a run, and how wide a band of learning rates is usable.

Pure functions on curves and trials. Leaves out the deviation over seeds and the worst seed, which are in `analysis.py`
with the other means over seeds.
"""

from __future__ import annotations

from collections.abc import Sequence

from superrl.comparison.results import Point, Trial
from superrl.metrics import mean

BAND = 0.9
"""A learning rate is usable if its validation accuracy is at least this share of the arm's best in the grid."""


def drawdown(curve: Sequence[Point]) -> float | None:
    """The largest fall of validation accuracy from an earlier evaluation; 0 if it only rose, None of no curve."""
    falls, highest = [], 0.0
    for point in curve:
        highest = max(highest, point.accuracy)
        falls.append(highest - point.accuracy)
    return max(falls, default=None)


def collapsed(curve: Sequence[Point]) -> bool | None:
    """Whether the last evaluation's 95 % interval lies wholly below the start, or below half of the run's best.

    The interval, so that a run which never left 2 % does not collapse by one problem; where several validation sets
    are averaged there is none, and the accuracy itself is compared. None of no curve.
    """
    if not curve:
        return None
    last = curve[-1]
    upper = last.accuracy if last.ci95 is None else last.ci95[1]
    return upper < max(curve[0].accuracy, max(point.accuracy for point in curve) / 2)


def usable_band(trials: Sequence[Trial]) -> tuple[float, float] | None:
    """The lowest and highest learning rate of the grid that come within 10 % of the arm's best validation accuracy.

    A point's accuracy is the mean over tuning seeds, a learning rate's that of its best point; a trial that did not
    finish leaves its point out. None if nothing was tuned or nothing learnt.
    """
    points = {tuple(sorted(trial.point.items())) for trial in trials}
    by_rate: dict[float, float] = {}
    for point in points:
        values = [trial.validation for trial in trials if tuple(sorted(trial.point.items())) == point]
        rate, found = dict(point).get("lr"), mean(value for value in values if value is not None)
        if rate is not None and found is not None and None not in values:
            by_rate[rate] = max(found, by_rate.get(rate, 0.0))
    best = max(by_rate.values(), default=0.0)
    usable = [rate for rate, value in by_rate.items() if value >= BAND * best - 1e-9]
    return (min(usable), max(usable)) if best > 0 else None
