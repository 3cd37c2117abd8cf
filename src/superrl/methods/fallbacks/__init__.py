"""Every fallback by name: what to do with a prompt whose rollouts all failed is one option of `superrl`.

A file in this folder that defines a `Fallback` with a `name` is one. A recipe says `fallback: NAME`, or
`fallback: {name: NAME, ...}` with the fallback's own options.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from superrl.complaint import explain
from superrl.errors import UserError, nearest
from superrl.methods.discover import named_classes
from superrl.methods.fallbacks.base import Fallback, Lesson, Surroundings

__all__ = ["FALLBACKS", "Fallback", "Lesson", "Surroundings", "find_fallback"]

FALLBACKS: dict[str, type[Fallback]] = named_classes(__name__, __path__, Fallback)


def find_fallback(wanted: str | Mapping[str, Any], around: Surroundings, gate: str = "reward") -> Fallback:
    """The fallback that `fallback:` names, with its options checked; `gate` is what closes on a group."""
    values = {"name": wanted} if isinstance(wanted, str) else dict(wanted)
    name = values.pop("name", None)
    if name not in FALLBACKS:
        raise UserError(f"method.fallback: no fallback {name!r}; {nearest(str(name), FALLBACKS)}")
    kind = FALLBACKS[str(name)]
    try:
        options = kind.Options.model_validate(values)
    except ValidationError as error:
        raise UserError(explain(error, kind.Options, "method.fallback")) from None
    if kind.for_failures and gate != "reward":
        raise UserError(
            f"method.fallback: {name} learns from groups on which nothing was earned, and the {gate} gate closes on "
            "others too: use gate: reward, or fallback: sft"
        )
    return kind(options, around)
