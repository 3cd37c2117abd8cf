"""The key/value cache of a fixed number of slots, and the attention of any transformers model over it.

A model is served without a line of its own architecture: transformers hands every layer's keys and values to the cache
object given as `past_key_values`, and computes attention with the function registered under the name in its config.
`Prefill` and `Decode` are such cache objects, each for one kind of forward pass; `slot_attention` is that function, and
it asks the pass object, which travels through the model as the keyword `slot_pass`.

In deterministic mode attention is two plain batched matmuls of shapes that depend on a row's own length alone. The
fused CPU kernel does not qualify: its result for a row depends on the thread that computes it.

Leaves out paging: a slot owns room for its longest sequence.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from superrl.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION = "superrl_slots"
SERVED_LAYERS = {"full_attention", "sliding_attention"}
QUERY_BLOCK = 256
"""Queries of a prefill treated at a time where the scores are materialised; bounds their memory."""

KeyValue = tuple[Tensor, Tensor]


def bucket(length: int, smallest: int) -> int:
    """`length` rounded up to smallest * {1, 1.5, 2, 3, 4, 6, 8, ...}: few shapes, little waste."""
    size = smallest
    while size < length:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size


def serve(model: PreTrainedModel) -> None:
    """Make `model` compute attention through `slot_attention`, or say why it cannot be served."""
    from transformers import AttentionInterface

    config = model.config.get_text_config()
    unknown = set(getattr(config, "layer_types", None) or ()) - SERVED_LAYERS
    if unknown or model.config.is_encoder_decoder:
        what = f"layers of type {sorted(unknown)[0]!r}" if unknown else "an encoder"
        raise UserError(f"{type(model).__name__} has {what}, which the local sampler cannot serve; use another engine")
    AttentionInterface.register(ATTENTION, slot_attention)
    model.set_attn_implementation(ATTENTION)
    if model.config._attn_implementation != ATTENTION:
        raise UserError(f"{type(model).__name__} does not let its attention be replaced; use another engine")


def slot_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    slot_pass: Prefill | Decode | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in every layer: query [B, H, q, D], key and value [B, Hkv, L, D] -> [B, q, H, D]."""
    if slot_pass is None:
        raise UserError(f"{type(module).__name__} is not handed the sampler's cache; use another engine for this model")
    for unserved in ("s_aux", "position_bias"):
        if options.get(unserved) is not None:
            raise UserError(f"{type(module).__name__} uses {unserved}, which the local sampler cannot serve")
    scaled = query * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    return slot_pass.attend(scaled, key, value, sliding_window, softcap).transpose(1, 2).contiguous(), None


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, softcap: float | None) -> Tensor:
    """softmax(query key^T + mask) value by plain matmuls; heads that share keys are rows of one product.

    `query` [B, H, q, D] is scaled already; `mask` is additive, [B or 1, 1, 1, q or 1, L].
    """
    batch, heads, queries, _ = query.shape
    shared, length = key.shape[1], key.shape[2]
    scores = torch.matmul(query.reshape(batch, shared, -1, query.shape[-1]), key.transpose(-1, -2)).float()
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.view(batch, shared, -1, queries, length).add_(mask)
    weights = scores.softmax(-1).to(value.dtype).view(batch, shared, -1, length)
    return torch.matmul(weights, value).view(batch, heads, queries, value.shape[-1])


@dataclass(frozen=True)
class Prefill:
    """A forward pass over prompt prefixes, padded on the right: causal, so nothing ever sees the padding.

    `layers[i]` receives the keys and values of layer i, [P, Hkv, C, D].
    """

    deterministic: bool
    layers: list[KeyValue] = field(default_factory=list)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_: Any, **__: Any) -> KeyValue:
        assert layer_idx == len(self.layers), "every layer writes its keys once, in order"
        self.layers.append((key, value))
        return key, value

    def attend(self, query: Tensor, key: Tensor, value: Tensor, window: int | None, softcap: float | None) -> Tensor:
        length = key.shape[2]
        windowed = window is not None and window < length
        if not (self.deterministic or windowed or softcap is not None):
            groups = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
            return scaled_dot_product_attention(query, key, value, is_causal=True, scale=1.0)
        column = torch.arange(length, device=query.device)
        blocks = []
        for start in range(0, length, QUERY_BLOCK):
            end = min(start + QUERY_BLOCK, length)
            row = column[start:end, None]
            seen = column[:end] <= row
            if window is not None:
                seen &= column[:end] > row - window
            blocks.append(attend(query[:, :, start:end], key[:, :, :end], value[:, :, :end], additive(seen), softcap))
        return torch.cat(blocks, 2)


