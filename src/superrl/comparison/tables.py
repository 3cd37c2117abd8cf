"""compare.md and compare.csv: an analysis as people read it. Makes text, computes nothing and reads no files."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from superrl.comparison.results import IDLE, SETS
from superrl.comparison.targets import UNITS

Json = Mapping[str, Any]

READING = """\
## How to read this

- Accuracies are in %, differences in percentage points, brackets are 95 % t intervals over seeds. Differences are
  paired by seed: same problems in the same order, same initial weights. No interval comes from resampling problems.
- A verdict other than "no difference shown" stands only where the interval that Holm's adjustment widens, over the
  arms of one setting and column, leaves out 0. Columns but the first are secondary and say higher or lower.
- The smallest detectable difference is the true one that as many seeds of this deviation would find in 4 of 5
  repetitions: a smaller one may well exist beside "no difference shown".
- Cost to target: what was spent when the mean of 3 consecutive validation evaluations first reached a share of the
  best such mean of the baseline's mean curve. A run that never does counts with the setting's steps and with all the
  tokens and seconds that it spent (restricted mean); k/n says how many did. Seconds are of training, without
  evaluations.
- Drawdown: the largest fall on validation from an earlier evaluation, worst seed. Collapsed: the last validation
  interval lies wholly below the start or below half of the run's own best. Learning-rate band: the rates of the tuning
  grid within 10 % of the arm's best validation accuracy, and their ratio.
"""

LOOKED = {
    "imitation": """\
- Demonstrations: NLL is the mean of -log p a token at temperature 1; similarity is 1 - edit distance / the longer
  length, in characters, of a model's correct completions and the nearest demonstration of their problem. No arm has
  seen a held-out demonstration: similarity there is what task and format alone give. Memorised: by how much more the
  NLL of the training problems' demonstrations lies below that of held-out ones than it did in the base. Intervals are
  over seeds, and no claims are made from them.
""",
    "passes": """\
- pass@k: unbiased, at temperature 1. The base meets an arm at the smallest k at which it solves as much or more: at so
  many attempts nothing is left of what training gained. Beyond the base: problems that the arm solved and the base did
  not in as many attempts, by chance, too; lost: the reverse. The base is one model, whose own sampling noise no
  interval over seeds knows.
""",
    "weights": """\
- Stream weights: what a method with a learned or scheduled balance multiplied its streams by, in its first and in its
  last step; without data: what a learned weight would have become by its own rule alone. Arms without a line have
  fixed weights.
""",
}
"""How to read what only some comparisons have measured."""


def markdown(analysis: Json, pictures: Sequence[tuple[str, str]]) -> str:
    """The whole of compare.md; `pictures` are (caption, name without its ending)."""
    parts = [f"# {analysis['name']}: {analysis['treatment']} against every other arm", *_warnings(analysis)]
    parts += ["## Differences at a glance", *_overview(analysis)]
    parts += [f"![{file}]({file}.png)\n\n{caption} ([SVG]({file}.svg))" for caption, file in pictures]
    for name, setting in analysis["settings"].items():
        parts += [f"## {name}", *_setting(setting, analysis)]
    looked = [text for key, text in LOOKED.items() if any(of.get(key) for of in analysis["settings"].values())]
    parts += ["## Cost to target, over settings", *_over_settings(analysis), READING + "".join(looked)]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def csv_text(rows: Sequence[Json]) -> str:
    """compare.csv: one line a run, blank for what was not computed."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    if rows:
        writer.writerow(rows[0])
    for row in rows:
        writer.writerow([int(value) if isinstance(value, bool) else value for value in row.values()])
    return file.getvalue()


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, first column to the left, the others to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def accuracy(found: Json | None) -> str:
    """`84.0 [78.1, 89.9]`, in %."""
    if found is None:
        return "-"
    interval = "" if found["lo"] is None else f" [{100 * found['lo']:.1f}, {100 * found['hi']:.1f}]"
    return f"{100 * found['mean']:.1f}{interval}"


def ends(found: Json, suffix: str = "") -> str:
    """`[+8.1, +16.5]`, the interval in percentage points; the suffix picks the adjusted one."""
    low, high = found[f"lo{suffix}"], found[f"hi{suffix}"]
    return "-" if low is None else f"[{100 * low:+.1f}, {100 * high:+.1f}]"


def count(value: float | None) -> str:
    """Steps, tokens or seconds: `48`, `12.4k`, `3.10M`."""
    if value is None:
        return "-"
    for least, size, letter in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if value >= least:
            return f"{value / size:.3g}{letter}"
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.1f}"


def _warnings(analysis: Json) -> list[str]:
    parts = []
    if missing := analysis["missing"]:
        planned = len(analysis["runs"]) + len(missing)
        seeds: dict[tuple[str, str, str], list[str]] = {}
        for run in missing:
            seeds.setdefault((run["setting"], run["arm"], run["why"]), []).append(str(run["seed"]))
        lines = [f"- {setting}, {arm}, seed {', '.join(of)}: {why}" for (setting, arm, why), of in seeds.items()]
        head = f"**Partial: {len(missing)} of {planned} runs are missing, and no number below knows of them.**"
        parts.append("\n".join([head, "", *lines]))
    return [*parts, "\n".join(f"- Note: {note}" for note in analysis["notes"])]


