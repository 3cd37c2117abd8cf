"""What an importer is: a format's name, how its rows look, and how one becomes a problem with a stepped demonstration.

An importer never raises on a trajectory: what it cannot use it gives back as a `Drop` with its reason. Leaves out
contexts, targets and templates (`superrl.data.instances`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from superrl.data.files import Row
from superrl.records import Problem

Parser = Literal["auto", "titled", "hash-step", "step", "numbered", "sentences", "lines"]


class Drop(NamedTuple):
    """A trajectory, or one turn of it, that is left out: where it stands and why, in a word or two (`unresolved`)."""

    where: str
    reason: str


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """`parser`: how written solutions are cut; `unresolved`: keep trajectories that did not solve their task; `submit`:
    keep the closing step that only hands the work in."""

    parser: Parser = "auto"
    unresolved: bool = False
    submit: bool = True


class Format(NamedTuple):
    """`looks_like` decides by the columns of a file's first rows; `convert` gives, for every row in order, problems
    with one demonstration cut into steps, and drops. A dropped turn leaves the rest of its trajectory standing."""

    name: str
    about: str
    looks_like: Callable[[Sequence[Row]], bool]
    convert: Callable[[Row, ImportOptions], Iterable[Problem | Drop]]
