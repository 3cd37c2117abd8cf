"""What a run's rows say about an expert's steps: the reward of every step of every trajectory in the first and the last
half of the run, how often the format gate refused and why, and one completion taken apart.

A problem of visits.jsonl is a step if its id is TRAJECTORY/step-K; a row of rollouts.jsonl if its `meta` names a
trajectory. Rewards are those of the policy's own rollouts, groups that dynamic sampling discarded included.
Leaves out drawing (`steppage.py`, `show.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from superrl.raster import settled
from superrl.steps import meta
from superrl.steps.think import CLOSE, OPEN

Row = Mapping[str, Any]
Place = tuple[str, int]
"""A trajectory's name and which of its steps, from 1."""

NAMED = re.compile(r"(.+)/step-(\d+)", re.DOTALL)
REASON = "format/"
WEIGHTED = "step_similarity/"
"""What stands before the parts of a score where the reward is one of several."""
TOLD = {
    "no_think": "no thought at the beginning",
    "think_twice": "thought twice",
    "unclosed": "thought never closed",
    "empty_action": "no action after the thought",
    "two_steps": "the following step as well",
    "cut": "cut off by the length limit",
}
"""The reasons of the format gate in words; one that is not here stands as it is."""


@dataclass(frozen=True, slots=True)
class Rolled:
    """The policy's own rollouts of one visit to a step, by their rewards; `at` is the step of the training."""

    place: Place
    at: int
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Cell:
    """One step of one trajectory over a part of the run: how often it was visited, how many rollouts, their rewards."""

    visits: int
    rollouts: int
    total: float

    @property
    def mean(self) -> float:
        """The mean reward of the rollouts."""
        return self.total / self.rollouts


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the run: its name, and what became of every step that was visited in it."""

    name: str
    cells: Mapping[Place, Cell]


@dataclass(frozen=True, slots=True)
class Proposal:
    """A completion of a step instance: the thought (None: there is none), the action, why the gate refused it."""

    thought: str | None
    action: str
    reason: str | None


def place(problem_id: object) -> Place | None:
    """Which step of which trajectory a problem is; None for any other problem.

    >>> place("algebra-12/step-3"), place("algebra-12")
    (('algebra-12', 3), None)
    """
    found = NAMED.fullmatch(str(problem_id))
    return (found[1], int(found[2])) if found else None


def is_step(row: Row) -> bool:
    """Whether a row of rollouts.jsonl is of a step."""
    return meta.is_step(row.get("meta") or {})


def rolled(rows: Iterable[Row]) -> list[Rolled]:
    """The visits to steps that have rollouts of the policy's own, from rows of visits.jsonl, a group carried over by
    dynamic sampling once."""
    found = []
    for row in settled(rows):
        where = place(row["problem_id"])
        if where is not None and row["n"]:
            found.append(Rolled(where, row["step"], tuple(row["values"][: row["n"]])))
    return found


def parts(visits: Sequence[Rolled]) -> list[Part]:
    """The first and the last half of the training steps in which steps were rolled out; one part if it was one step."""
    steps = sorted({visit.at for visit in visits})
    half = len(steps) // 2
    split = steps[half] if steps else 0
    return [
        Part(between("step", some), cells(visit for visit in visits if (visit.at < split) == early))
        for some, early in ((steps[:half], True), (steps[half:], False))
        if some
    ]


def between(what: str, numbers: Sequence[int]) -> str:
    """`steps 1-30`, or `step 7` of one."""
    return f"{what} {numbers[0]}" if len(numbers) == 1 else f"{what}s {numbers[0]}-{numbers[-1]}"


def cells(visits: Iterable[Rolled]) -> dict[Place, Cell]:
    """Every step of every trajectory with its visits summed up."""
    listed: dict[Place, list[tuple[float, ...]]] = {}
    for visit in visits:
        listed.setdefault(visit.place, []).append(visit.values)
    return {where: Cell(len(all_), sum(map(len, all_)), sum(map(sum, all_))) for where, all_ in listed.items()}


def pooled(found: Iterable[Cell]) -> Cell | None:
    """Several cells as one; None for none."""
    listed = list(found)
    if not listed:
        return None
    return Cell(sum(c.visits for c in listed), sum(c.rollouts for c in listed), sum(c.total for c in listed))


def by_step(part: Part, first: int, last: int) -> Cell | None:
    """The steps `first` to `last` of all trajectories."""
    return pooled(cell for (_, step), cell in part.cells.items() if first <= step <= last)


def by_range(found: Sequence[Part], rows: int) -> list[tuple[str, int, list[float | None]]]:
    """By step of the trajectories, or by range of steps where there are more than `rows`, and for all together: a name,
    the visits, and the mean reward in every part (None: not visited)."""
    last = max(step for part in found for _, step in part.cells)
    width = -(-last // rows)
    ranges = [(first, min(first + width - 1, last)) for first in range(1, last + 1, width)]
    told = [(between("step", range(first, end + 1)), first, end) for first, end in ranges]
    if len(told) > 1:
        told.append(("all", 1, last))
    listed = []
    for name, first, end in told:
        each = [by_step(part, first, end) for part in found]
        listed.append(
            (name, sum(cell.visits for cell in each if cell), [None if cell is None else cell.mean for cell in each])
        )
    return listed


def learnt(found: Sequence[Part]) -> str:
    """What became of the steps that were visited in both halves, in a sentence: nothing else compares like with like.

    The mean is over steps, every step counting once.
    """
    if len(found) < 2:
        return "All rollouts are of one training step, so there is no change to see."
    first, last = found[0].cells, found[-1].cells
    both = first.keys() & last.keys()
    if not both:
        return "No step was visited in both halves of the run, so the halves show different steps."
    means = [sum(cells_[where].mean for where in sorted(both)) / len(both) for cells_ in (first, last)]
    better = sum(last[where].mean > first[where].mean for where in both)
    worse = sum(last[where].mean < first[where].mean for where in both)
    return (
        f"Of the {len(both):,} steps visited in both halves the mean reward went from {means[0]:.3f} to "
        f"{means[1]:.3f}: higher for {better:,}, lower for {worse:,}."
    )


def refusals(metrics: Sequence[Row], window: int = 10) -> list[tuple[str, float, float]]:
    """Every reason for which the gate refused some rollout, in words, with the share of the rollouts that it refused in
    the first and in the last `window` steps that were scored; the most frequent first."""
    keys = dict.fromkeys(key for row in metrics for key in row if key.startswith(f"score/{REASON}"))
    found = []
    for key in keys:
        values = [row[key] for row in metrics if row.get(key) is not None]
        if any(values):
            ends = [sum(part) / len(part) for part in (values[:window], values[-window:])]
            found.append((sum(values), in_words(key.removeprefix(f"score/{REASON}")), *ends))
    return [(name, start, end) for _, name, start, end in sorted(found, key=lambda entry: (-entry[0], entry[1]))]


def ends(metrics: Sequence[Row], key: str, window: int = 10) -> tuple[float, float] | None:
    """The means of a metric over the first and the last `window` steps that have it; None if none has."""
    values = [row[key] for row in metrics if row.get(key) is not None]
    if not values:
        return None
    first, last = values[:window], values[-window:]
    return sum(first) / len(first), sum(last) / len(last)


def in_words(reason: str) -> str:
    """A reason of the gate for a person."""
    return TOLD.get(reason, reason.replace("_", " "))


def unwrapped(metrics: Sequence[Row]) -> list[Row]:
    """Rows of metrics.jsonl whose parts of the step reward have their own names also where it is one of several."""
    inner = f"score/{WEIGHTED}"
    return [
        {f"score/{key.removeprefix(inner)}" if key.startswith(inner) else key: value for key, value in row.items()}
        for row in metrics
    ]


def parts_of(completion: Row) -> dict[str, float]:
    """The parts of a completion's score, those of the step reward by their own names."""
    found = (completion.get("score") or {}).get("parts") or {}
    return {key.removeprefix(WEIGHTED): value for key, value in found.items() if value is not None}


def reason(completion: Row) -> str | None:
    """Why the gate refused a completion of rollouts.jsonl, as its score says; None if it passed or was not judged."""
    found = parts_of(completion)
    return next((key.removeprefix(REASON) for key, value in found.items() if key.startswith(REASON) and value), None)


def proposal(completion: Row, think: str) -> Proposal:
    """Thought and action of a completion of rollouts.jsonl. A thought that is never closed has no action after it."""
    text, why = str(completion.get("text")), reason(completion)
    begun = think == "prefilled" or (think != "none" and text.lstrip().startswith(OPEN))
    if not begun:
        return Proposal(None, text.strip(), why)
    thought, _, action = (text if think == "prefilled" else text.lstrip().removeprefix(OPEN)).partition(CLOSE)
    return Proposal(thought.strip(), action.strip(), why)


def headline(row: Row) -> str:
    """`step 3 of 7: Factor the cubic` of a row of rollouts.jsonl; for an agent the tool stands in for the title."""
    facts = row["meta"]
    of = f" of {facts['steps']}" if "steps" in facts else ""
    about = facts.get("title") or facts.get("tool")
    return f"step {facts['step']}{of}" + (f": {about}" if about else "")