def _overview(analysis: Json) -> list[str]:
    primary, settings = analysis["primary"], analysis["settings"]
    rows = []
    for arm in analysis["arms"]:
        if arm != analysis["treatment"]:
            found = [setting["differences"][primary].get(arm) for setting in settings.values()]
            rows.append([f"minus {arm}", *("-" if one is None else _glance(one) for one in found)])
    head = [f"{analysis['treatment']}, {primary}", *settings]
    return [table(head, rows), "Percentage points, with the Holm-adjusted intervals that the verdicts go by."]


def _glance(found: Json) -> str:
    interval = "" if found["lo_holm"] is None else f" {ends(found, '_holm')}"
    return f"{100 * found['mean']:+.1f}{interval} {found['verdict']}"


def _setting(setting: Json, analysis: Json) -> list[str]:
    if not setting["arms"]:
        return ["No run has finished."]
    return [
        _accuracies(setting),
        f"### {analysis['treatment']} minus the others",
        _differences(setting, analysis["primary"]),
        "### Cost to target",
        *_targets(setting["targets"], analysis["baseline"]),
        "### Stability",
        _stability(setting["arms"]),
        *_looked_at(setting),
    ]


def _accuracies(setting: Json) -> str:
    columns = list(setting["columns"])
    start = ["start", *(f"{100 * setting['start'][column]:.1f}" for column in columns), *[""] * 6]
    rows = [
        [
            arm,
            *(accuracy(found["accuracy"][column]) for column in columns),
            str(len(found["seeds"])),
            *(count(found["cost"][unit]) for unit in UNITS),
            "-" if found["kl"] is None else f"{found['kl']:.3g}",
            _point(found["chosen"]),
        ]
        for arm, found in setting["arms"].items()
    ]
    return table(["arm", *columns, "seeds", "steps", "tokens", "seconds", "KL from base", "tuned"], [start, *rows])


def _point(chosen: Mapping[str, float] | None) -> str:
    return "-" if not chosen else ", ".join(f"{key} {value:g}" for key, value in chosen.items())


def _differences(setting: Json, primary: str) -> str:
    rows = []
    columns = sorted(setting["differences"], key=lambda column: column != primary)
    for column in columns:
        for arm, found in setting["differences"][column].items():
            shown = found["verdict"] in ("better", "worse", "higher", "lower")
            seen = "" if shown else "-" if found["detectable"] is None else f"{100 * found['detectable']:.1f}"
            rows.append(
                [
                    f"{column}, minus {arm}",
                    f"{100 * found['mean']:+.1f}",
                    ends(found),
                    ends(found, "_holm"),
                    "-" if found["p_holm"] is None else p_value(found["p_holm"]),
                    found["verdict"],
                    seen,
                ]
            )
    head = ["difference", "points", "95 % interval", "Holm-adjusted", "Holm p", "verdict", "smallest detectable"]
    return table(head, rows) if rows else "No pair of runs has finished."


