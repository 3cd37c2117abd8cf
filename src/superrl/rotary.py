"""Which rotary embeddings turn a token by its position alone, and which by the longest sequence of the batch, too.

With the latter a row's numbers depend on its neighbours, and keys of a growing row are of two kinds: no forest and no
cache may hold them.
"""

from __future__ import annotations

from typing import Any

STEADY = {"default", "linear", "llama3", "proportional", "yarn"}


def unsteady(config: Any) -> list[str]:
    """The kinds of rotary embedding of a model (by its text config; they may differ by layer type) that look at more
    than the position, such as `longrope` and `dynamic`."""
    parameters = getattr(config, "rope_parameters", None) or {}
    each = parameters.values() if all(isinstance(p, dict) for p in parameters.values()) else [parameters]
    return sorted({str(one.get("rope_type", "default")) for one in each if one} - STEADY)
