"""`decode.c` for tensors: products, norms and attention of the lean pass on a CPU in bfloat16.

Decoding reads every weight and every key for a few numbers each. Here the next part of a matrix is fetched while this
one is multiplied, and keys are read where they lie, each row as far as it goes: what a library for large products and
for tensors of one shape does not do.

Leaves out other types and devices (`lean.kernels_for` does not ask for them), processors without products of bfloat16
vectors, and machines without gcc: `kernels` gives None there.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from superrl.compiled import functions

if TYPE_CHECKING:
    from superrl.sampling.slots import Decode

SOURCE = Path(__file__).with_name("decode.c")
LANES, COLUMNS = 16, 32
PLAIN, FLOATS, PLUS, GATED = range(4)
"""What a product gives: bfloat16, float32, with something added, or the product's gated half of columns."""

Address = ctypes.c_void_p


class Task(ctypes.Structure):
    """`struct task`: a product."""

    _fields_ = (
        *((name, Address) for name in ("x", "weight", "other", "bias", "y")),
        *((name, ctypes.c_int32) for name in ("kind", "rows", "depth", "blocks", "width")),
    )


class Cache(ctypes.Structure):
    """`struct cache`: keys and values of a layer."""

    _fields_ = (("keys", Address), ("values", Address), ("slot", ctypes.c_int64), ("head", ctypes.c_int64))


class Step(ctypes.Structure):
    """`struct step`: what all layers of a forward pass of one token a row have in common."""

    _fields_ = (
        *((name, Address) for name in ("cosine", "sine", "places", "before", "trunk", "order")),
        *((name, ctypes.c_int32) for name in ("rows", "heads", "threads")),
    )


class Layer(ctypes.Structure):
    """`struct layer`: what attention needs to know of one of them."""

    _fields_ = (
        ("own", Cache),
        ("shared", Cache),
        ("query_norm", Address),
        ("key_norm", Address),
        ("epsilon", ctypes.c_float),
        ("scale", ctypes.c_float),
        ("window", ctypes.c_int64),
    )


@dataclass(frozen=True)
class Kernels:
    """The functions for one shape of heads, whose sizes are constants to the compiler."""

    code: ctypes.CDLL
    width: int
    group: int

    @property
    def multiply(self) -> bool:
        """Whether products are faster here than the library's: on a CPU without AMX."""
        return not torch.cpu._is_amx_tile_supported()

    def norm(self, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        """RMS norm of x [rows, H] by a float32 weight [H], like x."""
        assert x.dtype == torch.bfloat16 and x.is_contiguous() and weight.dtype == torch.float32
        found = torch.empty_like(x)
        self.code.norm(
            Address(x.data_ptr()),
            Address(weight.data_ptr()),
            ctypes.c_float(epsilon),
            Address(found.data_ptr()),
            *x.shape,
            torch.get_num_threads(),
        )
        return found

    def product(
        self, kind: int, x: Tensor, matrix: Tensor, bias: Tensor | None, width: int, other: Tensor | None = None
    ) -> Tensor:
        """x [rows, K] times a matrix laid out by `blocks` -> [rows, width]."""
        padded = -(-width // LANES) * LANES
        assert x.dtype == matrix.dtype == torch.bfloat16 and x.is_contiguous() and matrix.dim() == 4
        assert other is None or (other.shape == (len(x), padded) and other.is_contiguous())
        found = x.new_empty((len(x), padded), dtype=torch.float32 if kind == FLOATS else x.dtype)
        addresses = [None if one is None else one.data_ptr() for one in (x, matrix, other, bias, found)]
        task = Task(*addresses, kind, *x.shape, len(matrix), padded)
        self.code.product(ctypes.byref(task), torch.get_num_threads())
        return found if padded == width else found[:, :width]


def kernels(width: int, group: int) -> Kernels | None:
    """The functions for heads of `width` numbers, of which `group` share their keys; None where they cannot be had."""
    if width % LANES:
        return None
    code = functions(SOURCE, WIDTH=width, GROUP=group)
    return None if code is None else Kernels(code, width, group)


def blocks(weight: Tensor) -> Tensor:
    """A weight [N, K] of a linear layer as its product reads it: [N / COLUMNS, K / 2, COLUMNS, 2], zeros behind N."""
    rows, depth = weight.shape
    whole = -(-rows // COLUMNS) * COLUMNS
    if whole != rows:
        weight = torch.cat([weight, weight.new_zeros((whole - rows, depth))])
    pairs = weight.contiguous().view(torch.int32).view(-1, COLUMNS, depth // 2)
    laid: Tensor = pairs.transpose(1, 2).contiguous().view(weight.dtype)
    return laid.view(*laid.shape[:2], COLUMNS, 2)


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """Two weights or biases [N, ...] as one [2 N, ...] whose blocks of columns are half gate and half what it lets
    through, each with zeros behind N up to a multiple of LANES."""
    pad = -len(gate) % LANES
    parts = [torch.cat([one, one.new_zeros((pad, *one.shape[1:]))]) for one in (gate, up)]
    halves = [part.unflatten(0, (-1, LANES)) for part in parts]
    return torch.stack(halves, 1).flatten(0, 2)


class Attention:
    """Attention of a forward pass of one token a row, layer by layer."""

    def __init__(self, kernels: Kernels, work: Decode, heads: int, cosine: Tensor, sine: Tensor) -> None:
        """`cosine` and `sine` [rows, WIDTH] of the tokens' positions, the first half of the sines negated."""
        self._kernels = kernels
        self._own, self._shared = work.cache, None
        turn = [cosine.float().contiguous(), sine.float().contiguous()]
        places = work.positions.contiguous()
        assert places.dtype == torch.int64
        before: Sequence[Tensor | None] = (None, None, None)
        if work.beginnings is not None:
            trunk = work.beginnings
            self._shared = trunk.cache
            before = trunk.lengths, trunk.standing, trunk.standing.argsort(stable=True)
        self._kept = [*turn, places, *before]
        addresses = [None if one is None else one.data_ptr() for one in self._kept]
        self._step = Step(*addresses, len(places), heads, torch.get_num_threads())

    def __call__(
        self, qkv: Tensor, index: int, scale: float, window: int | None, norms: Sequence[tuple[Tensor, float]]
    ) -> Tensor:
        """qkv [rows, (queries + 2 heads) * WIDTH] -> [rows, queries * WIDTH]; `norms` of queries and keys."""
        kernels, heads = self._kernels, self._step.heads
        assert qkv.dtype == torch.bfloat16 and qkv.is_contiguous()
        like = qkv.view(len(qkv), -1, 1, kernels.width)[:, :heads]
        own = self._own.layer(index, like, like)
        layer = Layer(_cache(own), Cache() if self._shared is None else _cache(self._shared.layer(index, like, like)))
        layer.scale, layer.window = scale, window or 0
        if norms:
            (query, epsilon), (key, _) = norms
            layer.query_norm, layer.key_norm, layer.epsilon = query.data_ptr(), key.data_ptr(), epsilon
        found = qkv.new_empty((len(qkv), heads * kernels.group * kernels.width))
        kernels.code.attend(
            ctypes.byref(self._step), ctypes.byref(layer), Address(qkv.data_ptr()), Address(found.data_ptr())
        )
        return found


def _cache(held: tuple[Tensor, Tensor]) -> Cache:
    """Where keys and values [slots, heads, capacity, WIDTH] lie."""
    keys, values = held
    assert keys.stride() == values.stride() and keys.stride()[2:] == (keys.shape[3], 1)
    return Cache(keys.data_ptr(), values.data_ptr(), keys.stride(0), keys.stride(1))
