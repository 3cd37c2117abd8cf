"""What `superrl compare` ends with, from a comparison's folder: compare.md with its pictures, compare.json and
compare.csv, and for a paper compare.tex and methods.md.

May be called at any time: what is not finished is said at the top. Leaves out running (`runner.py`) and arithmetic.
"""

from __future__ import annotations

import json
from pathlib import Path

from superrl.comparison.analysis import analyse_results
from superrl.comparison.latex import latex
from superrl.comparison.paragraph import methods
from superrl.comparison.plots import draw
from superrl.comparison.plots import require as require_matplotlib
from superrl.comparison.results import read
from superrl.comparison.statistics import t_quantile
from superrl.comparison.tables import csv_text, markdown
from superrl.comparison.work import write


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
    write(out / "compare.json", json.dumps(analysis, indent=2, allow_nan=False, ensure_ascii=False) + "\n")
    write(out / "compare.csv", csv_text(analysis["runs"]))
    write(out / "compare.tex", latex(analysis))
    write(out / "methods.md", methods(results))
    write(out / "compare.md", markdown(analysis, pictures))
    return out / "compare.md"