def p_value(p: float) -> str:
    """Three decimals, or that it is below."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _targets(targets: Json, baseline: str) -> list[str]:
    if targets["why_none"]:
        return [f"No target: {targets['why_none']}."]
    at = targets["at"]
    arms = dict.fromkeys(arm for target in at.values() for arm in target["arms"])
    head = ["arm", *(f"{name} = {100 * target['tau']:.1f} %" for name, target in at.items())]
    rows = [[arm, *(_reach(target["arms"].get(arm)) for target in at.values())] for arm in arms]
    apart = [f"- {name} is listed apart: {target['apart']}." for name, target in at.items() if target["apart"]]
    best = (
        f"Shares of {baseline}'s best, {100 * targets['best']:.1f} %: steps / tokens / seconds (seeds that reached it)."
    )
    return [best, table(head, rows), "\n".join(apart)]


def _reach(found: Json | None) -> str:
    if found is None:
        return "-"
    spent = " / ".join(count(found["mean"][unit]) for unit in UNITS)
    return f"{spent} ({found['reached']}/{found['n']})"


def _stability(arms: Json) -> str:
    head = ["arm", "deviation over seeds", "worst seed", "largest drawdown", "collapsed", "usable learning rates"]
    rows = []
    for arm, found in arms.items():
        steady = found["stability"]
        worst, band = steady["worst"], steady["lr_band"]
        rows.append(
            [
                arm,
                "-" if steady["sd"] is None else f"{100 * steady['sd']:.1f}",
                f"{100 * worst['accuracy']:.1f} (seed {worst['seed']})",
                "-" if steady["drawdown"] is None else f"{100 * steady['drawdown']:.1f}",
                f"{len(steady['collapsed'])}/{len(found['seeds'])}"
                + (f", {len(steady['failed'])} failed" if steady["failed"] else ""),
                "-" if band is None else f"{band['lowest']:g} to {band['highest']:g} (x{band['width']:.3g})",
            ]
        )
    return table(head, rows)


def _looked_at(setting: Json) -> list[str]:
    """What was measured of the final models; nothing of a comparison that was written before that was done."""
    parts: list[str] = []
    if found := setting.get("imitation"):
        parts += ["### Imitation or discovery", _imitation(found, setting["arms"])]
    if found := setting.get("passes"):
        parts += ["### pass@k", _passes(found)]
    if found := setting.get("weights"):
        parts += ["### Stream weights, first and last", _weights(found)]
    return parts


def _imitation(found: Json, arms: Json) -> str:
    """The base's numbers, then every arm's over seeds: NLL, memorised, similarity, correct."""
    names = ["trained", "held-out"]
    head = ["model", *(f"NLL, {name}" for name in names), "memorised", *(f"similarity, {name}" for name in names),
            *(f"correct, {name}" for name in names)]  # fmt: skip

    def row(name: str, of: Json, seeds: int) -> list[str]:
        cells = {key: [number((of.get(one) or {}).get(key), seeds, key == "correct") for one in SETS] for key in KEYS}
        return [name, *cells["nll"], number(of.get("gap"), seeds), *cells["similarity"], *cells["correct"]]

    rows = [row("base", found["base"], 1)] if found["base"] else []
    return table(head, [*rows, *(row(arm, of, len(arms[arm]["seeds"])) for arm, of in found["arms"].items())])


KEYS = ("nll", "similarity", "correct")


def number(found: Json | float | None, seeds: int, percent: bool = False) -> str:
    """`0.91 [0.85, 0.97]`: a mean over seeds, or a bare number; `(2 seeds)` behind it, if not all have one."""
    if found is None:
        return "-"
    scale, digits = (100, 1) if percent else (1, 3)
    if isinstance(found, int | float):
        return f"{scale * found:.{digits}f}"
    interval = "" if found["lo"] is None else f" [{scale * found['lo']:.{digits}f}, {scale * found['hi']:.{digits}f}]"
    of = "" if found["n"] == seeds else f" ({found['n']} seed{'' if found['n'] == 1 else 's'})"
    return f"{scale * found['mean']:.{digits}f}{interval}{of}"


def _passes(found: Json) -> str:
    ks = list(dict.fromkeys(k for arm in found["arms"].values() for k in arm["at"]))
    base = found["base"]
    head = ["model", *(f"pass@{k}" for k in ks), "base meets it at", "beyond the base", "lost"]
    rows = [["base", *(number(base["at"].get(k), 1, True) for k in ks), "", "", ""]] if base else []
    for arm, of in found["arms"].items():
        told = of["compared"] and any(at["mean"] > 0 for at in of["at"].values())  # who solves nothing is met by nobody
        met = "-" if not told else f"k = {of['crossing']}" if of["crossing"] else f"not up to {ks[-1]}"
        rows.append([arm, *(accuracy(of["at"].get(k)) for k in ks), met, accuracy(of["beyond"]), accuracy(of["lost"])])
    return table(head, rows)


def _weights(found: Json) -> str:
    streams = sorted({stream for of in found.values() for stream in of})
    rows = [
        [
            arm,
            *(f"{of[stream]['first']:.3g} to {of[stream]['last']:.3g}" if stream in of else "-" for stream in streams),
        ]
        for arm, of in found.items()
    ]
    heads = [stream.replace(IDLE, " without data") for stream in streams]
    return table(["arm", *heads], rows)


def _over_settings(analysis: Json) -> list[str]:
    names = list(next(iter(analysis["ratios"].values()), {}))
    rows = []
    for arm, by_share in analysis["ratios"].items():
        found = [by_share[name] for name in names]
        if arm != analysis["baseline"] and any(one[unit]["settings"] for one in found for unit in UNITS):
            rows.append([arm, *(_ratio(one) for one in found)])
    apart = []
    for name, setting in analysis["settings"].items():
        targets = setting["targets"]
        if targets["why_none"]:
            apart.append(f"- {name}: {targets['why_none']}.")
        apart += [f"- {name}, {at}: {one['apart']}." for at, one in targets["at"].items() if one["apart"]]
    text = (
        f"Geometric mean over settings of the ratio to {analysis['baseline']}, in steps / tokens / seconds "
        "(settings counted; runs that reached it); below 1 is cheaper, as far as runs reached it."
    )
    listed = "\n".join(["Listed apart, and in no ratio:", "", *apart]) if apart else ""
    return [*([text, table(["arm", *names], rows)] if rows else ["No setting has a target yet."]), listed]


def _ratio(found: Json) -> str:
    cells = ["-" if found[unit]["ratio"] is None else f"{found[unit]['ratio']:.2f}" for unit in UNITS]
    most = max((found[unit] for unit in UNITS), key=lambda one: int(one["settings"]))
    return f"{' / '.join(cells)} ({most['settings']}; {most['reached']}/{most['n']})"
