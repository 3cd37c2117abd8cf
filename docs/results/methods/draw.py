"""Draws what each method did in the comparison of all methods, and writes it into the methods' pages.

    python docs/results/methods/draw.py FOLDER          FOLDER: what `superrl compare plan.yaml --out FOLDER` made

One small picture an arm (validation accuracy over steps, a thin line a seed; SFT, GRPO and superrl behind it), a table
of all in README.md here, and on the page of each method the text between its `measured` marks. Needs the extra
`compare`. Leaves out statistics: three untuned seeds say how a method behaves, not how good it is.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from statistics import fmean

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
PAGES = HERE.parents[1] / "methods"
BEHIND = {"sft": (0, (1, 1.5)), "grpo": (0, (4, 2)), "superrl": "solid"}
PAGE_OF = {
    "dft": "sft", "trsft": "sft", "sft-then-rl": None, "superrl-advantage": "superrl", "superrl-ppo": "superrl",
    "chord-mu": "chord", "chord-phi": "chord",
}  # fmt: skip
START, END = "<!-- measured -->", "<!-- /measured -->"


def runs_of(folder: Path) -> dict[str, list[Path]]:
    """Arm -> its finished runs, by seed."""
    found: dict[str, list[Path]] = {}
    for summary in sorted(folder.glob("runs/*/*/seed-*/summary.json")):
        found.setdefault(summary.parent.parent.name, []).append(summary.parent)
    return found


def curve(run: Path) -> tuple[list[int], list[float]]:
    """(steps, validation accuracy in %)."""
    rows = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["split"] == "validation"]
    return [row["step"] for row in rows], [100 * row["accuracy"] for row in rows]


def final(run: Path) -> float:
    """Test accuracy after the last step, in %."""
    (test,) = json.loads((run / "summary.json").read_text())["test"].values()
    return 100 * test["final"]


def draw(arm: str, runs: dict[str, list[Path]]) -> None:
    """ARM.svg."""
    figure, axes = plt.subplots(figsize=(5.2, 2.5))
    for other, style in BEHIND.items():
        if other != arm and other in runs:
            steps, columns = mean_curve(runs[other])
            axes.plot(steps, columns, color="#9a9a9a", lw=1.2, ls=style)
            axes.annotate(other, (steps[-1], columns[-1]), xytext=(4, 0), textcoords="offset points",
                          color="#6f6f6f", fontsize=8, va="center")  # fmt: skip
    for run in runs[arm]:
        axes.plot(*curve(run), color="#1f6fb4", lw=0.8, alpha=0.5)
    steps, columns = mean_curve(runs[arm])
    axes.plot(steps, columns, color="#1f6fb4", lw=2.2)
    axes.annotate(arm, (steps[-1], columns[-1]), xytext=(4, 0), textcoords="offset points",
                  color="#1f6fb4", fontsize=8, va="center", fontweight="bold")  # fmt: skip
    axes.set(xlim=(0, steps[-1]), ylim=(-3, 103), xlabel="step", ylabel="validation accuracy, %")
    axes.spines[["top", "right"]].set_visible(False)
    spread(axes)
    figure.tight_layout()
    figure.subplots_adjust(right=0.78)
    figure.savefig(HERE / f"{arm}.svg", metadata={"Date": None})
    plt.close(figure)


def spread(axes: plt.Axes) -> None:
    """Moves the labels at the right apart where they would cover each other."""
    labels = sorted(axes.texts, key=lambda text: text.xy[1])
    lowest = -3.0
    for text in labels:
        place = max(text.xy[1], lowest)
        text.xy = (text.xy[0], place)
        lowest = place + 9.0


def mean_curve(runs: list[Path]) -> tuple[list[int], list[float]]:
    """The mean over seeds at every step."""
    curves = [curve(run) for run in runs]
    return curves[0][0], [fmean(column) for column in zip(*(c[1] for c in curves), strict=True)]


def told(arm: str, runs: list[Path]) -> str:
    """`40.2 (31.0, 44.5, 45.0)`: the mean over seeds, and each."""
    ends = [final(run) for run in runs]
    return f"{fmean(ends):.1f} ({', '.join(f'{end:.1f}' for end in ends)})"


def write_page(page: Path, arms: list[str], runs: dict[str, list[Path]]) -> None:
    """The pictures and figures between the page's marks."""
    text = page.read_text()
    shown = [f"![{arm}: validation accuracy over 60 steps](../results/methods/{arm}.svg)" for arm in arms]
    ends = "; ".join(f"`{arm}` {told(arm, runs[arm])}" for arm in arms)
    words = (
        f"Test accuracy at the end, in %, mean and three seeds: {ends}. One small family, one untuned learning rate\n"
        "([plan](../results/methods/PLAN.md), [all](../results/methods/README.md)): how it behaves, not how good it is."
    )
    block = "\n".join([START, "", *shown, "", words, "", END])
    if END in text:
        text = re.sub(f"{START}.*?{END}", lambda _: block, text, flags=re.DOTALL)
    else:
        text = text.replace(START, block)
    page.write_text(text)


def write_table(runs: dict[str, list[Path]]) -> None:
    """README.md here: every arm's figures, between the marks."""
    rows = ["| arm | test accuracy, %, mean (each seed) | tokens generated | CPU seconds |", "|---|---|---|---|"]
    for arm, own in sorted(runs.items()):
        summaries = [json.loads((run / "summary.json").read_text()) for run in own]
        timing = [[json.loads(line) for line in (run / "timing.jsonl").read_text().splitlines()] for run in own]
        tokens = fmean(summary["tokens"]["generated"] for summary in summaries)
        seconds = fmean(sum(row["time/cpu"] for row in rows_) for rows_ in timing)
        rows.append(f"| `{arm}` | {told(arm, own)} | {tokens:,.0f} | {seconds:.0f} |")
    page = HERE / "README.md"
    block = "\n".join([START, "", *rows, "", END])
    page.write_text(re.sub(f"{START}.*?{END}", lambda _: block, page.read_text(), flags=re.DOTALL))


def main(folder: Path) -> None:
    """Everything."""
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "methods", "font.size": 9})
    runs = runs_of(folder)
    pages: dict[str, list[str]] = {}
    for arm in runs:
        draw(arm, runs)
        page = PAGE_OF.get(arm, arm)
        if page is not None:
            pages.setdefault(page, []).append(arm)
    for name, arms in pages.items():
        write_page(PAGES / f"{name}.md", sorted(arms, key=lambda arm: (arm != name, arm)), runs)
    write_table(runs)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
