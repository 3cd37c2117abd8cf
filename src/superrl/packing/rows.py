"""Padded rows, sorted by length: the naive and exact way to put sequences through a model.

Every sequence is a row of its own, so nothing is shared; that makes it the oracle of whatever computes shared tokens
once. Rows are padded on the right and a causal model never looks to the right, so there is no padding mask to get
wrong, and padding is never recognised by its token id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


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
    """One forward's worth: `tokens` [R, L]; for each of the N trained tokens, in the order of `items` and of position:
    `source` (index of its predecessor among the R * L hidden states), `target` (token id), `sequence` (which item),
    `position` (in its item) and `temperature`. `items` are the indices of the packed sequences."""

    items: tuple[int, ...]
    tokens: Tensor
    source: Tensor
    target: Tensor
    sequence: Tensor
    position: Tensor
    temperature: Tensor
    logical: int

    def to(self, device: torch.device) -> Pack:
        """The same pack on another device."""
        if self.tokens.device == device:
            return self
        moved = {
            n: getattr(self, n).to(device)
            for n in ("tokens", "source", "target", "sequence", "position", "temperature")
        }
        return Pack(items=self.items, logical=self.logical, **moved)


def pack(sequences: Sequence[Tokens], max_tokens: int) -> list[Pack]:
    """Rows of similar length together, at most `max_tokens` padded tokens a pack; a longer sequence gets its own."""
    order = sorted(range(len(sequences)), key=lambda i: (len(sequences[i].tokens), i))
    packs: list[Pack] = []
    rows: list[int] = []
    for index in order:
        if rows and (len(rows) + 1) * len(sequences[index].tokens) > max_tokens:
            packs.append(_pad(sequences, rows))
            rows = []
        rows.append(index)
    return [*packs, _pad(sequences, rows)] if rows else packs


def _pad(sequences: Sequence[Tokens], rows: Sequence[int]) -> Pack:
    width = max(len(sequences[i].tokens) for i in rows)
    tokens = torch.zeros(len(rows), width, dtype=torch.long)
    source, target, sequence, position, temperature = [], [], [], [], []
    for row, index in enumerate(rows):
        item = sequences[index]
        tokens[row, : len(item.tokens)] = torch.tensor(item.tokens)
        trained = [t for t, mask in enumerate(item.loss_mask) if mask]
        source += [row * width + t - 1 for t in trained]
        target += [item.tokens[t] for t in trained]
        sequence += [row] * len(trained)
        position += trained
        temperature += [item.temperature] * len(trained)
    return Pack(
        items=tuple(rows),
        tokens=tokens,
        source=torch.tensor(source),
        target=torch.tensor(target),
        sequence=torch.tensor(sequence),
        position=torch.tensor(position),
        temperature=torch.tensor(temperature, dtype=torch.float32),
        logical=sum(len(sequences[i].tokens) for i in rows),
    )
