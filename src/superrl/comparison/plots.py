"""The pictures of a comparison, as PNG and as SVG that repeats to the byte: learning curves, differences, frontier,
and, where they were measured, pass@k and the streams' weights.

An arm has one colour wherever it appears, from a palette that colour-blind readers can tell apart (Okabe and Ito), and
a marker of its own. Drawn for a page about 900 pixels wide. Leaves out windows and global state: no pyplot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from superrl.comparison.passes import curve
from superrl.comparison.results import IDLE, Results, Run
from superrl.comparison.targets import UNITS, mean_curve
from superrl.errors import UserError
from superrl.metrics import mean

WIDTH = 9.0
"""Inches: at 100 pixels an inch, the width of a README."""
ARMS = {
    "superrl": ("#D55E00", "o"),
    "grpo": ("#0072B2", "s"),
    "sft": ("#009E73", "^"),
    "sft-then-rl": ("#E69F00", "D"),
    "refill": ("#56B4E9", "v"),
    "superrl-no-pg": ("#CC79A7", "P"),
    "yoked": ("#4d4d4d", "X"),
}
"""Colour and marker by arm."""
STRANGERS = (("#882255", "h"), ("#999933", "<"), ("#332288", ">"), ("#44AA99", "p"), ("#AA4499", "*"), ("#777777", "d"))
"""Colours and markers of a user's own recipes, in their order."""
STYLE = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.hashsalt": "superrl",
    "svg.fonttype": "path",
}
BASE = "#222222"
"""The base's colour, where it has a curve."""
RETENTION = "retention"
"""The column that the frontier has on its x axis."""

Json = Mapping[str, Any]
Picture = Callable[[Results, Json], Any]


def draw(results: Results, analysis: Json) -> list[tuple[str, str]]:
    """Save every picture that has something to show into the comparison's folder; their (caption, name)."""
    require()
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    saved = []
    with matplotlib.rc_context(STYLE):
        for name, caption, picture in PICTURES:
            figure = picture(results, analysis)
            if figure is None:
                continue
            FigureCanvasAgg(figure)
            for kind in ("png", "svg"):
                _save(figure, results.folder / f"{name}.{kind}")
            saved.append((caption, name))
    return saved


def require() -> None:
    """Say in a sentence what is missing, and how to get it."""
    try:
        import matplotlib.backends.backend_agg  # noqa: F401
    except ImportError as error:
        raise UserError(f"a comparison's pictures need matplotlib ({error}): pip install 'superrl[compare]'") from None


def _save(figure: Any, path: Path) -> None:
    """Replace a picture whole; dates and versions would make the same picture differ."""
    kind = path.suffix[1:]
    partial = path.with_name(f"{path.name}.partial")
    metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    figure.savefig(partial, format=kind, dpi=200, metadata=metadata)
    partial.replace(path)


