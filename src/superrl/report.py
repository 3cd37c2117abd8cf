"""What a person sees of a run: the live display, the lines of a log, the warning, and the table at the end.

`Progress` shows a bar in a terminal and prints one line a step elsewhere; `Silent` has the same verbs and says nothing.
Both hear what the loop tells them and give nothing back, so that a run computes the same under either.

Leaves out files: numbers for programs are in the run folder. The table at the end is read from there, so that a resumed
run shows the start it had before the interruption.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from superrl.config import Recipe

Row = Mapping[str, Any]
PATIENCE = 10
"""Steps without a single correct rollout before `Watch` speaks up."""


def plain_console(**options: Any) -> Console:
    """A console that prints text as it stands: no markup, no emoji codes, no colouring of numbers."""
    return Console(markup=False, emoji=False, highlight=False, **options)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file that is perhaps being written: none if it is missing, all but a line cut in half."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return [row for row in rows if isinstance(row, dict)]


def percent(value: float | None) -> str:
    """0.125 as `12.5%`, nothing computed as a dash."""
    return "-" if value is None else f"{100 * value:.1f}%"


def number(value: float | None) -> str:
    """Three digits of a number of any size, a dash for none."""
    return "-" if value is None else f"{value:.3g}"


def duration(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@dataclass(slots=True)
class Watch:
    """Speaks once, when for `patience` steps no rollout was correct, all rewards equal and no demonstration used."""

    patience: int = PATIENCE
    barren: int = 0
    groups: int = 0
    said: bool = False

    def observe(self, row: Row) -> str | None:
        """The warning, if this row is the one that calls for it."""
        helped = any(row.get(key) for key in ("reward/std", "switch/fallback_rate", "loss/sft"))
        if helped or row.get("reward/correct") != 0.0:
            self.barren, self.groups = 0, 0
            return None
        self.barren += 1
        self.groups += int(row.get("groups/drawn") or 0)
        if self.said or self.barren < self.patience:
            return None
        self.said = True
        seen = f" ({self.groups} groups)" if self.groups else ""
        return (
            f"no rollout of the last {self.barren} steps{seen} was correct and no demonstration was learnt from, so "
            "there is nothing to learn: add `demonstrations` to the data and use the method superrl, take easier "
            "problems, or raise group_size"
        )


class Listener(Protocol):
    """What the loop tells about itself; `Progress` shows it, `Silent` does not."""

    def note(self, text: str) -> None: ...
    def phase(self, name: str, total: int | None = None) -> None: ...
    def tokens(self, k: int) -> None: ...
    def step(self, row: Row, timing: Row) -> None: ...
    def evaluation(self, row: Row) -> None: ...
    def finish(self, summary: Row, run_folder: Path) -> None: ...


class Silent:
    """Hears everything, says nothing: for notebooks, tests and every rank but the first."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def note(self, text: str) -> None:
        """A line for the person."""

    def phase(self, name: str, total: int | None = None) -> None:
        """What begins now, and how many completions or sequences it is about."""

    def tokens(self, k: int) -> None:
        """That many more tokens were drawn."""

    def step(self, row: Row, timing: Row) -> None:
        """A step is done: its rows of metrics.jsonl and timing.jsonl."""

    def evaluation(self, row: Row) -> None:
        """An evaluation is done: its row of evaluations.jsonl."""

    def finish(self, summary: Row, run_folder: Path) -> None:
        """The run is done."""


@dataclass(slots=True)
class _Phase:
    """What is going on now, and how many tokens it has drawn."""

    name: str = "starting"
    total: int | None = None
    began: float = 0.0
    tokens: int = 0


@dataclass(slots=True)
class _Pace:
    """How long the last steps took, whatever happened between them."""

    last: float
    intervals: deque[float] = field(default_factory=lambda: deque(maxlen=20))

    def tick(self, now: float) -> None:
        self.intervals.append(now - self.last)
        self.last = now

    def left(self, steps: int) -> float | None:
        return None if not self.intervals else steps * sum(self.intervals) / len(self.intervals)