def additive(seen: Tensor) -> Tensor:
    """A boolean mask as the float32 one to add to scores."""
    return torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, -torch.inf)


class SlotCache:
    """Preallocated keys and values: per layer [slots, Hkv, capacity, D], overwritten in place, never grown by cat.

    Keys lie transposed in memory: one query times D rows of `capacity` numbers runs up to twice as fast on a CPU.
    Stale entries of earlier sequences stay in place behind the masks, so they must be finite: after a forward pass that
    was not, `clear`.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.capacity = 0
        self._layers: dict[int, KeyValue] = {}

    def clear(self) -> None:
        self._layers = {}

    def reserve(self, capacity: int) -> None:
        """Make room for sequences of `capacity` tokens; what the cache held is lost if it must grow."""
        if capacity > self.capacity:
            self.capacity = capacity
            self.clear()

    def layer(self, layer_idx: int, key: Tensor, value: Tensor) -> KeyValue:
        """The buffers of a layer whose keys and values look like these: [..., Hkv, *, D]."""
        if layer_idx not in self._layers:
            heads = (self.slots, key.shape[-3])
            keys = key.new_zeros((*heads, key.shape[-1], self.capacity)).transpose(-1, -2)
            self._layers[layer_idx] = (keys, value.new_zeros((*heads, self.capacity, value.shape[-1])))
        return self._layers[layer_idx]

    def admit(self, slots: list[int], prefix: list[KeyValue]) -> None:
        """Copy one prefilled prefix, per layer [Hkv, length, D], into several slots."""
        for layer_idx, states in enumerate(prefix):
            for buffer, state in zip(self.layer(layer_idx, *states), states, strict=True):
                for slot in slots:
                    buffer[slot, :, : state.shape[1]].copy_(state)

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` entries of one slot into another."""
        for states in self._layers.values():
            for buffer in states:
                buffer[target, :, :length].copy_(buffer[source, :, :length])


class Read(NamedTuple):
    """Attention of the rows first..last over the first `length` keys of their slots.

    `taken` [rows, 1, 1, 1] marks the rows whose result this is; None: all of them.
    """

    first: int
    last: int
    length: int
    taken: Tensor | None


@dataclass(frozen=True)
class Decode:
    """A forward pass of one token for each of the first n slots; row i's token stands at `positions[i]`."""

    cache: SlotCache
    positions: Tensor
    reads: tuple[Read, ...]
    _rows: Tensor
    _masks: dict[tuple[int, int, int | None], Tensor] = field(default_factory=dict)

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
                reads.append(Read(first, first + len(part), int(length), taken if len(lengths) > 1 else None))
        return Decode(cache, positions, tuple(reads), torch.arange(len(positions), device=positions.device))

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_: Any, **__: Any) -> KeyValue:
        keys, values = self.cache.layer(layer_idx, key, value)
        keys[self._rows, :, self.positions] = key[:, :, 0]
        values[self._rows, :, self.positions] = value[:, :, 0]
        return keys, values

    def attend(self, query: Tensor, key: Tensor, value: Tensor, window: int | None, softcap: float | None) -> Tensor:
        result = query.new_zeros((*query.shape[:-1], value.shape[-1]))
        for read in self.reads:
            rows, part = slice(read.first, read.last), result[read.first : read.last]
            seen = (key[rows, :, : read.length], value[rows, :, : read.length])
            found = attend(query[rows], *seen, self._mask(read, window), softcap)
            part.copy_(found if read.taken is None else torch.where(read.taken, found, part))
        return result

    def _mask(self, read: Read, window: int | None) -> Tensor:
        which = (read.first, read.length, window)
        if which not in self._masks:
            column = torch.arange(read.length, device=self.positions.device)
            position = self.positions[read.first : read.last, None]
            seen = column <= position
            if window is not None:
                seen &= column > position - window
            self._masks[which] = additive(seen)[:, None, None, None]
        return self._masks[which]
