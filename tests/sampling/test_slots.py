"""The cache of keys and values: what it holds stays what it is when the cache grows in its own memory."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from superrl.sampling.slots import Piece, Prefill, SlotCache


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(slots=st.integers(1, 11), sizes=st.lists(st.integers(1, 40), min_size=2, max_size=4))
def test_a_cache_that_grows_keeps_what_it_holds(dtype: torch.dtype, slots: int, sizes: list[int]) -> None:
    draw, sizes = torch.Generator().manual_seed(0), sorted(sizes)
    cache, held = SlotCache(slots, {nn.Module(): None}), 0
    cache.begin(sizes[-1])
    expected = [torch.zeros(slots, 2, sizes[-1], width, dtype=dtype) for width in (4, 6)]
    for size in sizes:
        cache.grow(size)
        for state, wanted in zip(cache.layer(0, *(one[0] for one in expected)), expected, strict=True):
            assert state.shape[2] == size
            torch.testing.assert_close(state, wanted[:, :, :size], rtol=0, atol=0)
            wanted[:, :, held:size] = torch.randn(slots, 2, size - held, wanted.shape[3], generator=draw).to(dtype)
            state.copy_(wanted[:, :, :size])
        held = size


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 60, 1000])
@given(
    lengths=st.lists(st.tuples(st.integers(1, 300), st.integers(0, 200)), min_size=1, max_size=3),
    group=st.sampled_from([1, 3]),
)
def test_a_prompts_pieces_see_what_is_before_them_whoever_computes_it(
    dtype: torch.dtype, window: int | None, lengths: list[tuple[int, int]], group: int
) -> None:
    """By plain products in blocks, by torch's fused kernel (a GPU's way), and by a mask over everything."""
    draw = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw).to(dtype)

    module = nn.Module()
    pieces = [Piece(slot, start, (0,) * length, length) for slot, (length, start) in enumerate(lengths)]
    columns = sum(piece.width for piece in pieces)
    query = random(1, 2 * group, columns, 16) / 4
    key, value = random(1, 2, columns, 16), random(1, 2, columns, 16)
    cache = SlotCache(len(pieces), {module: window})
    cache.reserve(512)
    for state in cache.layer(0, key, value):
        state.copy_(random(*state.shape))
    found = []
    for fused in (False, True):
        work = Prefill(cache, pieces, fused)
        found.append(work.attend(query, *work.update(key, value, 0), window, None))
    keys, values = cache.layer(0, key, value)
    column = 0
    for slot, start, _, width in pieces:
        position = torch.arange(start + width)
        seen = position <= position[start:, None]
        if window is not None:
            seen &= position > position[start:, None] - window
        asked = query[:, :, column : column + width].double()
        here = [
            state[slot : slot + 1, :, : start + width].double().repeat_interleave(group, 1) for state in (keys, values)
        ]
        scores = (asked @ here[0].transpose(-1, -2)).masked_fill(~seen, -torch.inf)
        expected = scores.softmax(-1) @ here[1]
        tolerance = 1e-4 if dtype == torch.float32 else 4e-2
        for one in found:
            part = one[:, :, column : column + width].double()
            torch.testing.assert_close(part, expected, rtol=tolerance, atol=tolerance)
        column += width
