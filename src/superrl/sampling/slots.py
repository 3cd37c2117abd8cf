"""The key/value cache of a fixed number of slots, and attention over it.

`Prefill` and `Decode` are what transformers takes for its cache, each for one kind of forward pass; `probe` hands
them the attention of every layer.

In deterministic mode attention is two plain batched matmuls of shapes that depend on a row's own length alone. The
fused CPU kernel does not qualify: its result for a row depends on the thread that computes it.

Leaves out paging: a slot owns room for its longest sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from superrl.sampling.probe import Windows

QUERY_BLOCK = 128
"""Queries of a prefill treated at a time where the scores are materialised: bounds their memory, and the pairs that are
computed to be masked. On a CPU the fastest of 64, 128 and 256."""
SPARE_KEYS, SPARE_KEYS_ON_DEVICE = 256, 1 << 16
"""Keys of one row that cost about as much as one more call of attention: on a CPU, elsewhere."""

KeyValue = tuple[Tensor, Tensor]


def bucket(length: int, smallest: int) -> int:
    """`length` rounded up to smallest * {1, 1.5, 2, 3, 4, 6, 8, ...}: few shapes, little waste."""
    size = smallest
    while size < length:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, softcap: float | None) -> Tensor:
    """softmax(query key^T + mask) value by plain matmuls; heads that share keys are rows of one product.

    `query` [B, H, q, D] is scaled already; `mask` is additive, [B or 1, 1, 1, q or 1, L].
    """
    batch, heads, queries, _ = query.shape
    shared, length = key.shape[1], key.shape[2]
    scores = capped(torch.matmul(query.reshape(batch, shared, -1, query.shape[-1]), key.transpose(-1, -2)), softcap)
    if mask is not None:
        scores.view(batch, shared, -1, queries, length).add_(mask)
    weights = scores.softmax(-1).to(value.dtype)  # which computes in float32 whatever it is given
    return torch.matmul(weights, value).view(batch, heads, queries, value.shape[-1])


def capped(scores: Tensor, softcap: float | None) -> Tensor:
    """The scores, with a soft cap if there is one."""
    return scores if softcap is None else torch.tanh(scores.float() / softcap) * softcap


def additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """A boolean mask as the one to add to scores of this type."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -torch.inf)


