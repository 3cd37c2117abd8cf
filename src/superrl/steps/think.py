"""The template of one step: free thought inside `<think>`, then the action alone (SRL, arXiv:2510.25992 section 3).

`wrap` writes what an expert would have written, `split` reads what a policy wrote; what is wrong with it is the gate's
question. Four modes: `prefilled` (the context already holds `<think>`, since small models never open one), `required`,
`optional` and `none` (the whole completion is the action).
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

Think = Literal["prefilled", "required", "optional", "none"]
OPEN, CLOSE = "<think>", "</think>"
_TAGS = re.compile(rf"[ \t]*(?:{OPEN}|{CLOSE})[ \t]*")
OPENINGS: dict[Think, str] = {"prefilled": f"{OPEN}\n", "required": "", "optional": "", "none": ""}
"""What the assistant's turn holds before the policy begins to write."""


class Parts(NamedTuple):
    """A completion taken apart; `thought` is None where it holds no complete block of thought at its beginning."""

    thought: str | None
    action: str


def wrap(action: str, think: Think, thought: str = "") -> str:
    """The completion of an expert who thinks `thought` and then takes `action`; without a thought, `optional` has none.

    The two tags are taken out of the thought, since the gate refuses a second one; a space stands for each, so that no
    new one comes about.

    >>> wrap("x = 2", "prefilled", "Halve it.")
    'Halve it.\\n</think>\\n\\nx = 2'
    >>> wrap("x = 2", "none", "Halve it.")
    'x = 2'
    """
    thought = _TAGS.sub(" ", thought).strip()
    if think == "none" or (think == "optional" and not thought):
        return action
    block = f"{thought}\n{CLOSE}\n\n{action}" if thought else f"{CLOSE}\n\n{action}"
    return block if think == "prefilled" else f"{OPEN}\n{block}"


def split(completion: str, think: Think) -> Parts:
    """Thought and action, the action without the white space around it.

    >>> split("Halve it.</think>x = 2", "prefilled")
    Parts(thought='Halve it.', action='x = 2')
    """
    if think == "none":
        return Parts(None, completion.strip())
    text = OPEN + completion if think == "prefilled" else completion.lstrip()
    thought, closed, action = text.partition(CLOSE)
    if not closed or not text.startswith(OPEN):
        return Parts(None, completion.strip())
    return Parts(thought.removeprefix(OPEN).strip(), action.strip())
