"""Whether a problem is one step of an expert's trajectory, which its `meta` says.

Data sets have columns of their own called `trajectory` (a list of messages, say) or `step`: only a name and a number
make a step. Leaves out who writes them (`superrl.data.instances`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def is_step(meta: Mapping[str, Any]) -> bool:
    """Whether `trajectory` is a name and `step` a whole number.

    >>> is_step({"trajectory": "a", "step": 2}), is_step({"trajectory": [], "step": 2})
    (True, False)
    """
    step = meta.get("step")
    return isinstance(meta.get("trajectory"), str) and isinstance(step, int) and not isinstance(step, bool)