def looks(arms: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of every arm: fixed for the known ones, the others in the order of the plan."""
    others = [arm for arm in arms if arm not in ARMS]
    return {arm: ARMS.get(arm) or STRANGERS[others.index(arm) % len(STRANGERS)] for arm in arms}


def learning_curves(results: Results, analysis: Json) -> Any:
    """Validation accuracy against steps, tokens and seconds: a row of three panels a setting."""
    settings = [name for name in results.plan.settings if any(run.setting == name for run in results.runs)]
    if not settings:
        return None
    figure = _figure(0.55 + 2.35 * len(settings))
    grid = figure.subplots(len(settings), len(UNITS), squeeze=False, sharey="row")
    clock = "CPU seconds of training" if results.plan.seconds == "cpu" else "seconds of training"
    labels = dict(zip(UNITS, ("steps", "generated tokens", clock), strict=True))
    look = looks(results.plan.arms)
    for axes, setting in zip(grid, settings, strict=True):
        for panel, unit in zip(axes, UNITS, strict=True):
            for arm in sorted(results.plan.arms, key=lambda arm: arm == results.plan.treatment):  # it lies on top
                _curve(panel, results.of(setting, arm), unit, *look[arm])
            panel.set_xlabel(labels[unit])
            panel.set_ylim(-3, 103)
            panel.set_xlim(left=0)
            if unit == "tokens":
                panel.xaxis.set_major_formatter(_short)
        axes[0].set_ylabel("validation accuracy, %")
        axes[0].set_title(setting, loc="left", fontweight="bold")
    _legend(figure, [arm for arm in results.plan.arms if any(run.arm == arm for run in results.runs)], look)
    return figure


def _curve(panel: Any, runs: Sequence[Run], unit: str, colour: str, marker: str) -> None:
    """An arm's mean over seeds with its ribbon; against tokens, an arm that draws none is a level, its last mean."""
    points = mean_curve([run.validation for run in runs])
    spent = [[run.cost(unit, point.step) for run in runs] for point in points]
    x = [mean(value for value in values if value is not None) for values in spent]
    if not points or any(None in values for values in spent):
        return
    y = [100 * point.accuracy for point in points]
    if not any(x):
        panel.axhline(y[-1], color=colour, linestyle=(0, (4, 3)), linewidth=1.3)
        panel.text(0.99, y[-1] + 2, f"{runs[0].arm}: no tokens", color=colour, fontsize=7.5, ha="right",
                   transform=panel.get_yaxis_transform())  # fmt: skip
        return
    by_step = [{point.step: 100 * point.accuracy for point in run.validation} for run in runs]
    low = [min(curve[point.step] for curve in by_step) for point in points]
    high = [max(curve[point.step] for curve in by_step) for point in points]
    panel.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    often = max(1, len(points) // 6)
    panel.plot(x, y, color=colour, marker=marker, markersize=4, markevery=often, linewidth=1.6, markeredgewidth=0)


def differences(results: Results, analysis: Json) -> Any:
    """A forest plot: the treatment minus every other arm in the primary column, a panel a setting."""
    primary, treatment = analysis["primary"], analysis["treatment"]
    found = {name: setting["differences"][primary] for name, setting in analysis["settings"].items()}
    settings = [name for name, of in found.items() if of]
    if not settings:
        return None
    others = [arm for arm in results.plan.arms if arm != treatment and any(arm in found[name] for name in settings)]
    rows, columns = _grid(len(settings))
    figure = _figure(0.75 + rows * (0.75 + 0.3 * len(others)))
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True, sharex=True)
    panels = list(grid.flat)
    look = looks(results.plan.arms)
    for panel, setting in zip(panels, settings, strict=False):
        for y, arm in enumerate(others):
            if arm in found[setting]:
                _whisker(panel, y, found[setting][arm], *look[arm])
        panel.axvline(0, color="#333333", linewidth=1)
        panel.set_title(setting, loc="left", fontweight="bold")
        panel.tick_params(labelbottom=True)
        panel.grid(visible=False, axis="y")
    for panel in panels[len(settings) :]:
        panel.set_visible(False)
    left, right = panels[0].get_xlim()
    panels[0].set_xlim(max(left, -105), min(right, 105))
    panels[0].set_yticks(range(len(others)), [f"minus {arm}" for arm in others])
    panels[0].set_ylim(len(others) - 0.5, -0.5)
    figure.supxlabel(
        f"{treatment} minus the arm, {primary}, percentage points.  Thick: 95 % t interval over paired seeds; thin:\n"
        "Holm-adjusted over the arms.  Filled: the adjusted interval leaves out 0.",
        fontsize=8.5,
    )
    return figure


def _whisker(panel: Any, y: int, found: Json, colour: str, marker: str) -> None:
    shown = found["p_holm"] is not None and (found["lo_holm"] > 0 or found["hi_holm"] < 0)
    for suffix, width in (("_holm", 1.0), ("", 3.0)):
        if found[f"lo{suffix}"] is not None:
            ends = [100 * found[f"lo{suffix}"], 100 * found[f"hi{suffix}"]]
            panel.plot(ends, [y, y], color=colour, linewidth=width, solid_capstyle="butt")
    face = colour if shown else "white"
    panel.plot([100 * found["mean"]], [y], marker=marker, markersize=7, color=colour, markerfacecolor=face)


def frontier(results: Results, analysis: Json) -> Any:
    """Accuracy against retention, a panel a setting; a mark's area is the KL from the base, where it was measured."""
    settings = [
        name for name, of in results.plan.settings.items()
        if RETENTION in of and any(run.setting == name for run in results.runs)
    ]  # fmt: skip
    if not settings:
        return None
    rows, columns = _grid(len(settings))
    figure = _figure(0.8 + 2.9 * rows)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    look = looks(results.plan.arms)
    largest = max((run.kl for run in results.runs if run.kl is not None), default=0.0)
    for panel, setting in zip(panels, settings, strict=False):
        for arm in results.plan.arms:
            _cloud(panel, results.of(setting, arm), results.plan.primary, largest, *look[arm])
        start = analysis["settings"][setting]["start"]
        panel.plot(100 * start[RETENTION], 100 * start[results.plan.primary], "*", color="#777777", markersize=11)
        panel.annotate("base", (100 * start[RETENTION], 100 * start[results.plan.primary]), (6, 4),
                       textcoords="offset points", color="#555555", fontsize=8)  # fmt: skip
        panel.set_title(setting, loc="left", fontweight="bold")
        panel.set_xlabel("retention, %")
        panel.set_ylabel(f"{results.plan.primary}, %")
        panel.margins(0.12)
        panel.set_xlim(right=min(panel.get_xlim()[1], 104))
        panel.set_ylim(top=min(panel.get_ylim()[1], 104))
    for panel in panels[len(settings) :]:
        panel.set_visible(False)
    sizes = f"; area: KL from the base, largest {largest:.2g} nats a token" if largest else ""
    figure.supxlabel(f"large: mean over seeds, small: a seed{sizes}", fontsize=8.5)
    _legend(figure, [arm for arm in results.plan.arms if any(run.arm == arm for run in results.runs)], look)
    return figure


def _cloud(panel: Any, runs: Sequence[Run], primary: str, largest: float, colour: str, marker: str) -> None:
    if not runs:
        return
    x = [100 * run.final[RETENTION] for run in runs]
    y = [100 * run.final[primary] for run in runs]
    panel.scatter(x, y, s=14, color=colour, marker=marker, alpha=0.45, linewidths=0)
    kls = [run.kl for run in runs if run.kl is not None]
    known = largest > 0 and len(kls) == len(runs)
    area = 40 + 260 * sum(kls) / len(kls) / largest if known else 90
    panel.scatter([mean(x)], [mean(y)], s=area, color=colour, marker=marker, alpha=0.85, edgecolors="white")


def pass_at_k(results: Results, analysis: Json) -> Any:
    """pass@k of the final models and of the base, a panel a setting; a ring on an arm's where the base meets it."""
    known = {name: of["passes"] for name, of in analysis["settings"].items() if of["passes"]}
    if not known:
        return None
    rows, columns = _grid(len(known))
    figure = _figure(0.8 + 2.9 * rows)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    look = looks(results.plan.arms)
    for panel, (setting, found) in zip(panels, known.items(), strict=False):
        for arm in sorted(found["arms"], key=lambda arm: arm == results.plan.treatment):  # it lies on top
            _passing(panel, results.of(setting, arm), found["arms"][arm], *look[arm])
        if found["base"]:
            at = {int(k): 100 * value for k, value in found["base"]["at"].items()}
            panel.plot(list(at), list(at.values()), color=BASE, linestyle=(0, (4, 2)), linewidth=1.6)
        ks = sorted({int(k) for one in found["arms"].values() for k in one["at"]})
        panel.set_xscale("log", base=2)
        panel.set_xticks(ks, [str(k) for k in ks])
        panel.minorticks_off()
        panel.set_ylim(-3, 103)
        panel.set_xlabel("k")
        panel.set_ylabel(f"pass@k, {results.plan.primary}, %")
        panel.set_title(setting, loc="left", fontweight="bold")
    for panel in panels[len(known) :]:
        panel.set_visible(False)
    _legend(figure, [arm for arm in results.plan.arms if any(arm in of["arms"] for of in known.values())], look,
            base=any(of["base"] for of in known.values()))  # fmt: skip
    return figure


def _passing(panel: Any, runs: Sequence[Run], found: Json, colour: str, marker: str) -> None:
    """An arm's mean curve with its ribbon from the lowest to the highest seed."""
    ks = [int(k) for k in found["at"]]
    by_run = [curve(run.passes) for run in runs if run.passes]
    low, high = ([100 * extreme(one[k] for one in by_run) for k in ks] for extreme in (min, max))
    panel.fill_between(ks, low, high, color=colour, alpha=0.15, linewidth=0)
    y = {k: 100 * found["at"][str(k)]["mean"] for k in ks}
    panel.plot(ks, list(y.values()), color=colour, marker=marker, markersize=4, linewidth=1.6, markeredgewidth=0)
    if (met := found["crossing"]) is not None:
        panel.plot([met], [y[met]], "o", markersize=11, markerfacecolor="none", color=colour)


def stream_weights(results: Results, analysis: Json) -> Any:
    """What a learned or scheduled balance gave its streams, step by step: a row a setting, a panel a stream."""
    settings = [name for name, of in analysis["settings"].items() if of["weights"]]
    if not settings:
        return None
    known = {name: [run for run in results.runs if run.setting == name and run.weights] for name in settings}
    names = {name for runs in known.values() for run in runs for name in run.weights}
    streams = sorted({name.removesuffix(IDLE) for name in names})
    figure = _figure(0.55 + 2.35 * len(settings))
    grid = figure.subplots(len(settings), len(streams), squeeze=False)
    look = looks(results.plan.arms)
    for axes, setting in zip(grid, settings, strict=True):
        for panel, stream in zip(axes, streams, strict=True):
            for arm in results.plan.arms:
                own = [run.weights for run in known[setting] if run.arm == arm]
                _weight(panel, [weights.get(f"{stream}{IDLE}", ()) for weights in own], look[arm][0])
                _weight(panel, [weights.get(stream, ()) for weights in own], *look[arm])
            panel.set_xlabel("steps")
            panel.set_ylabel(f"weight of {stream}")
            panel.margins(y=0.1)
        axes[0].set_title(setting, loc="left", fontweight="bold")
    _legend(figure, [arm for arm in results.plan.arms if any(run.arm == arm for of in known.values() for run in of)],
            look)  # fmt: skip
    return figure


def _weight(panel: Any, runs: Sequence[Sequence[float | None]], colour: str, marker: str | None = None) -> None:
    """The mean over the seeds that have a weight at a step, with a ribbon from the lowest to the highest; without a
    marker a bare dashed line."""
    longest = max((len(weights) for weights in runs), default=0)
    by_step = {
        step: [w for weights in runs if (w := weights[step - 1] if step <= len(weights) else None) is not None]
        for step in range(1, longest + 1)
    }
    steps = [step for step, found in by_step.items() if found]
    if not steps:
        return
    y = [mean(by_step[step]) for step in steps]
    if marker is None:
        panel.plot(steps, y, color=colour, linestyle=(0, (4, 3)), linewidth=1.2)
        return
    low, high = ([extreme(by_step[step]) for step in steps] for extreme in (min, max))
    panel.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
    often = max(1, len(steps) // 6)
    panel.plot(steps, y, color=colour, marker=marker, markersize=4, markevery=often, linewidth=1.6, markeredgewidth=0)


def _figure(height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), layout="constrained")


def _grid(panels: int) -> tuple[int, int]:
    """Rows and columns: three panels stand beside each other, other numbers two by two."""
    columns = 3 if panels == 3 else min(panels, 2)
    return -(-panels // columns), columns


def _legend(figure: Any, arms: Sequence[str], look: Mapping[str, tuple[str, str]], base: bool = False) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=look[arm][0], marker=look[arm][1], markersize=5, label=arm) for arm in arms]
    handles += [Line2D([], [], color=BASE, linestyle=(0, (4, 2)), label="base")] if base else []
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 7 + base), handlelength=1.8)


def _short(value: float, position: int) -> str:
    """250k, 1.5M: axis labels of tokens."""
    return f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1e3:g}k" if value else "0"


PICTURES: tuple[tuple[str, str, Picture], ...] = (
    (
        "learning-curves",
        "Validation accuracy: mean over seeds, ribbon from the lowest to the highest seed; x is the mean over seeds. "
        "An arm that generates no tokens is a dashed level, its last mean, in the middle panel.",
        learning_curves,
    ),
    ("differences", "Paired differences with their intervals over seeds.", differences),
    ("frontier", "Accuracy against what the model kept; the distance from the base as area.", frontier),
    (
        "pass-at-k",
        "pass@k at temperature 1: mean over seeds, ribbon from the lowest to the highest. A ring: the smallest k at "
        "which the base solves as much as that arm, or more.",
        pass_at_k,
    ),
    (
        "stream-weights",
        "What each stream counts for in the loss, for arms that learn or schedule it; mean over seeds, ribbon from the "
        "lowest to the highest. Dashed: where a learned weight would have gone without any data.",
        stream_weights,
    ),
)
"""(file name, caption, function); a function returns None where it has nothing to show."""
