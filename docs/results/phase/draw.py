"""From the runs of the phase diagram to its picture, its table and cells.json: `python docs/results/phase/draw.py`.

Reads the folders `phase`, `phase-noise`, `phase-group` and `phase-fallbacks` of `superrl compare` (see PLAN.md) below
the folder it is run in, or below the first argument, and writes beside itself. An incomplete sweep is left out.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from superrl.comparison.phase import Cell, Sweep, by_arm, cell, grid, interval, picture, save
from superrl.comparison.results import Results, read
from superrl.comparison.statistics import Estimate

NAMES = {"superrl": "SuperRL", "sft": "SFT", "grpo": "GRPO", "sft-then-rl": "SFT-then-RL"}
ROWS = {"zero": "0", "low": "2-10 %", "mid": "20-40 %", "high": "≥ 70 %"}
COLUMNS = {"sixth": "on a sixth", "all": "on all"}
HERE = Path(__file__).parent


def main(runs: Path) -> None:
    """Draw and tell what is there."""
    main_runs = read(runs / "phase")
    cells = grid(main_runs)
    sweeps = [sweep for make in (noise, group) if (sweep := make(runs, main_runs, cells["low-sixth"]))]
    placed = {(ROWS[row], COLUMNS[column]): cells[f"{row}-{column}"] for row in ROWS for column in COLUMNS}
    axes = ("demonstrations", "starting pass@8 of the base")
    save(picture(placed, NAMES, axes, sweeps), HERE / "phase")
    told = {name: found.plain() for name, found in cells.items()}
    told |= {f"{sweep.title}: {tick}": found.plain() for sweep in sweeps for tick, found in sweep.cells.items()}
    others = fallbacks(runs, main_runs)
    told |= {f"fallback: {name}": found.plain() for name, found in others.items()}
    (HERE / "cells.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(table((f"{row}, {column}", found) for (row, column), found in placed.items()))
    for sweep in sweeps:
        print(f"\n{sweep.title}\n\n{table(sweep.cells.items())}")
    if others:
        print(f"\nFallbacks\n\n{fallback_table(others)}")


def complete(folder: Path) -> Results | None:
    """A comparison's runs, if there are all of them."""
    results = read(folder) if (folder / "comparison.yaml").is_file() else None
    return results if results and not results.missing else None


def noise(runs: Path, grid_runs: Results, right: Cell) -> Sweep | None:
    """Wrong demonstrations. GRPO reads none of them, so its runs are those of the grid."""
    if not (results := complete(runs / "phase-noise")):
        return None
    grpo = grid_runs.of("low-sixth", "grpo")
    wrong = {
        f"{share} %": cell({**by_arm(results, f"wrong-{share}"), "grpo": grpo}, "superrl", results.plan.primary)
        for share in (25, 50)
    }
    return Sweep("Wrong demonstrations (2-10 %, a sixth)", "share of them that is wrong", {"0 %": right, **wrong})


def group(runs: Path, grid_runs: Results, eight: Cell) -> Sweep | None:
    """Rollouts a prompt, at 128 rollouts a step."""
    if not (results := complete(runs / "phase-group")):
        return None
    found = grid(results)
    cells = {"4": found["k-4"], "8": eight, "16": found["k-16"]}
    return Sweep("Rollouts a prompt (2-10 %, a sixth)", "K, at 128 rollouts a step", cells)


def fallbacks(runs: Path, grid_runs: Results) -> dict[str, Cell]:
    """Every fallback against superrl's own `sft`, whose runs are the grid's: the same recipe."""
    if not (results := complete(runs / "phase-fallbacks")):
        return {}
    column = results.plan.primary
    own = grid_runs.of("low-sixth", "superrl")
    return {
        name: cell({"sft fallback": own, name: results.of(name, "superrl")}, name, column)
        for name in results.plan.settings
        if name != "sft"
    }


def fallback_table(cells: Mapping[str, Cell]) -> str:
    """Accuracy by fallback, and its difference to the fallback `sft`, in Markdown."""
    first = next(iter(cells.values()))
    lines = ["| fallback | test accuracy | minus `sft` |", "|---|---|---|"]
    lines.append(f"| `sft` | {percent(first.accuracy, 'sft fallback')} | |")
    for name, found in cells.items():
        lines.append(f"| `{name}` | {percent(found.accuracy, name)} | {difference(found)} |")
    return "\n".join(lines)


def difference(found: Cell) -> str:
    """`**+12.0 [+8.0, +16.0]**`, or that it is not shown."""
    told = f"{100 * found.difference.mean:+.1f} {interval(found.difference)}"
    return f"**{told}**" if found.shown else f"{told}, not shown"


def table(cells: Iterable[tuple[str, Cell]]) -> str:
    """Mean test accuracy of every arm, the best baseline by validation, and the difference, in Markdown."""
    lines = [f"| | {' | '.join(NAMES.values())} | best other | SuperRL minus it |", "|---" * (len(NAMES) + 3) + "|"]
    for name, found in cells:
        accuracies = " | ".join(percent(found.accuracy, arm) for arm in NAMES)
        lines.append(f"| {name} | {accuracies} | {NAMES[found.best]} | {difference(found)} |")
    return "\n".join(lines)


def percent(accuracy: Mapping[str, Estimate], arm: str) -> str:
    """`84.0`, with the deviation over seeds."""
    found = accuracy[arm]
    return f"{100 * found.mean:.1f} ± {100 * (found.sd or 0):.1f}"


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path())
