"""A comparison in a terminal of 80 columns: the primary column of every setting, what is missing, where it all lies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from superrl.comparison.tables import ends
from superrl.report import plain_console

Json = Mapping[str, Any]


def show(analysis: Json, out: Path) -> None:
    """Print it, and where everything lies."""
    console = plain_console()
    for name, setting in analysis["settings"].items():
        if setting["arms"]:
            title = f"{name}: {analysis['primary']} in %, and {analysis['treatment']} minus the arm (Holm-adjusted)"
            console.print()
            console.print(Text(title, "bold"))
            console.print(_table(setting, analysis))
    lines = [*_missing(analysis), *(f"note: {note}" for note in analysis["notes"])]
    chosen = [arm["chosen"] or {} for setting in analysis["settings"].values() for arm in setting["arms"].values()]
    if chosen and not any("lr" in point for point in chosen):
        lines.append("note: no learning rate was tuned: every arm ran at the recipe's own")
    pictures = [path.name for path in sorted(out.glob("*.png"))]
    lines += [*([""] if lines else []), f"all of it  {out / 'compare.md'}"]
    lines += [f"pictures   {out}/{{{','.join(pictures)}}}"] if pictures else []
    lines += [f"numbers    {out}/{{compare.json,compare.csv}}"]
    for line in ["", *lines]:
        console.print(Text(line), soft_wrap=True)


def _table(setting: Json, analysis: Json) -> Table:
    primary = analysis["primary"]
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("arm", overflow="fold")
    for head in ("seeds", "accuracy", "difference", "interval"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold")
    for arm, found in setting["arms"].items():
        row = [arm, str(len(found["seeds"])), f"{100 * found['accuracy'][primary]['mean']:.1f}"]
        if difference := setting["differences"][primary].get(arm):
            row += [f"{100 * difference['mean']:+.1f}", ends(difference, "_holm"), difference["verdict"]]
        table.add_row(*row)
    return table


def _missing(analysis: Json) -> list[str]:
    """`12 of 70 runs are missing: ...`, a line for every reason in an arm of a setting."""
    missing = analysis["missing"]
    if not missing:
        return []
    seeds: dict[tuple[str, str, str], list[str]] = {}
    for run in missing:
        seeds.setdefault((run["setting"], run["arm"], run["why"]), []).append(str(run["seed"]))
    head = f"{len(missing)} of {len(analysis['runs']) + len(missing)} runs are missing:"
    return [head, *(f"  {setting}, {arm}, seed {', '.join(of)}: {why}" for (setting, arm, why), of in seeds.items())]
