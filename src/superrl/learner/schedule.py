"""What a stage fixes for its learner, what the learner counts, and how a batch falls into mini-batches.

Leaves out everything with weights.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from superrl.config import OptimizerConfig

MAX_REFUSED = 3
"""Steps in a row that may be refused for a gradient that is not finite, before the run stops."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """What a stage fixes for its learner: passes, mini-batches, pack size, optimizer, and how many steps there are.
    Every `streams_every` steps (0: never) the streams' gradients are also taken one by one and compared. Tokens that
    the sampler drew get a truncated importance weight of at most `importance_cap` (None: none)."""

    optimizer: OptimizerConfig
    steps: int
    epochs: int
    mini_batches: int
    max_tokens_per_pack: int
    seed: int
    streams_every: int = 0
    importance_cap: float | None = None


@dataclass(slots=True)
class Progress:
    """The learner's counters; they are checkpointed."""

    step: int = 0
    updates: int = 0
    refused: int = 0
    refused_in_a_row: int = 0


def mini_batches(n_groups: int, parts: int, key: str) -> list[set[int]]:
    """The groups of a batch in `parts` sets of (nearly) equal size, shuffled by `key` when there are several."""
    order = list(range(n_groups))
    if parts > 1:
        random.Random(f"mini-batch/{key}").shuffle(order)
    return [set(order[i::parts]) for i in range(parts) if order[i::parts]]
