"""The table of a peer's results beside ours: largest relative difference of values and gradients. NumPy only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Theirs = Mapping[str, tuple[Any, Any]]
"""Name of a result of ours -> (the peer's value, its gradient or None), as arrays."""


def load(path: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(inputs, our results) of the file that `ours.py` wrote."""
    held = dict(np.load(path))
    return (
        {name.removeprefix("in/"): array for name, array in held.items() if name.startswith("in/")},
        {name: array for name, array in held.items() if not name.startswith("in/")},
    )


def difference(a: Any, b: Any) -> float:
    """max |a - b| / max |b|."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-300))


def table(ours: Mapping[str, np.ndarray], theirs: Theirs, function: Callable[[str], str]) -> str:
    """Markdown: one row a result."""
    lines = ["| result | peer's function | value | gradient |", "|---|---|---|---|"]
    for name, (value, gradient) in theirs.items():
        own = name.partition(" [")[0]
        cells = [f"{difference(value, ours[own]):.1e}"]
        cells.append("" if gradient is None else f"{difference(gradient, ours[f'{own}@grad']):.1e}")
        lines.append(f"| {name} | `{function(name)}` | {' | '.join(cells)} |")
    return "\n".join(lines)
