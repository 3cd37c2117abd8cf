"""The phase diagram: in each setting the treatment minus the best of some baselines, as a map with rows and columns.

The best baseline of a setting is chosen by validation, so that the test accuracies which the interval is made of took
no part in the choice. Beside the map there may be sweeps, arms' accuracies along one knob. A difference whose interval
holds 0 is "not shown", and drawn without a colour. Leaves out what the runs were: it is given them by arm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from superrl.comparison.plots import STYLE, WIDTH, looks, require
from superrl.comparison.results import Results, Run
from superrl.comparison.statistics import Estimate, claim, estimate
from superrl.errors import UserError
from superrl.metrics import mean

ByArm = Mapping[str, Sequence[Run]]
ABOVE, BELOW = (213, 94, 0), (0, 114, 178)
"""The colours of +100 and -100 points: superrl's own, and the policy gradient's."""
FULL = 0.6
"""The difference at which a cell has its full colour."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One setting: the treatment minus `best`, paired by seed, and of every arm what it reached, in 0 to 1."""

    best: str
    difference: Estimate
    accuracy: Mapping[str, Estimate]
    validation: Mapping[str, float]

    @property
    def shown(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.difference.lo is not None and self.difference.hi is not None and (
            self.difference.lo > 0 or self.difference.hi < 0
        )  # fmt: skip

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "shown": self.shown}


def cell(runs: ByArm, treatment: str, column: str) -> Cell:
    """What a setting's runs say; every arm but the treatment is a baseline. UserError if an arm lacks seeds."""
    seeds = {arm: [run.seed for run in of] for arm, of in runs.items()}
    if lacking := [arm for arm, found in seeds.items() if found != seeds[treatment] or not found]:
        raise UserError(f"a cell needs the same seeds of all arms, and {lacking[0]} has {seeds[lacking[0]]}")
    validation = {arm: _final(of) for arm, of in runs.items()}
    others = [arm for arm in runs if arm != treatment]
    best = max(others, key=lambda arm: (validation[arm], _whole(runs[arm])))
    own, other = ([run.final[column] for run in runs[arm]] for arm in (treatment, best))
    accuracy = {arm: estimate([run.final[column] for run in of]).within(0.0, 1.0) for arm, of in runs.items()}
    return Cell(best, claim([a - b for a, b in zip(own, other, strict=True)]), accuracy, validation)


def _final(runs: Sequence[Run]) -> float:
    """Mean validation accuracy at the end of the runs."""
    found = mean(run.validation[-1].accuracy for run in runs)
    assert found is not None
    return found


def _whole(runs: Sequence[Run]) -> float:
    """Mean of the whole validation curves, to break ties."""
    found = mean(point.accuracy for run in runs for point in run.validation)
    assert found is not None
    return found


def by_arm(results: Results, setting: str) -> dict[str, Sequence[Run]]:
    """A setting's runs, by arm."""
    return {arm: results.of(setting, arm) for arm in results.plan.arms}


def grid(results: Results) -> dict[str, Cell]:
    """A cell for every setting of a comparison."""
    plan = results.plan
    return {name: cell(by_arm(results, name), plan.treatment, plan.primary) for name in plan.settings}


@dataclass(frozen=True, slots=True)
class Sweep:
    """Cells along one knob: a title, the knob's name, and the cells by the text of their tick."""

    title: str
    knob: str
    cells: Mapping[str, Cell]


def picture(
    cells: Mapping[tuple[str, str], Cell], names: Mapping[str, str], axes: tuple[str, str], sweeps: Sequence[Sweep] = ()
) -> Any:
    """The map of `cells` by (row, column), with the sweeps to its right; `names` are arms as they are to be read, the
    treatment's first. A matplotlib figure for a page about 900 pixels wide."""
    require()
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        rows, columns = (list(dict.fromkeys(key[i] for key in cells)) for i in (0, 1))
        height = max(1.3 + 1.15 * len(rows), 2.9 * len(sweeps))
        figure = Figure(figsize=(WIDTH, height), layout="constrained", facecolor="white")
        layout = figure.add_gridspec(max(1, len(sweeps)), 2 if sweeps else 1, width_ratios=[1.2, 1][: 1 + bool(sweeps)])
        _map(figure.add_subplot(layout[:, 0]), cells, rows, columns, names, axes)
        for place, sweep in enumerate(sweeps):
            _sweep(figure.add_subplot(layout[place, 1]), sweep, names, legend=place == 0)
    return figure


