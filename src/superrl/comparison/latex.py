r"""compare.tex: arms by settings as a table for a paper, in the primary column. Needs \usepackage{booktabs}.

Above the second rule accuracies, below it the treatment minus every arm, where bold says that the adjusted interval
leaves out 0. Makes text from an analysis; leaves out further columns (they are in compare.md) and the preamble.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from superrl.comparison.statistics import LEVEL, t_quantile

Json = Mapping[str, Any]

SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    **{character: f"\\{character}" for character in "#$%&_"},
}  # fmt: skip
"""What TeX reads otherwise than it is written."""
NONE = "--"
"""A cell without a number."""


def latex(analysis: Json) -> str:
    """The whole file: one `table` environment."""
    settings = analysis["settings"]
    rows = [_row("start", [_points(of["start"][analysis["primary"]]) for of in settings.values()])]
    rows += [
        _row(arm, [_accuracy(of, arm, analysis["primary"]) for of in settings.values()]) for arm in _arms(analysis)
    ]
    others = [arm for arm in _arms(analysis) if arm != analysis["treatment"]]
    minus = [
        _row(
            rf"\quad {escape(arm)}", [_difference(of, arm, analysis["primary"]) for of in settings.values()], as_is=True
        )
        for arm in others
    ]
    width = len(settings) + 1
    below = [r"    \midrule", rf"    \multicolumn{{{width}}}{{l}}{{{escape(analysis['treatment'])} minus}} \\", *minus]
    lines = [
        f"% {' '.join(analysis['name'].split())}: written by superrl compare; needs \\usepackage{{booktabs}}",
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{_caption(analysis)}}}",
        rf"  \label{{tab:{_slug(analysis['name'])}}}",
        rf"  \begin{{tabular}}{{l{'r' * len(settings)}}}",
        r"    \toprule",
        _row("", list(map(escape, settings))),
        r"    \midrule",
        *rows,
        *(below if minus else []),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    r"""Text as TeX shows it as it stands, on one line.

    >>> print(escape("my_arm 50% {x}"))
    my\_arm 50\% \{x\}
    """
    return "".join(SPECIAL.get(character, character) for character in " ".join(text.split()))


def _arms(analysis: Json) -> list[str]:
    """The arms that have a number somewhere."""
    return [arm for arm in analysis["arms"] if any(arm in of["arms"] for of in analysis["settings"].values())]


def _row(name: str, cells: Sequence[str], as_is: bool = False) -> str:
    return f"    {' & '.join([name if as_is else escape(name), *cells])} \\\\"


def _points(share: float | None) -> str:
    return NONE if share is None else f"${100 * share:.1f}$"


def _accuracy(setting: Json, arm: str, primary: str) -> str:
    """`$76.1 \\pm 9.7$`: mean and half of the t interval, which is not cut to 0 and 100 here."""
    if arm not in setting["arms"]:
        return NONE
    found = setting["arms"][arm]["accuracy"][primary]
    if found["lo"] is None:
        return _points(found["mean"])
    half = t_quantile((1 + LEVEL) / 2, found["n"] - 1) * found["sd"] / math.sqrt(found["n"])
    return rf"${100 * found['mean']:.1f} \pm {100 * half:.1f}$"


def _difference(setting: Json, arm: str, primary: str) -> str:
    """`$\\mathbf{+21.4 \\pm 7.7}$`: with half of the adjusted interval, bold where that leaves out 0."""
    found = setting["differences"][primary].get(arm)
    if found is None:
        return NONE
    if found["lo_holm"] is None:
        return f"${100 * found['mean']:+.1f}$"
    half = (found["hi_holm"] - found["lo_holm"]) / 2
    text = rf"{100 * found['mean']:+.1f} \pm {100 * half:.1f}"
    return rf"$\mathbf{{{text}}}$" if found["lo_holm"] > 0 or found["hi_holm"] < 0 else f"${text}$"


def _caption(analysis: Json) -> str:
    """What the numbers are, and what is missing."""
    treatment, family = escape(analysis["treatment"]), len(analysis["arms"]) - 1
    seeds = len(analysis["seeds"])
    half = rf"half of the {100 * LEVEL:.0f}\,\%"
    parts = [
        rf"Accuracy ({escape(analysis['primary'])}, \%): mean over {seeds} seed{'' if seeds == 1 else 's'} $\pm$ "
        rf"{half} $t$ interval.",
        rf"Below: {treatment} minus each arm, in percentage points, paired by seed, $\pm$ {half} interval after Holm's "
        f"adjustment over {family} comparison{'' if family == 1 else 's'} a setting; bold: it leaves out 0.",
    ]
    if missing := len(analysis["missing"]):
        parts.append(f"Partial: {missing} of {missing + len(analysis['runs'])} runs are missing.")
    return " ".join(parts if family else parts[:1] + parts[2:])


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "comparison"
