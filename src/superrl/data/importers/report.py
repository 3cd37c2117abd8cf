"""What an import found, for a file (`figures`) and for a terminal (`summary`).

Leaves out the rows themselves.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping
from typing import Any

from superrl.data.importers import Imported
from superrl.steps.parse import FORMATS

WIDTH = 80
INDENT = 9
REASONS = 6
KINDS = 8
"""So many reasons have a line of their own; so many formats, or tools, are named."""
WHY = {
    "unresolved": "did not solve the task",
    "unfinished": "broke off, and nothing says that it solved the task",
    "malformed": "a column is missing or holds something else",
    "no_task": "no problem statement",
    "no_demonstration": "no solution",
    "no_steps": "nothing to cut at",
    "one_step": "a single step",
    "empty": "an empty solution",
    "is_step": "rows of single steps already",
    "no_action": "turns that did not act",
    "submit": "closing turns",
    "empty_action": "steps with nothing in them",
}
"""The reasons in words."""


def figures(imported: Imported, source: str, settings: Mapping[str, Any], instances: int | None) -> dict[str, Any]:
    """The report: rows, trajectories, steps, instances (None if none were asked for), drops by reason with examples."""
    demonstrations = [problem.demonstrations[0] for problem in imported.problems]
    formats = [problem.meta.get("format") for problem in imported.problems]
    cuts = Counter(form for form in formats if isinstance(form, str) and form in FORMATS)
    tools = Counter(step.tool for demonstration in demonstrations for step in demonstration.steps if step.tool)
    lengths = sorted(len(demonstration.steps) for demonstration in demonstrations)
    drops = imported.drops
    return {
        "source": source,
        "format": imported.format,
        "settings": dict(settings),
        "rows": imported.rows,
        "trajectories": len(demonstrations),
        "steps": sum(lengths),
        "steps_of_a_trajectory": {"least": lengths[0], "median": lengths[len(lengths) // 2], "most": lengths[-1]}
        if lengths
        else {},
        "instances": instances,
        "cut_as": dict(cuts.most_common()),
        "tools": dict(tools.most_common()),
        "dropped": {
            reason: {"count": count, "why": WHY.get(reason, ""), "examples": drops.examples.get(reason, [])}
            for reason, count in drops.counts.most_common()
            if count
        },
    }


def summary(report: Mapping[str, Any], out: str) -> str:
    """The report in about a dozen lines of at most 80 columns."""
    lengths = report["steps_of_a_trajectory"]
    some = f" of {lengths['least']} to {lengths['most']}, median {lengths['median']}" if lengths else ""
    counts = [f"{report['rows']:,} rows as {report['format']}", f"{report['trajectories']:,} trajectories"]
    lines = [*_wrapped("read", [*counts, f"{report['steps']:,} steps{some}"])]
    lines += _wrapped("cut as", _counted(report["cut_as"]))
    lines += _wrapped("tools", _counted(report["tools"]))
    for reason, drop in list(report["dropped"].items())[:REASONS]:
        lines.append(f"dropped  {drop['count']:,} " + ": ".join(filter(None, [reason, drop["why"]])))
    if (others := len(report["dropped"]) - REASONS) > 0:
        lines.append(f"         and {others} more {'reason' if others == 1 else 'reasons'}")
    instances = report["instances"]
    rows = (
        f"{report['trajectories']:,} rows, one a trajectory" if instances is None else f"{instances:,} rows, one a step"
    )
    return "\n".join([*(line[:WIDTH] for line in lines), f"wrote    {rows}: {out}"])


def _counted(counts: Mapping[str, int]) -> list[str]:
    """`numbered 6,696 (72 %)`, the most frequent first, the rest together."""
    total = sum(counts.values())
    shown = list(counts.items())
    if len(shown) > KINDS:
        shown = [*shown[: KINDS - 1], ("others", sum(counts for _, counts in shown[KINDS - 1 :]))]
    return [f"{name} {count:,} ({100 * count / total:.0f} %)" for name, count in shown]


def _wrapped(head: str, parts: list[str]) -> list[str]:
    """The parts after their head, on as many lines as they need."""
    if not parts:
        return []
    text = ", ".join(part.replace(" ", "\u00a0") for part in parts)
    found = textwrap.wrap(text, WIDTH - INDENT, break_long_words=False, break_on_hyphens=False)
    return [f"{head if i == 0 else '':{INDENT}}{line}".replace("\u00a0", " ") for i, line in enumerate(found)]