class SlotCache:
    """Preallocated keys and values: per layer [slots, Hkv, capacity, D], overwritten in place, never grown by cat.

    In float32 keys lie transposed in memory: there a query times D rows of `capacity` numbers is faster on a CPU by a
    tenth to a half, below it the rows of D numbers are.
    Stale entries of earlier sequences stay in place behind the masks, so they must be finite: after a forward pass that
    was not, `clear`. Where nothing is masked (`masked`), what nobody wrote may be anything. A cache that is to `grow`
    has its memory at once, up to `room` tokens a slot.
    """

    def __init__(self, slots: int, windows: Windows, *, masked: bool = True) -> None:
        self.slots = slots
        self.windows = windows
        self.masked = masked
        self.capacity = self.room = 0
        self.epoch = 0
        """How often what it held went elsewhere: a recorded step then reads memory that is not the cache's any more."""
        self._memory: dict[int, KeyValue] = {}
        self._layers: dict[int, KeyValue] = {}

    def clear(self) -> None:
        """Forget everything."""
        self._memory, self._layers = {}, {}
        self.epoch += 1

    def reserve(self, capacity: int) -> None:
        """Make room for sequences of `capacity` tokens; if that is more than there was, what the cache held is lost."""
        if capacity > self.capacity:
            self.capacity = self.room = capacity
            self.clear()

    def begin(self, room: int, capacity: int = 0) -> None:
        """Hold nothing, with room for sequences of `capacity` tokens and memory for growing to `room`."""
        self.capacity, self.room = capacity, room
        self.clear()

    def grow(self, capacity: int) -> None:
        """Make room for sequences of `capacity` tokens; what the cache held is kept."""
        if capacity <= self.capacity:
            return
        held, self.capacity, self.room = self.capacity, capacity, max(self.room, capacity)
        self.epoch += 1
        for layer_idx, old in self._layers.items():
            shapes = [(state.shape[1], state.shape[3]) for state in old]
            kept = [state.clone() for state in old]
            new = self._layers[layer_idx] = self._laid_out(layer_idx, *shapes)
            for state, part in zip(new, kept, strict=True):
                state[:, :, :held].copy_(part)
                state[:, :, held:].zero_()

    def layer(self, layer_idx: int, key: Tensor, value: Tensor) -> KeyValue:
        """The buffers of a layer whose keys and values look like these: [..., Hkv, *, D]."""
        if layer_idx not in self._layers:
            shapes = [(state.shape[-3], state.shape[-1]) for state in (key, value)]
            sizes = [self.slots * self.room * heads * width for heads, width in shapes]
            self._memory[layer_idx] = key.new_empty(sizes[0]), value.new_empty(sizes[1])
            self._layers[layer_idx] = self._laid_out(layer_idx, *shapes)
            if self.masked:
                for state in self._layers[layer_idx]:
                    state.zero_()
        return self._layers[layer_idx]

    def held(self, layer_idx: int, slots: int) -> KeyValue:
        """The keys and values of a layer in the first slots."""
        keys, values = self._layers[layer_idx]
        return keys[:slots], values[:slots]

    def _laid_out(self, layer_idx: int, of_key: tuple[int, int], of_value: tuple[int, int]) -> KeyValue:
        """The beginning of a layer's memory as keys and values of the capacity; the shapes are (heads, width)."""
        (heads, width), (value_heads, value_width) = of_key, of_value
        keys, values = self._memory[layer_idx]
        keys = keys[: self.slots * heads * self.capacity * width]
        values = values[: self.slots * value_heads * self.capacity * value_width]
        turned = keys.dtype == torch.float32
        rows = (width, self.capacity) if turned else (self.capacity, width)
        keys = keys.view(self.slots, heads, *rows)
        values = values.view(self.slots, value_heads, self.capacity, value_width)
        return keys.transpose(-1, -2) if turned else keys, values

    def admit(self, slots: Sequence[int], source: SlotCache, slot: int, length: int) -> None:
        """Copy the first `length` entries of one slot of another cache into several of this one."""
        for _, run in groupby(enumerate(slots), key=lambda one: one[1] - one[0]):
            taken = [target for _, target in run]
            for layer_idx, states in source._layers.items():
                for buffer, state in zip(self.layer(layer_idx, *states), states, strict=True):
                    buffer[taken[0] : taken[-1] + 1, :, :length].copy_(state[slot, :, :length])

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` entries of one slot into another."""
        self.admit([target], self, source, length)


class Piece(NamedTuple):
    """`tokens` of a prefix, which stand from `start` on in `slot`; they take `width` columns of the pass, padding
    included."""

    slot: int
    start: int
    tokens: tuple[int, ...]
    width: int


@dataclass(frozen=True)
class Prefill:
    """A forward pass over pieces of prompt prefixes, side by side in one row. Each sees the keys that its slot holds
    before it, and itself causally, so that nothing ever sees padding. `fused`: by torch's kernel, where it can; on a
    CPU that takes 2.6 times as long in bfloat16 as plain products, and what it gives depends on the thread."""

    cache: SlotCache
    pieces: Sequence[Piece]
    fused: bool
    _masks: dict[tuple[int, int, int | None], Tensor] = field(default_factory=dict)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_: Any, **__: Any) -> KeyValue:
        keys, values = self.cache.layer(layer_idx, key, value)
        column = 0
        for slot, start, _tokens, width in self.pieces:
            keys[slot, :, start : start + width] = key[0, :, column : column + width]
            values[slot, :, start : start + width] = value[0, :, column : column + width]
            column += width
        return keys, values

    def attend(self, query: Tensor, key: Tensor, value: Tensor, window: int | None, softcap: float | None) -> Tensor:
        result = query.new_zeros((*query.shape[:-1], value.shape[-1]))
        column = 0
        for slot, start, _tokens, width in self.pieces:
            seen = (key[slot : slot + 1, :, : start + width], value[slot : slot + 1, :, : start + width])
            asked = query[:, :, column : column + width]
            result[:, :, column : column + width] = self._piece(asked, *seen, start, window, softcap)
            column += width
        return result

    def _piece(
        self, query: Tensor, key: Tensor, value: Tensor, start: int, window: int | None, softcap: float | None
    ) -> Tensor:
        width, length = query.shape[2], key.shape[2]
        if self.fused and softcap is None and (window is None or window >= length):
            mask = None if start == 0 else self._mask(start, width, None, query)
            key = key.contiguous()  # the fused kernel takes no transposed keys, such as there are in float32
            return scaled_dot_product_attention(
                query, key, value, mask, is_causal=start == 0, scale=1.0, enable_gqa=query.shape[1] != key.shape[1]
            )
        blocks = []
        for first in range(0, width, QUERY_BLOCK):
            last = min(first + QUERY_BLOCK, width)
            mask, end = self._mask(start + first, last - first, window, query), start + last
            blocks.append(attend(query[:, :, first:last], key[:, :, :end], value[:, :, :end], mask, softcap))
        return torch.cat(blocks, 2)

    def _mask(self, start: int, width: int, window: int | None, query: Tensor) -> Tensor:
        """[width, start + width]: what the queries from `start` on see, to be added to their scores."""
        if (start, width, window) not in self._masks:
            column = torch.arange(start + width, device=query.device)
            row = column[start:, None]
            seen = column <= row
            if window is not None:
                seen &= column > row - window
            self._masks[start, width, window] = additive(seen, query.dtype)
        return self._masks[start, width, window]


class Read(NamedTuple):
    """Attention of the rows first..last over the keys up to `length` of their slots.

    `taken` [rows, 1, 1, 1] marks the rows whose result this is; None: all of them. `least`: the fewest keys that one of
    them has; 0: nobody says.
    """

    first: int
    last: int
    length: int
    least: int
    taken: Tensor | None = None


class Beginnings(Protocol):
    """What rows have in common before the keys in their slots: `trunks.Shared`. Row i has `lengths[i]` keys in slot
    `standing[i]` of `cache`."""

    @property
    def cache(self) -> SlotCache: ...
    @property
    def lengths(self) -> Tensor: ...
    @property
    def standing(self) -> Tensor: ...

    def attend(
        self, query: Tensor, own: Tensor, layer_idx: int, window: int | None, softcap: float | None
    ) -> tuple[Tensor, Tensor]:
        """What it gives [n, Hkv, r, D] and the weights [n, Hkv, r, L] of a row's own keys, whose scores are `own`."""
        ...


@dataclass(frozen=True)
class Decode:
    """A forward pass of one token for each of the first n slots; row i's token stands at `positions[i]` of its slot,
    after what it has in common with others, if there is such a thing."""

    cache: SlotCache
    positions: Tensor
    reads: tuple[Read, ...]
    _rows: Tensor
    beginnings: Beginnings | None = None
    _layer: list[int] = field(default_factory=lambda: [0])
    """The layer at work: `update` is told, `attend` is not."""
    _masks: dict[tuple[int, int, int | None], tuple[int, Tensor | None]] = field(default_factory=dict)

    @staticmethod
    def over(cache: SlotCache, positions: Tensor, key_lengths: NDArray[np.int64], chunk: int) -> Decode:
        """Row i reads the first `key_lengths[i]` keys of its slot (0: an idle slot, no result wanted).

        Rows are read in chunks of fixed size, once for every length that occurs in the chunk, so that a result's shape
        is (chunk, own length) whoever the neighbours are, and one long row costs its own chunk only.
        """
        reads: list[Read] = []
        for first in range(0, len(key_lengths), chunk):
            part = key_lengths[first : first + chunk]
            lengths = np.unique(part[part > 0])
            for length in lengths:
                taken = torch.from_numpy(part == length).to(positions.device)[:, None, None, None]
                few = len(lengths) == 1
                reads.append(Read(first, first + len(part), int(length), 0, None if few else taken))
        return Decode(cache, positions, tuple(reads), torch.arange(len(positions), device=positions.device))

    @staticmethod
    def alone(cache: SlotCache, positions: Tensor, beginnings: Beginnings | None) -> Decode:
        """Every row by itself, as far as it goes: for a kernel that takes such rows (`native`)."""
        return Decode(cache, positions, (), positions.new_empty(0), beginnings)

    @staticmethod
    def grouped(
        cache: SlotCache,
        positions: Tensor,
        lengths: NDArray[np.int64],
        whole: int = 0,
        beginnings: Beginnings | None = None,
    ) -> Decode:
        """Every slot up to its own length, neighbours together as long as that costs less than another call. A read
        that ends less than `whole` keys before the cache does reads to its end."""
        reads: list[Read] = []
        spare = SPARE_KEYS if positions.device.type == "cpu" else SPARE_KEYS_ON_DEVICE
        first, least, most = 0, int(lengths[0]), int(lengths[0])
        for row, length in enumerate(lengths.tolist()):
            longest = max(most, length)
            if (row - first) * (longest - most) + longest - length > spare:
                reads.append(Read(first, row, cache.capacity if cache.capacity - most < whole else most, least))
                first, least, most = row, length, length
            else:
                least, most = min(least, length), longest
        reads.append(Read(first, len(lengths), cache.capacity if cache.capacity - most < whole else most, least))
        rows = torch.arange(len(positions), device=positions.device)
        return Decode(cache, positions, tuple(reads), rows, beginnings)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_: Any, **__: Any) -> KeyValue:
        keys, values = self.cache.layer(layer_idx, key, value)
        keys[self._rows, :, self.positions] = key[:, :, 0]
        values[self._rows, :, self.positions] = value[:, :, 0]
        self._layer[0] = layer_idx
        return keys, values

    def attend(self, query: Tensor, key: Tensor, value: Tensor, window: int | None, softcap: float | None) -> Tensor:
        if self.beginnings is not None:
            return self._after(self.beginnings, query, key, value, window, softcap)
        if len(self.reads) == 1 and self.reads[0].taken is None and self.reads[0][:2] == (0, len(query)):
            return self._read(self.reads[0], query, key, value, window, softcap)
        result = query.new_zeros((*query.shape[:-1], value.shape[-1]))
        for read in self.reads:
            found, part = self._read(read, query, key, value, window, softcap), result[read.first : read.last]
            part.copy_(found if read.taken is None else torch.where(read.taken, found, part))
        return result

    def _after(
        self, before: Beginnings, query: Tensor, key: Tensor, value: Tensor, window: int | None, softcap: float | None
    ) -> Tensor:
        """A row's own keys after those that it has in common with others: one softmax over both."""
        query = query.view(len(query), key.shape[1], -1, query.shape[-1])
        longest = max(read.length for read in self.reads)
        scores, seen = [], []
        for read in self.reads:
            rows, (begin, mask) = slice(read.first, read.last), self._mask(read, window, query.dtype)
            own = capped(torch.matmul(query[rows], key[rows, :, begin : read.length].transpose(-1, -2)), softcap)
            own = own if mask is None else own.add_(mask[:, :, 0])
            scores.append(pad(own, (begin, longest - read.length), value=-torch.inf))
            seen.append((rows, slice(begin, read.length)))
        found, weights = before.attend(query, torch.cat(scores), self._layer[0], window, softcap)
        for rows, columns in seen:
            found[rows] += torch.matmul(weights[rows, :, :, columns], value[rows, :, columns])
        return found.view(len(query), -1, 1, value.shape[-1])

    def _read(
        self, read: Read, query: Tensor, key: Tensor, value: Tensor, window: int | None, softcap: float | None
    ) -> Tensor:
        rows, (begin, mask) = slice(read.first, read.last), self._mask(read, window, query.dtype)
        seen = (key[rows, :, begin : read.length], value[rows, :, begin : read.length])
        return attend(query[rows], *seen, mask, softcap)

    def _mask(self, read: Read, window: int | None, dtype: torch.dtype) -> tuple[int, Tensor | None]:
        """From which key on a read looks, and what its rows do not see there; None: they see everything."""
        which = (read.first, read.length, window)
        if which not in self._masks:
            begin = 0 if window is None else max(0, read.least - window)
            column = torch.arange(begin, read.length, device=self.positions.device)
            position = self.positions[read.first : read.last, None]
            seen = column <= position
            if window is not None:
                seen &= column > position - window
            even = read.least == read.length
            self._masks[which] = begin, None if even else additive(seen, dtype)[:, None, None, None]
        return self._masks[which]
