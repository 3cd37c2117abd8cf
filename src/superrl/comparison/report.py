"""What `superrl compare` ends with: compare.json, compare.csv, compare.md and pictures, from a comparison's folder.

May be called at any time: what is not finished is said at the top. Leaves out running (`runner.py`) and arithmetic.
"""

from __future__ import annotations

import json
from pathlib import Path

from superrl.comparison.analysis import analyse_results
from superrl.comparison.plots import draw
from superrl.comparison.plots import require as require_matplotlib
from superrl.comparison.results import read
from superrl.comparison.statistics import t_quantile
from superrl.comparison.tables import csv_text, markdown


def require() -> None:
    """Refuse at the start, and not after hours of runs, to go without what a report is made with."""
    t_quantile(0.5, 1)
    require_matplotlib()


def analyse(out: Path) -> Path:
    """Write what the runs in a comparison's folder say so far into that folder; returns the path of compare.md."""
    require()
    results = read(out)
    analysis = analyse_results(results)
    pictures = draw(results, analysis)
    _write(out / "compare.json", json.dumps(analysis, indent=2, allow_nan=False, ensure_ascii=False) + "\n")
    _write(out / "compare.csv", csv_text(analysis["runs"]))
    _write(out / "compare.md", markdown(analysis, pictures))
    return out / "compare.md"


def _write(path: Path, text: str) -> None:
    """Replace a file whole: a reader never sees half of it."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
