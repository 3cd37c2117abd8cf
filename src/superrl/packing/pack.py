"""A pack: one forward's worth of sequences, in a form that does not say how they were laid out.

Two layouts make packs: `rows` (one padded row a sequence, the naive oracle) and `forest` (every distinct prefix once).
What the learner needs of either is the same: which tokens to put through the model, from which hidden state each
trained token is predicted, and which token of which sequence that is. Leaves out losses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from superrl.packing.attention import Forest


class Tokens(Protocol):
    """What can be packed: a sample or a trajectory."""

    @property
    def tokens(self) -> tuple[int, ...]: ...
    @property
    def loss_mask(self) -> tuple[bool, ...]: ...
    @property
    def temperature(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Pack:
    """`tokens` [R, L] go through the model; `items` are the indices of the packed sequences.

    The E distinct edges are what the head computes: edge e predicts token `target[e]` from hidden state `source[e]` (an
    index among the R * L) at `temperature[e]`. The N trained tokens, in the order of `items` and of position: token i
    is edge `edge[i]`, and stands at `position[i]` of sequence `items[sequence[i]]`. `logical` counts the tokens of all
    sequences, `computed` those that go through the model, padding of rows included, what `steady` adds not. `forest` is
    None where rows share nothing.
    """

    items: tuple[int, ...]
    tokens: Tensor
    source: Tensor
    target: Tensor
    temperature: Tensor
    edge: Tensor
    sequence: Tensor
    position: Tensor
    logical: int
    forest: Forest | None = None

    @property
    def computed(self) -> int:
        """Tokens through the model."""
        return self.tokens.numel()

    @property
    def arguments(self) -> dict[str, Any]:
        """What the model's trunk is called with. A forest's one row has nodes at its end on a CPU that stand for
        nothing (`steady`): they see nothing, and nothing sees them."""
        if self.forest is None:
            return {"input_ids": self.tokens, "use_cache": False}
        spare = steady(self.computed) - self.computed if self.tokens.device.type == "cpu" else 0
        tokens, depth = (pad(one, (0, spare)) for one in (self.tokens, self.forest.depth[None]))
        return {"input_ids": tokens, "position_ids": depth, "use_cache": False, "forest": self.forest}

    def to(self, device: torch.device) -> Pack:
        """The same pack on another device."""
        if self.tokens.device == device:
            return self
        names = ("tokens", "source", "target", "temperature", "edge", "sequence", "position")
        moved = {name: getattr(self, name).to(device) for name in names}
        forest = None if self.forest is None else self.forest.to(device)
        return Pack(items=self.items, logical=self.logical, forest=forest, **moved)


Packer = Callable[[Sequence[Tokens], int], list[Pack]]
"""`packer(sequences, max_tokens)`: a sequence is never cut, one longer than `max_tokens` gets its own pack, one without
a trained token is in none."""


def steady(rows: int) -> int:
    """`rows` rounded up by a sixteenth at most, or to a multiple of 8. oneDNN writes code for products of every number
    of rows that it meets, a third of a megabyte each, and forgets none: a run whose packs all have other lengths would
    grow for hundreds of steps.

    >>> steady(3), steady(781), steady(3170)
    (8, 800, 3200)
    """
    step = max(8, 1 << max(0, rows.bit_length() - 5))
    return -(-rows // step) * step


def trained_positions(sequence: Tokens) -> list[int]:
    """Where the tokens stand that may be trained."""
    return [t for t, trained in enumerate(sequence.loss_mask) if trained]
