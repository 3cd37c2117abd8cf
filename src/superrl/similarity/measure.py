"""One comparison as rewards make it: the similarity of a kind, and what else an agent's action shows.

A pure function of its texts, so that it does not matter which process computes it.
"""

from __future__ import annotations

from typing import NamedTuple

from superrl.similarity.mathematics import maths
from superrl.similarity.sequence import bounded_ratcliff, exact, indel
from superrl.similarity.tools import compare


class Measured(NamedTuple):
    """`value` in [0, 1]; `bounded`: Indel stood in for cost; 1.0 or 0.0 for agents: the same `tool`, the same `file`
    (None where the expert's action names none, or for what is no action of an agent)."""

    value: float
    bounded: bool = False
    tool: float | None = None
    file: float | None = None


def measure(kind: str, action: str, expert: str, *, autojunk: bool = False, agent: bool = False) -> Measured:
    """The similarity of two actions; `agent`: whether tools and files are compared besides."""
    called = compare(action, expert) if agent or kind == "tool_call" else None
    if kind == "tool_call" and called is not None:
        return Measured(*called)
    value, bounded = _texts(kind, action, expert, autojunk)
    return Measured(value, bounded, called.tool, called.file) if called else Measured(value, bounded)


def _texts(kind: str, action: str, expert: str, autojunk: bool) -> tuple[float, bool]:
    """Value and `bounded`."""
    match kind:
        case "ratcliff":
            return bounded_ratcliff(action, expert, autojunk=autojunk)
        case "indel":
            return indel(action, expert), False
        case "maths":
            return maths(action, expert), False
        case "exact":
            return exact(action, expert), False
    raise ValueError(f"no similarity {kind!r}")
