"""The template of one step: free thought inside `<think>`, then the action alone (SRL, arXiv:2510.25992 section 3).

`wrap` writes what an expert would have written; reading what a policy wrote is the gate's work. Four modes: `prefilled`
(the context already holds `<think>`, since small models never open one), `required`, `optional` and `none` (the whole
completion is the action).
"""

from __future__ import annotations

import re
from typing import Literal

Think = Literal["prefilled", "required", "optional", "none"]
OPEN, CLOSE = "<think>", "</think>"
_TAGS = re.compile(rf"[ \t]*(?:{OPEN}|{CLOSE})[ \t]*")
OPENINGS: dict[Think, str] = {"prefilled": f"{OPEN}\n", "required": "", "optional": "", "none": ""}
"""What the assistant's turn holds before the policy begins to write."""


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
