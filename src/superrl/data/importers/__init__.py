"""Trajectories from anybody's file: `load_trajectories("run.traj")` reads, recognises and cuts into steps.

A trajectory comes out as a `Problem` with one `Demonstration` that has steps, named as nobody else in the file; what
cannot be used is dropped and counted by its reason, and no row stops the others. Leaves out contexts and targets
(`superrl.data.instances`) and writing files (`superrl.trajectories`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, field, replace

from superrl.data.files import Row, read_rows
from superrl.data.importers.agents import AGENT_FORMATS, whole
from superrl.data.importers.base import Drop, Format, ImportOptions, Parser
from superrl.data.importers.solutions import MESSAGES, OWN, SOLUTION_FORMATS, cut
from superrl.errors import UserError, nearest
from superrl.records import Problem

FORMATS: dict[str, Format] = {
    format.name: format for format in (OWN, *SOLUTION_FORMATS, *AGENT_FORMATS, MESSAGES)
}  # fmt: skip
"""Every format by its name, in the order in which they are asked whether a file is theirs."""

LOOK = 20
"""So many rows of a file are looked at to recognise it."""
EXAMPLES = 3


@dataclass(slots=True)
class Drops:
    """How many were dropped by reason, and where the first of each stand."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, drop: Drop) -> None:
        """Count one."""
        self.counts[drop.reason] += 1
        places = self.examples.setdefault(drop.reason, [])
        if len(places) < EXAMPLES:
            places.append(drop.where)


@dataclass(frozen=True, slots=True)
class Imported:
    """A file's trajectories: the name of its format, how many rows it has, the problems in order, what was dropped."""

    format: str
    rows: int
    problems: tuple[Problem, ...]
    drops: Drops


def recognise(rows: Sequence[Row]) -> Format | None:
    """The format whose rows these look like; None if it is none we know."""
    shown = rows[:LOOK]
    return next((format for format in FORMATS.values() if format.looks_like(shown)), None)


def load_trajectories(name: str, format: str = "auto", options: ImportOptions | None = None) -> Imported:
    """All trajectories of a file that `read_rows` reads; `format` is a name in FORMATS, or to be recognised."""
    if format != "auto" and format not in FORMATS:
        raise UserError(f"there is no format {format!r}: {nearest(format, ['auto', *FORMATS])}")
    rows = whole(read_rows(name))
    chosen = recognise(rows) if format == "auto" else FORMATS[format]
    if chosen is None:
        columns = ", ".join(sorted(map(str, rows[0].values))[:8]) or "none"
        raise UserError(
            f"{name} looks like no file of trajectories superrl knows (columns {columns}): name its format, one of "
            f"{', '.join(FORMATS)}, or write rows with `prompt` and `demonstrations`"
        )
    drops = Drops()
    problems = tuple(_named(_usable(rows, chosen, options or ImportOptions(), drops)))
    return Imported(chosen.name, len(rows), problems, drops)


def _usable(rows: Sequence[Row], format: Format, options: ImportOptions, drops: Drops) -> Iterator[Problem]:
    for row in rows:
        for found in format.convert(row, options):
            if isinstance(found, Drop):
                drops.add(found)
            elif _is_text(found):
                yield found
            else:
                drops.add(Drop(row.where, "malformed"))


def _is_text(problem: Problem) -> bool:
    """Whether all of it can be written as UTF-8: half a surrogate pair would stop the tokenizer much later."""
    steps = [part for demonstration in problem.demonstrations for step in demonstration.steps for part in astuple(step)]
    texts = [demonstration.text for demonstration in problem.demonstrations]
    prompts = [message["content"] for message in problem.messages]
    try:
        "".join([problem.id, problem.answer or "", problem.opening, *prompts, *texts, *steps]).encode()
    except UnicodeEncodeError:
        return False
    return True


def _named(problems: Iterator[Problem]) -> Iterator[Problem]:
    """Each under a name of its own: a second solution of one problem is NAME-2. Chats are marked, as in `data.rows`."""
    seen: Counter[str] = Counter()
    for problem in problems:
        name = problem.id
        while seen[name]:
            seen[problem.id] += 1
            name = f"{problem.id}-{seen[problem.id]}"
        seen[name] += 1
        chat = [message["role"] for message in problem.messages] != ["user"]
        yield replace(problem, id=name, meta={**problem.meta, **({"conversational": True} if chat else {})})


__all__ = ["FORMATS", "Drops", "ImportOptions", "Imported", "Parser", "cut", "load_trajectories", "recognise"]
