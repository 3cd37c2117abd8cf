"""How alike two actions are, as a number in [0, 1]: what step rewards are made of. The action comes first, then the
expert's.

`ratcliff` (SRL's own), `indel`, `exact`: characters (`sequence`). `maths`: numbers and formulas (`mathematics`).
`tool_call`: what an agent's environment would be asked to do (`tools`). `blocks` are the matched spans, for people.

Pure functions on text; no torch, no files, no processes. docs/similarity.md says which to take.
"""

from collections.abc import Callable

from superrl.similarity.calls import Call, parse_calls, render_call
from superrl.similarity.mathematics import maths
from superrl.similarity.measure import Measured, measure
from superrl.similarity.sequence import blocks, bounded_ratcliff, exact, indel, ratcliff
from superrl.similarity.tools import tool_call

__all__ = [
    "KINDS",
    "Call",
    "Measured",
    "blocks",
    "bounded_ratcliff",
    "exact",
    "indel",
    "maths",
    "measure",
    "parse_calls",
    "ratcliff",
    "render_call",
    "tool_call",
]

KINDS: dict[str, Callable[[str, str], float]] = {
    "ratcliff": ratcliff,
    "indel": indel,
    "maths": maths,
    "tool_call": tool_call,
    "exact": exact,
}
"""The similarities by name; `ratcliff` at whatever it costs (rewards take `bounded_ratcliff`)."""