def _map(
    panel: Any, cells: Mapping[tuple[str, str], Cell], rows: list[str], columns: list[str], names: Mapping[str, str],
    axes: tuple[str, str],
) -> None:  # fmt: skip
    from matplotlib.patches import Rectangle

    treatment = next(iter(names))
    panel.grid(visible=False)
    for (row, column), found in cells.items():
        x, y = columns.index(column), rows.index(row)
        edge, hatch = ("white", "") if found.shown else ("#c8c8c8", "//")
        tile = Rectangle((x + 0.02, y + 0.02), 0.96, 0.96, facecolor=colour(found), edgecolor=edge, linewidth=0)
        tile.set_hatch(hatch)
        panel.add_patch(tile)
        ink = "white" if found.shown and abs(found.difference.mean) > 0.66 * FULL else "#222222"
        told = f"{100 * found.difference.mean:+.1f}", interval(found.difference)
        own, other = (f"{100 * found.accuracy[arm].mean:.0f} %" for arm in (treatment, found.best))
        against = f"{names[treatment]} {own}, {names[found.best]} {other}"
        back = None if found.shown else {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        for text, place, size, weight in (
            (told[0], 0.27, 15, "bold" if found.shown else "normal"),
            (told[1], 0.50, 8.5, "normal"),
            ("" if found.shown else "not shown", 0.66, 8.5, "normal"),
            (against, 0.84, 8, "normal"),
        ):
            if text:
                panel.text(x + 0.5, y + place, text, ha="center", va="center", fontsize=size, fontweight=weight,
                           color=ink, bbox=back)  # fmt: skip
    panel.set_xlim(0, len(columns))
    panel.set_ylim(len(rows), 0)
    panel.set_xticks([x + 0.5 for x in range(len(columns))], columns)
    panel.set_yticks([y + 0.5 for y in range(len(rows))], rows)
    panel.tick_params(length=0)
    for spine in panel.spines.values():
        spine.set_visible(False)
    panel.set_xlabel(axes[0])
    panel.set_ylabel(axes[1])
    panel.set_title(f"{names[treatment]} minus the best other, in points", loc="left", fontweight="bold")


def colour(found: Cell) -> tuple[float, float, float]:
    """A cell's face: white at 0 and where nothing is shown, the full colour at `FULL` and beyond."""
    if not found.shown:
        return (1.0, 1.0, 1.0)
    strength = min(1.0, abs(found.difference.mean) / FULL)
    red, green, blue = ABOVE if found.difference.mean > 0 else BELOW
    return (
        1 - strength * (1 - red / 255),
        1 - strength * (1 - green / 255),
        1 - strength * (1 - blue / 255),
    )


def interval(found: Estimate) -> str:
    """`[+1.2, +23.4]` in points; of seeds that are all alike, what stands in its place."""
    if found.lo is None or found.hi is None:
        return "the same in every seed"
    return f"[{100 * found.lo:+.1f}, {100 * found.hi:+.1f}]"


def _sweep(panel: Any, sweep: Sweep, names: Mapping[str, str], legend: bool) -> None:
    look = looks(list(names))
    ticks = list(sweep.cells)
    for offset, arm in enumerate(names):
        at = [(x, sweep.cells[tick].accuracy[arm]) for x, tick in enumerate(ticks) if arm in sweep.cells[tick].accuracy]
        shift = 0.06 * (offset - (len(names) - 1) / 2)
        xs, ys = [x + shift for x, _ in at], [100 * found.mean for _, found in at]
        low = [0.0 if found.lo is None else 100 * (found.mean - found.lo) for _, found in at]
        high = [0.0 if found.hi is None else 100 * (found.hi - found.mean) for _, found in at]
        panel.errorbar(xs, ys, yerr=[low, high], color=look[arm][0], marker=look[arm][1], markersize=5, linewidth=1.5,
                       elinewidth=0.9, capsize=2, label=names[arm])  # fmt: skip
    panel.set_xlim(-0.4, len(ticks) - 0.6)
    panel.set_ylim(-3, 103)
    panel.set_xticks(range(len(ticks)), [f"{tick}\n{_told(sweep.cells[tick])}" for tick in ticks], fontsize=8)
    panel.set_xlabel(sweep.knob)
    panel.set_ylabel("test accuracy, %")
    panel.set_title(sweep.title, loc="left", fontweight="bold")
    if legend:
        panel.legend(fontsize=7.5, ncols=2, loc="best", handlelength=1.5, columnspacing=1.2, frameon=True,
                     framealpha=0.85, edgecolor="none")  # fmt: skip


def _told(found: Cell) -> str:
    shown = "" if found.shown else "\nnot shown"
    return f"{100 * found.difference.mean:+.1f}\n{interval(found.difference)}{shown}"


def save(figure: Any, stem: Path) -> None:
    """`stem`.png and `stem`.svg, which repeat to the byte."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with matplotlib.rc_context(STYLE):
        FigureCanvasAgg(figure)
        figure.savefig(stem.with_suffix(".png"), dpi=150, metadata={"Software": None})
        figure.savefig(stem.with_suffix(".svg"), metadata={"Date": None, "Creator": None})
