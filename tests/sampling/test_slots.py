"""The cache of keys and values: what it holds stays what it is when the cache grows in its own memory."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from superrl.sampling.slots import SlotCache


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
