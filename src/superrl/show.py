"""`superrl show RUN`: what happened in a run and why, in a terminal of 80 columns.

Reads the run folder's JSON files, and nothing else, so that it works on a run that is going on, was killed, or lies on
another machine. Model text is printed as text: no markup, no control characters. Leaves out images: `metrics.jsonl`
opens in any plotting tool.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from superrl import stepview
from superrl.errors import UserError
from superrl.report import duration, interval, number, percent, plain_console, read_rows, results_table

Row = Mapping[str, Any]

BLOCKS = "▁▂▃▄▅▆▇█"
CURVES = (
    ("reward", "reward/mean", False),
    ("correct", "reward/correct", True),
    ("similarity", "score/similarity", True),
    ("format passed", "score/format", True),
    ("the expert's action", "score/exact", True),
    ("solved groups", "switch/solved_rate", True),
    ("fallback", "switch/fallback_rate", True),
    ("fallback (has demo)", "switch/fallback_rate_demonstrated", True),
    ("entropy (nats)", "policy/entropy", False),
    ("loss", "loss", False),
    ("completion length", "length/completion", False),
    ("gradient norm", "grad_norm", False),
)
"""Name, metric key, whether it is a rate: rates are drawn on the scale 0 to 1, the rest on their own."""
PLAIN = ("score/similarity",)
"""Drawn from 0 to 1, and yet no share of anything: its figures are no percentages."""
DECISIONS = {
    "pg": "policy gradient", "sft": "demonstration", "both": "rollouts and demonstration", "none": "nothing",
    "discarded": "discarded", "carried": "carried over",
}  # fmt: skip
RUN_FILES = ("config.yaml", "metrics.jsonl", "summary.json")
CURVE_WIDTH = 36
BAR_WIDTH = 48
BUCKETS = 10
STEP_ROWS = 10
REWARD_WIDTH = 20
COMPLETIONS = 3
CUT = 240


def show(run: Path, console: Console | None = None) -> None:
    """Print everything `sections` has to say about a run folder."""
    check_run(run)
    print_sections(sections(run), console or plain_console())


def check_run(run: Path) -> None:
    """A UserError unless the folder holds a run, begun or finished."""
    if not run.is_dir():
        raise UserError(f"{run} is not a folder; give the run folder that `superrl train` printed")
    if not any((run / name).is_file() for name in RUN_FILES):
        raise UserError(f"{run} is not a run folder: it holds none of {', '.join(RUN_FILES)}")


def print_sections(found: Sequence[tuple[str, list[RenderableType]]], console: Console) -> None:
    """Every title as a rule, what stands under it, and an empty line."""
    for title, parts in found:
        console.print(Rule(Text(title, "bold"), align="left", characters="─", style="dim"))
        for part in parts:
            console.print(part)
        console.print()


def sections(run: Path) -> list[tuple[str, list[RenderableType]]]:
    """Titles and what stands under them; a section without data is left out, the first never."""
    metrics, evaluations = stepview.unwrapped(read_rows(run / "metrics.jsonl")), read_rows(run / "evaluations.jsonl")
    timing, rollouts = read_rows(run / "timing.jsonl"), read_rows(run / "rollouts.jsonl")
    found: list[tuple[str, list[RenderableType]]] = [
        (str(run), [state(read_summary(run / "summary.json"), metrics, timing)]),
        ("curves", curves(metrics)),
        ("steps of the expert", steps(stepview.rolled(read_rows(run / "visits.jsonl")), metrics)),
        ("what groups were learnt from", switch(metrics)),
        ("evaluations", accuracies(evaluations)),
        ("sampled groups", [part for row in chosen_groups(rollouts) for part in group(row)]),
    ]
    return [found[0], *((title, parts) for title, parts in found[1:] if parts)]


def read_summary(path: Path) -> Row:
    """summary.json, {} while there is none."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def state(summary: Row, metrics: Sequence[Row], timing: Sequence[Row]) -> Text:
    """How far the run is, and where its time went."""
    step = metrics[-1].get("step") if metrics else None
    if summary:
        wall = f", {duration(summary['wall_seconds'])} wall time" if "wall_seconds" in summary else ""
        lines = [f"finished after {summary.get('steps', step)} steps{wall}"]
    elif metrics:
        lines = [f"not finished: step {step} is the last one written (still running, interrupted or killed)"]
    else:
        lines = ["no step was written yet"]
    lines += stages(metrics) + time_spent(timing)
    return Text("\n".join(lines))


def stages(metrics: Sequence[Row]) -> list[str]:
    """`stages: sft 1-40, superrl 41-100`, for a run of more than one."""
    spans: dict[str, list[Any]] = {}
    for row in metrics:
        spans.setdefault(str(row.get("stage")), []).append(row.get("step"))
    if len(spans) < 2:
        return []
    return ["stages: " + ", ".join(f"{name} {steps[0]}-{steps[-1]}" for name, steps in spans.items())]


