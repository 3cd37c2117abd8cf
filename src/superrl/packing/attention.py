"""Attention over a prefix forest: query q sees key k iff k <= q < end[k], that is, iff k is q or an ancestor of q.

transformers calls `forest_attention` in every layer once it is registered under `ATTENTION`; the forest travels through
the model as the keyword `forest`. On a CPU every branch (the run of nodes that one sequence added) attends to its path
from the root, branches of similar size in one batched product: no work on pairs that see nothing of each other, as a
dense mask would cost. Scores are recomputed in the backward pass; of all pairs only a boolean mask is held, while the
pack is in use. On a CUDA device FlexAttention evaluates the same rule with a block mask.

Leaves out layouts (`forest`), and attention sinks and biases: a model that has them is not served.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

ATTENTION = "superrl_forest"
QUERIES = 128
"""Most queries of a branch treated at a time: bounds the scores held, and saves most of the masked half."""
SCORES = 1 << 18
"""Most scores (per head) held at a time: with few heads they stay in the processor's cache. Both are measured: of
branches of 1,024 tokens forward and backward took 163 ms with 256 and 1 << 20, now 123; of 96 as long as ever."""
SPARE = 1 << 13
"""Padded scores (per head) that cost less than one more product."""


@dataclass(frozen=True, slots=True)
class Branch:
    """Nodes first, first + 1, ..., added by one sequence from `depth` on; `path` are its nodes from the root."""

    first: int
    depth: int
    path: tuple[int, ...]

    def parts(self) -> Iterator[tuple[int, int, tuple[int, ...]]]:
        """(first node, its depth, path up to the part's last node) of parts of at most QUERIES nodes, SCORES scores."""
        step = min(QUERIES, max(1, SCORES // len(self.path)))
        for depth in range(self.depth, len(self.path), step):
            yield self.first + depth - self.depth, depth, self.path[: depth + step]


@dataclass(frozen=True, slots=True)
class Block:
    """S branches attended together. `query` [S * n] and `key` [S * L] are nodes; a key's column is its depth, and
    `depth` [S, n] is the queries'. Padded queries repeat a node and their results are not used; padded keys lie deeper
    than any query."""

    query: Tensor
    key: Tensor
    depth: Tensor
    length: int

    def hidden(self, window: int | None) -> Tensor:
        """[S, 1, 1, n, L] bool: the keys that a query does not see."""
        column = torch.arange(self.length, device=self.depth.device)
        unseen = column > self.depth[..., None]
        if window is not None:
            unseen |= column <= self.depth[..., None] - window
        return unseen[:, None, None]


@dataclass(frozen=True, slots=True)
class Forest:
    """`depth` [T] and `end` [T] of the nodes; `blocks` cover every node as a query once, and node i's result is row
    `place[i]` of theirs, concatenated."""

    depth: Tensor
    end: Tensor
    place: Tensor
    blocks: tuple[Block, ...]
    cache: dict[Any, Any] = field(default_factory=dict, compare=False)

    @staticmethod
    def of(depth: Sequence[int], end: Sequence[int], branches: Iterable[Branch]) -> Forest:
        """A forest of nodes in depth-first order."""
        blocks, place, offset = [], torch.empty(len(depth), dtype=torch.long), 0
        for parts in _batches(part for branch in branches for part in branch.parts()):
            block, nodes, rows = _block(parts)
            place[nodes] = rows + offset
            offset += len(block.query)
            blocks.append(block)
        return Forest(torch.tensor(depth), torch.tensor(end), place, tuple(blocks))

    def to(self, device: torch.device) -> Forest:
        """The same forest on another device, without the blocks that only a CPU reads."""
        return Forest(self.depth.to(device), self.end.to(device), self.place.to(device), ())

    def masks(self, window: int | None) -> list[Tensor]:
        """Every block's mask, made once for all layers."""
        if ("branches", window) not in self.cache:
            self.cache["branches", window] = [block.hidden(window) for block in self.blocks]
        masks: list[Tensor] = self.cache["branches", window]
        return masks


Part = tuple[int, int, tuple[int, ...]]


def _batches(parts: Iterable[Part]) -> Iterator[list[Part]]:
    """Parts of similar size together, so that little of a batch is padding."""
    batch: list[Part] = []
    real = n = length = 0
    for part in sorted(parts, key=lambda p: (p[1] - len(p[2]), -len(p[2]), p[0])):
        queries, keys = len(part[2]) - part[1], len(part[2])
        n, length, real = max(n, queries), max(length, keys), real + queries * keys
        padded = (len(batch) + 1) * n * length
        if batch and (padded > SCORES or padded - real > SPARE + real // 4):
            yield batch
            batch, n, length, real = [], queries, keys, queries * keys
        batch.append(part)
    if batch:
        yield batch


def _block(parts: Sequence[Part]) -> tuple[Block, Tensor, Tensor]:
    """A block, and for each node it answers for, the node and its row among the block's queries."""
    n = max(len(path) - depth for _, depth, path in parts)
    length = max(len(path) for _, _, path in parts)
    query = torch.zeros(len(parts), n, dtype=torch.long)
    key = torch.zeros(len(parts), length, dtype=torch.long)
    depths = torch.zeros(len(parts), n, dtype=torch.long)
    nodes, rows = [], []
    for row, (first, depth, path) in enumerate(parts):
        count = len(path) - depth
        query[row, :count] = torch.arange(first, first + count)
        depths[row, :count] = torch.arange(depth, depth + count)
        key[row, : len(path)] = torch.tensor(path)
        nodes.append(query[row, :count])
        rows.append(torch.arange(row * n, row * n + count))
    return Block(query.flatten(), key.flatten(), depths, length), torch.cat(nodes), torch.cat(rows)


def forest_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    forest: Forest | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in every layer: query [1, H, T, D], key and value [1, Hkv, T, D] -> [1, T, H, D]."""
    if forest is None or attention_mask is not None:
        raise TypeError(f"{type(module).__name__} attends over a prefix forest now: give it one, and no mask")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    device = query.device.type  # families differ in what they leave in float32
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else value.dtype
    query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    attend = _flex if device == "cuda" else _by_branch
    return attend(query, key, value, forest, scale, sliding_window, softcap), None


def _by_branch(
    query: Tensor, key: Tensor, value: Tensor, forest: Forest, scale: float, window: int | None, softcap: float | None
) -> Tensor:
    nodes = (one[0].transpose(0, 1) for one in (query * scale, key, value))
    attend: Any = _BranchAttention.apply  # torch leaves it untyped
    out: Tensor = attend(*nodes, forest, window, softcap)
    return out[None]


class _BranchAttention(torch.autograd.Function):
    """query [T, H, D] (scaled), key and value [T, Hkv, D] -> [T, H, D]; keeps these and nothing of size T x L. Nodes
    after the forest's last have zeros."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, forest: Forest, window: int | None, softcap: float | None
    ) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.forest, ctx.window, ctx.softcap = forest, window, softcap
        results = []
        for block, mask in zip(forest.blocks, forest.masks(window), strict=True):
            q, k, v = _gather(block, query, key, value)
            weights, _ = _weights(q, k, mask, softcap)
            results.append(_ungrouped(weights.to(v.dtype) @ v, query.shape[1]))
        return _placed(torch.cat(results), forest, len(query))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        forest: Forest = ctx.forest
        d_key = torch.zeros(key.shape, dtype=torch.float32)
        d_value = torch.zeros(value.shape, dtype=torch.float32)
        d_queries, total = [], sum(len(block.query) for block in forest.blocks)
        real = gradients[0][: len(forest.place)]
        gradient = real.new_zeros(total, *real.shape[1:]).index_copy(0, forest.place, real)
        rows = gradient.split([len(block.query) for block in forest.blocks])
        for block, mask, row in zip(forest.blocks, forest.masks(ctx.window), rows, strict=True):
            q, k, v = _gather(block, query, key, value)
            weights, slope = _weights(q, k, mask, ctx.softcap)
            d_out = _grouped(row, len(block.depth), key.shape[1])
            d_weights = (d_out @ v.transpose(-1, -2)).float()
            d_scores = d_weights.sub_((weights * d_weights).sum(-1, keepdim=True)).mul_(weights)
            if slope is not None:
                d_scores.mul_(slope)
            d_value.index_add_(0, block.key, _flat(weights.to(v.dtype).transpose(-1, -2) @ d_out).float())
            d_scores = d_scores.to(q.dtype)
            d_key.index_add_(0, block.key, _flat(d_scores.transpose(-1, -2) @ q).float())
            d_queries.append(_ungrouped(d_scores @ k, query.shape[1]))
        d_query = _placed(torch.cat(d_queries), forest, len(query))
        return d_query, d_key.to(key.dtype), d_value.to(value.dtype), None, None, None


def _placed(rows: Tensor, forest: Forest, nodes: int) -> Tensor:
    """Of the blocks' rows one for each node, zeros after the forest's last."""
    out = rows.new_empty(nodes, *rows.shape[1:])
    torch.index_select(rows, 0, forest.place, out=out[: len(forest.place)])
    out[len(forest.place) :].zero_()
    return out


def _gather(block: Block, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[S, Hkv, G * n, D] of the queries, heads that share keys side by side, and [S, Hkv, L, D] of keys and values."""
    branches, shared = len(block.depth), key.shape[1]
    q = _grouped(query.index_select(0, block.query), branches, shared)
    k, v = (
        one.index_select(0, block.key).view(branches, block.length, shared, -1).transpose(1, 2) for one in (key, value)
    )
    return q, k, v


def _grouped(rows: Tensor, branches: int, shared: int) -> Tensor:
    """[S * n, H, D] -> [S, Hkv, G * n, D]."""
    n, heads, size = len(rows) // branches, rows.shape[1], rows.shape[2]
    split = rows.view(branches, n, shared, heads // shared, size).permute(0, 2, 3, 1, 4)
    return split.reshape(branches, shared, -1, size)


def _ungrouped(rows: Tensor, heads: int) -> Tensor:
    """[S, Hkv, G * n, D] -> [S * n, H, D]."""
    branches, shared, _, size = rows.shape
    split = rows.view(branches, shared, heads // shared, -1, size).permute(0, 3, 1, 2, 4)
    return split.reshape(-1, heads, size)


def _flat(rows: Tensor) -> Tensor:
    """[S, Hkv, L, D] -> [S * L, Hkv, D]."""
    return rows.transpose(1, 2).flatten(0, 1)


def _weights(query: Tensor, key: Tensor, mask: Tensor, softcap: float | None) -> tuple[Tensor, Tensor | None]:
    """Attention weights in float32, [S, Hkv, G * n, L], and the derivative of the soft cap if there is one. The scores
    of bfloat16 inputs are float32 too: rounded before the exponential they cost several times the noise."""
    scores = query.float() @ key.float().transpose(-1, -2)
    slope = None
    if softcap is not None:
        bounded = torch.tanh(scores / softcap)
        slope, scores = 1.0 - bounded * bounded, bounded * softcap
    branches, shared, _, length = scores.shape
    masked = scores.view(branches, shared, -1, mask.shape[-2], length).masked_fill_(mask, -torch.inf)
    return masked.softmax(-1).view(scores.shape), slope


def _flex(
    query: Tensor, key: Tensor, value: Tensor, forest: Forest, scale: float, window: int | None, softcap: float | None
) -> Tensor:
    """The same by FlexAttention; its block mask is made once for all layers."""

    def capped(score: Tensor, *index: Tensor) -> Tensor:
        return score if softcap is None else torch.tanh(score / softcap) * softcap

    if ("flex", window) not in forest.cache:
        forest.cache["flex", window] = _block_mask(forest, window)
    out = _compiled(query.device.type)(
        query, key, value, score_mod=None if softcap is None else capped, block_mask=forest.cache["flex", window],
        scale=scale, enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    transposed: Tensor = out.transpose(1, 2)
    return transposed


def visible(forest: Forest, window: int | None) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The rule as FlexAttention asks for it."""
    depth, end = forest.depth, forest.end

    def rule(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        seen = (k <= q) & (q < end[k])
        return seen if window is None else seen & (depth[q] - depth[k] < window)

    return rule


def _block_mask(forest: Forest, window: int | None) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    size, device = len(forest.depth), forest.depth.device
    compiled = device.type == "cuda"  # uncompiled it holds every pair
    return create_block_mask(visible(forest, window), None, None, size, size, device=device, _compile=compiled)


@lru_cache
def _compiled(device: str) -> Callable[..., Tensor]:
    """FlexAttention is only fast when compiled; uncompiled it is what a CPU's tests compare with."""
    from torch.nn.attention.flex_attention import flex_attention

    compiled: Any = torch.compile(flex_attention) if device == "cuda" else flex_attention
    attend: Callable[..., Tensor] = compiled
    return attend