class Progress(Silent):
    """The live display: a bar and the last numbers in a terminal, one line a step anywhere else.

    Without a recipe it shows the current phase alone, as `superrl eval` does.
    """

    def __init__(
        self, recipe: Recipe | None = None, console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.console = console or plain_console()
        self._clock = clock
        self._total = recipe.steps if recipe else None
        self._stages = len(recipe.stages) if recipe else 1
        self._row: Row = {}
        self._timing: Row = {}
        self._validation: Row | None = None
        self._phase = _Phase(began=clock())
        self._pace = _Pace(clock())
        self._watch = Watch()
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live = Live(
                get_renderable=self._render, console=self.console, refresh_per_second=4, redirect_stdout=False,
                redirect_stderr=False, transient=True,
            )  # fmt: skip
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def note(self, text: str) -> None:
        self.console.print(Text(text, "yellow" if text.startswith("warning") else ""), soft_wrap=True)

    def phase(self, name: str, total: int | None = None) -> None:
        self._phase = _Phase(name, total, self._clock())

    def tokens(self, k: int) -> None:
        self._phase.tokens += k

    def step(self, row: Row, timing: Row) -> None:
        self._row, self._timing = row, timing
        self._pace.tick(self._clock())
        if self._live is None:
            self.note("  ".join([self._counter(), *self._numbers(), *self._speed()]))
        if warning := self._watch.observe(row):
            self.note(f"warning: {warning}")

    def evaluation(self, row: Row) -> None:
        if row["split"] == "validation" and is_judged(row):
            self._validation = row
        found = f"reward {number(row.get('reward'))}"
        if is_judged(row):
            found = f"{percent(row['accuracy'])} {interval(row['ci95'])}"
        self.note(f"step {row['step']}  {row['split']} {found}  n {row['n']}  {row['data']}")
        if not self._pace.intervals:
            self._pace.last = self._clock()

    def finish(self, summary: Row, run_folder: Path) -> None:
        self.__exit__()
        self.console.print()
        if (table := results_table(read_rows(run_folder / "evaluations.jsonl"))) is not None:
            self.console.print(table)
        for line in closing(summary, read_rows(run_folder / "metrics.jsonl"), run_folder):
            self.console.print(Text(line), soft_wrap=True)

    def _counter(self) -> str:
        of = f"/{self._total}" if self._total else ""
        stage = f" {self._row.get('stage', '')}" if self._stages > 1 else ""
        return f"step {self._row.get('step', 0)}{of}{stage}"

    def _numbers(self) -> list[str]:
        """What the last step measured; what it did not measure is left out."""
        shown = [("reward", "reward/mean", "{:.3f}".format), ("correct", "reward/correct", percent)]
        shown += [("fallback", "switch/fallback_rate", percent)]
        shown = shown if self._row.get("reward/mean") is not None else [("loss", "loss", number)]
        return [f"{name} {show(self._row[key])}" for name, key, show in shown if self._row.get(key) is not None]

    def _speed(self) -> list[str]:
        parts = []
        rate = self._timing.get("tokens_per_second/generated") or self._timing.get("tokens_per_second/trained")
        if rate is not None:
            parts.append(f"{rate:.0f} tok/s")
        if (left := self._left()) is not None:
            parts.append(f"left {duration(left)}")
        return parts

    def _left(self) -> float | None:
        return None if self._total is None else self._pace.left(self._total - int(self._row.get("step", 0)))

    def _now(self) -> str:
        """The phase in words: `rolling out 256 · 12,345 tokens, 1,204 tok/s`."""
        phase, seconds = self._phase, self._clock() - self._phase.began
        drawn = f" · {phase.tokens:,} tokens, {phase.tokens / max(seconds, 1e-3):,.0f} tok/s" if phase.tokens else ""
        return f"{phase.name}{f' {phase.total}' if phase.total else ''}{drawn} · {duration(seconds)}"

    def _render(self) -> Group:
        now = Text(self._now(), "dim", no_wrap=True, overflow="ellipsis")
        if self._total is None:
            return Group(now)
        done = int(self._row.get("step", 0))
        left = self._left()
        top = Table.grid(padding=(0, 1), expand=True)
        top.add_column(no_wrap=True)
        top.add_column(ratio=1)
        top.add_column(no_wrap=True, justify="right")
        bar = ProgressBar(total=max(self._total, 1), completed=done)
        top.add_row(Text(self._counter(), "bold"), bar, Text("" if left is None else f"{duration(left)} left"))
        numbers = self._numbers()
        if self._validation is not None:
            numbers.append(f"validation {percent(self._validation['accuracy'])} at step {self._validation['step']}")
        lines = [Text("  ".join(numbers), no_wrap=True, overflow="ellipsis")] if numbers else []
        return Group(top, *lines, now)


def is_judged(evaluation: Row) -> bool:
    """Whether the reward says what is correct; without, an evaluation has a mean reward and no accuracy."""
    return evaluation.get("accuracy") is not None


def interval(ci95: Sequence[float] | None) -> str:
    """A 95 % interval in percent: `[11.2, 14.0]`."""
    return "" if ci95 is None else f"[{100 * ci95[0]:.1f}, {100 * ci95[1]:.1f}]"


def results_table(evaluations: Iterable[Row]) -> Table | None:
    """Accuracy of every test set at the start and at the end, with 95 % intervals; None if none was evaluated.

    Where the reward judges nothing, the mean reward stands in its place.
    """
    runs: dict[str, list[Row]] = {}
    for row in evaluations:
        if row.get("split") == "test":
            runs.setdefault(str(row.get("data")), []).append(row)
    if not runs:
        return None
    table = Table(title="test accuracy in %, with 95 % intervals", title_justify="left", title_style="bold", box=None,
                  padding=(0, 2, 0, 0))  # fmt: skip
    table.add_column("test set", overflow="fold", ratio=1)
    for name in ("n", "start", "end"):
        table.add_column(name, justify="right", no_wrap=True)
    for data, rows in runs.items():
        first, last = rows[0], rows[-1]
        ended = last is not first
        table.add_row(Text(data), str(first["n"]), _accuracy(first), _accuracy(last) if ended else "-")
    return table


def _accuracy(row: Row) -> str:
    if not is_judged(row):
        return f"reward {number(row['reward'])}"
    return f"{100 * row['accuracy']:.1f} {interval(row['ci95'])}"


def closing(summary: Row, metrics: Sequence[Row], run_folder: Path) -> list[str]:
    """The lines under the table: what the switch did, what it cost, where everything lies, what to try next."""
    lines = [""]
    rolled = [row for row in metrics if row.get("switch/solved_rate") is not None]
    if rates := [row["switch/fallback_rate"] for row in rolled if row.get("switch/fallback_rate") is not None]:
        tenth = max(1, len(rates) // 10)
        first, last = sum(rates[:tenth]) / tenth, sum(rates[-tenth:]) / tenth
        lines.append(f"groups that fell back on a demonstration: {percent(first)} at first, {percent(last)} at the end")
    cost = [f"{summary['steps']} steps"] if "steps" in summary else []
    if "wall_seconds" in summary:
        cost.append(f"{duration(summary['wall_seconds'])} wall time")
    if generated := (summary.get("tokens") or {}).get("generated"):
        cost.append(f"{generated:,.0f} tokens generated")
    return [
        *lines, ", ".join(cost), "",
        f"run folder  {run_folder}",
        f"look at it  superrl show {run_folder}",
        f"open it     {run_folder}/report.html",
        f"repeat it   superrl train {run_folder}/config.yaml --out NEW_FOLDER",
        f"use it      superrl export {run_folder} MODEL_FOLDER",
    ]  # fmt: skip