def time_spent(timing: Sequence[Row]) -> list[str]:
    """Shares of the time of a step, speed and peak memory."""
    total = sum(row.get("time/step") or 0.0 for row in timing)
    if not total:
        return []
    names = ("rollout", "reward", "train", "sync")
    spent = [sum(row.get(f"time/{name}") or 0.0 for row in timing) for name in names]
    shares = ", ".join(f"{name} {100 * seconds / total:.0f}%" for name, seconds in zip(names, spent, strict=True))
    lines = [f"{total / len(timing):.2f} s a step: {shares}"]
    rates = [row["tokens_per_second/generated"] for row in timing if row.get("tokens_per_second/generated")]
    memory = max((row.get("memory/peak_bytes") or 0 for row in timing), default=0)
    facts = [f"{sum(rates) / len(rates):,.0f} tokens/s generated"] if rates else []
    facts += [f"{memory / 2**30:.2f} GiB peak memory"] if memory else []
    return [*lines, ", ".join(facts)] if facts else lines


def buckets(values: Sequence[float | None], width: int) -> list[float | None]:
    """The means of at most `width` equal runs of values; None where nothing was computed."""
    n = min(width, len(values))
    means: list[float | None] = []
    for i in range(n):
        part = [v for v in values[i * len(values) // n : (i + 1) * len(values) // n] if v is not None]
        means.append(sum(part) / len(part) if part else None)
    return means


def sparkline(values: Sequence[float | None], low: float, high: float) -> str:
    """One block a value between `low` and `high`; a gap where there is none."""
    span = (high - low) or 1.0
    top = len(BLOCKS) - 1
    return "".join(" " if v is None else BLOCKS[round(max(0.0, min(1.0, (v - low) / span)) * top)] for v in values)


def curves(metrics: Sequence[Row]) -> list[RenderableType]:
    """One line a metric: its curve, and where it started and ended."""
    table = Table.grid(padding=(0, 2, 0, 0))
    switched = has_switch(metrics)
    for title, key, is_rate in CURVES:
        if key.startswith("switch/") and not switched:
            continue
        means = buckets([row.get(key) for row in metrics], CURVE_WIDTH)
        known = [value for value in means if value is not None]
        if not known:
            continue
        low, high = (0.0, 1.0) if is_rate else (min(known), max(known))
        form = percent if is_rate and key not in PLAIN else number
        line = Text(sparkline(means, low, high).ljust(CURVE_WIDTH), "cyan")
        table.add_row(Text(title), line, Text(f"{form(known[0])} → {form(known[-1])}", no_wrap=True))
    return [table] if table.row_count else []


def has_switch(metrics: Sequence[Row]) -> bool:
    """Whether anything was solved or not, or fell back: else a switch has nothing to show."""
    return any(row.get("switch/solved_rate") is not None or row.get("switch/fallback_rate") for row in metrics)


def switch(metrics: Sequence[Row]) -> list[RenderableType]:
    """A bar for every tenth of the run: groups with a correct rollout, groups that fell back, and the rest."""
    rows = [row for row in metrics if row.get("switch/fallback_rate") is not None]
    if not has_switch(rows):
        return []
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_row(Text("steps"), Text.assemble(("█", "green"), " some rollout correct  ", ("▒", "yellow"),
                  " demonstration  ", ("·", "dim"), " neither"), Text("fallback"))  # fmt: skip
    n = min(BUCKETS, len(rows))
    for i in range(n):
        part = rows[i * len(rows) // n : (i + 1) * len(rows) // n]
        fallback = sum(row["switch/fallback_rate"] for row in part) / len(part)
        solved = sum(row.get("switch/solved_rate") or 0.0 for row in part) / len(part)
        steps = "-".join(dict.fromkeys((str(part[0].get("step")), str(part[-1].get("step")))))
        table.add_row(Text(steps), bar(solved, fallback), Text(percent(fallback)))
    return [table]


def steps(visits: Sequence[stepview.Rolled], metrics: Sequence[Row]) -> list[RenderableType]:
    """Mean reward by step of the expert's trajectory in both halves of the run, and why the format gate refused."""
    found = stepview.parts(visits)
    if not found:
        return []
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_row("reward of", "visits", *(f"training {part.name}" for part in found), style="dim")
    for name, counted, means in stepview.by_range(found, STEP_ROWS):
        reached = 0 if means[-1] is None else round(max(0.0, min(1.0, means[-1])) * REWARD_WIDTH)
        figures = [Text("-" if mean is None else f"{mean:.3f}") for mean in means]
        table.add_row(name, f"{counted:,}", *figures, Text("█" * reached, "cyan"))
    refused = Table.grid(padding=(0, 2, 0, 0))
    for reason, start, end in stepview.refusals(metrics):
        refused.add_row(Text(reason), Text(f"{percent(start)} → {percent(end)}"))
    told: list[RenderableType] = [table, Text(stepview.learnt(found))]
    if refused.row_count:
        told += [Text("refused by the format gate, share of the rollouts:", "dim"), refused]
    return told


def bar(solved: float, fallback: float) -> Text:
    """Shares of a batch as one bar."""
    green = round(solved * BAR_WIDTH)
    yellow = min(round(fallback * BAR_WIDTH), BAR_WIDTH - green)
    rest = BAR_WIDTH - green - yellow
    return Text.assemble(("█" * green, "green"), ("▒" * yellow, "yellow"), ("·" * rest, "dim"))


def accuracies(evaluations: Sequence[Row]) -> list[RenderableType]:
    """Validation as a curve, test as start and end."""
    runs: dict[str, list[Row]] = {}
    for row in evaluations:
        if row.get("split") == "validation" and row.get("accuracy") is not None:
            runs.setdefault(str(row.get("data")), []).append(row)
    parts: list[RenderableType] = []
    for data, rows in runs.items():
        values = [row["accuracy"] for row in rows]
        best = max(rows, key=lambda row: row["accuracy"])
        parts.append(Text.assemble(f"validation {data} (n {rows[-1].get('n')})\n  ",
                     (sparkline(buckets(values, CURVE_WIDTH), 0.0, 1.0), "cyan"),
                     f"  {percent(values[0])} → {percent(values[-1])}, best {percent(best['accuracy'])} "
                     f"{interval(best.get('ci95'))} at step {best.get('step')}"))  # fmt: skip
    table = results_table(evaluations)
    return parts + ([table] if table is not None else [])


def chosen_groups(rollouts: Sequence[Row]) -> list[Row]:
    """The last group of each decision, in the order in which they were drawn; steps of an expert have their own."""
    last = {(str(row.get("decision")), stepview.is_step(row)): i for i, row in enumerate(rollouts)}
    return [rollouts[i] for i in sorted(last.values())]


def group(row: Row) -> list[RenderableType]:
    """One visit to a problem: the question, some answers with score and advantage, the decision and its reason."""
    decision = DECISIONS.get(str(row.get("decision")), plain(row.get("decision")))
    head = Text.assemble((f"step {row.get('step')}, {plain(row.get('problem_id'))}", "bold"), "\n",
                         (decision, "green"), f": {plain(row.get('why'))}")  # fmt: skip
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(ratio=1)
    table.add_row(Text("prompt", "dim"), Text(cut(prompt_text(row.get("prompt")))))
    if row.get("opening"):
        table.add_row(Text("begun", "dim"), Text(cut(row["opening"])))
    completions = list(row.get("completions") or [])
    for completion in spread(completions):
        table.add_row(verdict(completion), Text(cut(completion.get("text"))))
    if len(completions) > COMPLETIONS:
        table.add_row("", Text(f"... and {len(completions) - COMPLETIONS} more completions", "dim"))
    expert = row["answer"] if stepview.is_step(row) else row.get("demonstration")
    if expert is not None:
        table.add_row(Text("expert", "yellow"), Text(cut(demonstration_text(expert))))
    return [head, Padding(table, (0, 0, 1, 2))]


def spread(completions: Sequence[Row]) -> list[Row]:
    """A few completions from best to worst score: the first, the last, and some between."""
    ranked = sorted(completions, key=lambda completion: -((completion.get("score") or {}).get("value") or 0.0))
    if len(ranked) <= COMPLETIONS:
        return ranked
    return [ranked[i * (len(ranked) - 1) // (COMPLETIONS - 1)] for i in range(COMPLETIONS)]


def verdict(completion: Row) -> Text:
    """`✓ 1.00  A +1.87`; below, `cut off` when the length limit ended it, or why the format gate refused it."""
    score, advantage = completion.get("score") or {}, completion.get("advantage")
    correct = score.get("correct")
    mark, style = ("?", "dim") if correct is None else ("✓", "green") if correct else ("✗", "red")
    credit = "" if advantage is None else f"  A {advantage:+.2f}"
    refused = stepview.reason(completion)
    stopped = "\n  cut off" if completion.get("stop") == "length" and refused != "cut" else ""
    stopped += f"\n  {refused}" if refused else ""
    return Text.assemble((mark, style), f" {score.get('value') or 0.0:.2f}{credit}", (stopped, "dim"))


def prompt_text(prompt: Any) -> str:
    """The last message of a chat, or the text itself."""
    if isinstance(prompt, list) and prompt and isinstance(prompt[-1], Mapping):
        return str(prompt[-1].get("content", ""))
    return str(prompt)


def demonstration_text(demonstration: Any) -> str:
    """The expert's text, whether the row holds it bare, in a mapping, or several of them."""
    if isinstance(demonstration, Mapping):
        return str(demonstration.get("text", demonstration))
    if isinstance(demonstration, list):
        return "\n".join(demonstration_text(one) for one in demonstration)
    return str(demonstration)


def cut(text: Any) -> str:
    """Text short enough to look at: its beginning and its end, where the answer stands."""
    shown = plain(text)
    if len(shown) <= CUT:
        return shown
    return f"{shown[: CUT - 80]} [... {len(shown) - CUT} characters ...] {shown[-80:]}"


def plain(text: Any) -> str:
    """Text on one line that cannot move the cursor or colour the terminal."""
    return "".join(_visible(c) for c in str(text).replace("\r\n", "\n").replace("\n", " ⏎ "))


def _visible(character: str) -> str:
    return character if character.isprintable() else f"\\x{ord(character):02x}"
