"""Beginnings that several rows have in common: held once, and read together.

Drawing a token reads all keys and values of a row. Those of a prompt are the same for all of its completions, so its
trunk answers the queries of all rows that stand on it in one product (our own kernel, `native`, reads it for one row
after the other, from the processor's cache); only what a row has drawn is its own. A step of SRL draws several rollouts
after a context of thousands of tokens: there it is most of the time.

Leaves out what a row reads alone (`slots.Decode`), and rows that are to be bit-equal whoever stands beside them: what
a product gives depends on how many rows there are.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from superrl.sampling.probe import Windows
from superrl.sampling.slots import SlotCache, additive, capped

Prefix = tuple[int, ...]


@dataclass(frozen=True)
class Shared:
    """What the n rows of a pass read of G trunks. Each has R seats: `rows` [G * R] are the rows in them (0 where nobody
    sits), and `seats` [n] where a row sits. Its trunk `standing[i]` has `lengths[i]` tokens, its own one stands at
    `positions[i]`."""

    cache: SlotCache
    trunks: int
    rows: Tensor
    seats: Tensor
    standing: Tensor
    lengths: Tensor
    positions: Tensor
    _masks: dict[int | None, Tensor] = field(default_factory=dict)

    def attend(
        self, query: Tensor, own: Tensor, layer_idx: int, window: int | None, softcap: float | None
    ) -> tuple[Tensor, Tensor]:
        """One softmax over the trunk and what is a row's own: what the trunk gives [n, Hkv, r, D], and the weights
        [n, Hkv, r, L] of the rest. `query` [n, Hkv, r, D], `own` its scores [n, Hkv, r, L]."""
        key, value = self.cache.held(layer_idx, self.trunks)
        scores = capped(self._seated(query) @ key.transpose(-1, -2), softcap)
        seats = scores.view(*scores.shape[:2], -1, query.shape[2], scores.shape[-1])
        seats.add_(self._mask(window, scores.dtype))
        weights = torch.cat([scores, self._seated(own)], -1).softmax(-1).to(value.dtype)
        shared, rest = weights.split([scores.shape[-1], own.shape[-1]], -1)
        return self._of_rows(shared @ value), self._of_rows(rest)

    def _mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """[G, 1, R, 1, P], to be added to the scores."""
        if window not in self._masks:
            column = torch.arange(self.cache.capacity, device=self.rows.device)
            seen = column < self.lengths[self.rows, None]
            if window is not None:
                seen &= column > self.positions[self.rows, None] - window
            self._masks[window] = additive(seen, dtype).view(self.trunks, 1, -1, 1, len(column))
        return self._masks[window]

    def _seated(self, one: Tensor) -> Tensor:
        """[n, Hkv, r, X] -> [G, Hkv, R * r, X]: the rows of a trunk side by side."""
        _, shared, together, size = one.shape
        seated = one.index_select(0, self.rows).view(self.trunks, -1, shared, together, size).transpose(1, 2)
        return seated.reshape(self.trunks, shared, -1, size)

    def _of_rows(self, one: Tensor) -> Tensor:
        """The way back."""
        trunks, shared, _, size = one.shape
        seats = len(self.rows) // trunks
        return one.reshape(trunks, shared, seats, -1, size).transpose(1, 2).flatten(0, 1).index_select(0, self.seats)


class Trunks:
    """The trunks that rows stand on now, the first slots of a cache."""

    def __init__(self, windows: Windows, most: int, capacity: int, *, masked: bool = True) -> None:
        self.cache = SlotCache(most, windows, masked=masked)
        self.cache.reserve(capacity)
        self._prefixes: list[Prefix] = []
        self._standing: list[int] = []

    def join(self, prefix: Prefix, rows: int, source: SlotCache, slot: int) -> int:
        """The number of the trunk on which so many rows more stand; a new one is copied from another cache's slot."""
        if prefix in self._prefixes:
            number = self._prefixes.index(prefix)
        else:
            number = len(self._prefixes)
            self.cache.admit([number], source, slot, len(prefix))
            self._prefixes.append(prefix)
            self._standing.append(0)
        self._standing[number] += rows
        return number

    def leave(self, number: int, numbers: NDArray[np.int64]) -> None:
        """A row leaves its trunk; if it was the last one, the last trunk takes its place, in `numbers` too."""
        self._standing[number] -= 1
        if self._standing[number]:
            return
        last = len(self._prefixes) - 1
        if number != last:
            self.cache.move(last, number, len(self._prefixes[last]))
            self._prefixes[number], self._standing[number] = self._prefixes[last], self._standing[last]
            numbers[numbers == last] = number
        self._prefixes.pop()
        self._standing.pop()

    def read(self, numbers: NDArray[np.int64], positions: Tensor) -> Shared:
        """What rows on these trunks read, whose own tokens stand at `positions` [n]."""
        counts = np.bincount(numbers, minlength=len(self._prefixes))
        seats, order = np.empty_like(numbers), np.argsort(numbers, kind="stable")
        first = np.arange(len(counts)) * counts.max() - (np.cumsum(counts) - counts)
        seats[order] = np.arange(len(numbers)) + np.repeat(first, counts)
        rows = np.zeros(len(counts) * int(counts.max()), dtype=np.int64)
        rows[seats] = np.arange(len(numbers))
        lengths = np.array([len(prefix) for prefix in self._prefixes])[numbers]
        seated, seat, standing, length = (
            torch.from_numpy(one).to(positions.device) for one in (rows, seats, numbers.copy(), lengths)
        )
        return Shared(self.cache, len(counts), seated, seat, standing, length, positions)
