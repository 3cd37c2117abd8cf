"""What rows have in common, read once for all: the same draws as where every row reads for itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_local import flat, full_logits, some_prompts
from tiny_models import FAMILIES, build_model, make_sampler
from torch import nn

from superrl.records import Trajectory
from superrl.sampling import local
from superrl.sampling import slots as slots_module
from superrl.sampling.protocol import Prompt, SamplingLimits
from superrl.sampling.slots import Decode, SlotCache, attend
from superrl.sampling.trunks import Shared, Trunks


def drawn(family: str, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch, *, together: bool) -> list[Trajectory]:
    """What a sampler of few slots draws in its fast mode; whether rows read together is seen, not believed."""
    seen: list[Shared] = []
    read = Trunks.read

    def noted(trunks: Trunks, numbers: np.ndarray, positions: torch.Tensor) -> Shared:
        seen.append(read(trunks, numbers, positions))
        return seen[-1]

    with monkeypatch.context() as patch:
        patch.setattr(local, "COMMON", 1 if together else 10**6)
        patch.setattr(Trunks, "read", noted)
        sampler = make_sampler(build_model(family), deterministic=False, slots=7)
        found = flat(sampler.sample(prompts, SamplingLimits(30)))
    assert bool(seen) is together, "other prompts than the test is about"
    assert not together or len({one.trunks for one in seen}) > 1
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_draws_are_those_of_rows_that_read_for_themselves(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven slots for fifteen rows of five prompts: rows leave and join, trunks come and go."""
    prompts = some_prompts(6, 3)[1:]
    one, other = (drawn(family, prompts, monkeypatch, together=together) for together in (True, False))
    assert [t.tokens for t in one] == [t.tokens for t in other]
    for ours, theirs in zip(one, other, strict=True):
        torch.testing.assert_close(torch.tensor(ours.logp_sampler), torch.tensor(theirs.logp_sampler))
    logits = full_logits(build_model(family), one[0].tokens)[len(prompts[0].tokens) - 1 : -1]
    own = torch.tensor(one[0].tokens[len(prompts[0].tokens) :])
    given = torch.tensor(one[0].logp_sampler[len(prompts[0].tokens) :])
    torch.testing.assert_close(given, logits.log_softmax(-1).gather(-1, own[:, None])[:, 0], rtol=0, atol=2e-5)


@pytest.mark.parametrize("prompts", [some_prompts(3, 1)[1:], some_prompts(3, 2), []])
def test_who_has_nothing_in_common_reads_alone(prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch) -> None:
    """One completion a prompt; a prompt of one token, which has nothing before its last; nothing."""
    assert len(drawn("llama", prompts, monkeypatch, together=False)) == sum(prompt.n for prompt in prompts)
    monkeypatch.setattr(local, "COMMON", 1)
    assert make_sampler(build_model("llama"), deterministic=False)._trunks(prompts) is None


def test_prompts_of_very_different_lengths_are_read_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "COMMON", 1)
    sampler = make_sampler(build_model("llama"), deterministic=False)
    for lengths, together in (((5, 6, 9), True), ((5, 5, 5, 40), False)):
        prompts = [Prompt(tuple(range(1 + i, 1 + i + n)), 3, (0, i)) for i, n in enumerate(lengths)]
        assert (sampler._trunks(prompts) is not None) is together


def test_reproducible_draws_read_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "COMMON", 1)
    assert make_sampler(build_model("llama"))._trunks(some_prompts(3, 3)[1:]) is None


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 4)), min_size=1, max_size=12), st.randoms())
def test_trunks_come_with_their_first_row_and_go_with_their_last(joins: list[tuple[int, int]], order: object) -> None:
    """Whoever stands on a trunk finds the keys of its prefix there, in whatever order rows come and go."""
    module = nn.Module()
    source = SlotCache(6, {module: None})
    source.reserve(8)
    states = torch.arange(6.0)[:, None, None, None].expand(6, 1, 8, 2)
    for state in source.layer(0, states, states):
        state.copy_(states)
    trunks = Trunks({module: None}, 6, 8)
    numbers, prefix_of = np.zeros(64, dtype=np.int64), dict[int, int]()
    for which, rows in joins:
        slots = [slot for slot in range(64) if slot not in prefix_of][:rows]
        numbers[slots] = trunks.join((which,) * (which + 1), rows, source, which)
        prefix_of |= dict.fromkeys(slots, which)
        leaving = order.sample(sorted(prefix_of), order.randrange(len(prefix_of)))  # type: ignore[attr-defined]
        for slot in leaving:
            trunks.leave(int(numbers[slot]), numbers)
            del prefix_of[slot]
        active = sorted(prefix_of)
        shared = trunks.read(numbers[active], torch.zeros(len(active), dtype=torch.long))
        assert shared.trunks == len({prefix_of[slot] for slot in active})
        keys, _ = trunks.cache.held(0, shared.trunks)
        seat_count = len(shared.rows) // shared.trunks
        for row, slot in enumerate(active):
            seat = int(shared.seats[row])
            assert int(shared.rows[seat]) == row
            assert float(keys[seat // seat_count, 0, 0, 0]) == prefix_of[slot]
            assert int(shared.lengths[row]) == prefix_of[slot] + 1


@pytest.mark.parametrize(("window", "softcap"), [(None, None), (3, None), (6, 2.0), (None, 1.5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_is_that_over_one_row_of_keys(
    window: int | None, softcap: float | None, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of two trunks in mixed order, with own keys of different numbers, against each row's keys put together."""
    module, draw = nn.Module(), torch.Generator().manual_seed(0)
    lengths, own = [5, 9], [1, 4, 2, 3, 7]
    numbers = np.array([1, 0, 1, 1, 0])
    trunk = torch.randn(2, 2, 2, 16, 8, generator=draw).to(dtype)  # keys and values, trunk, heads
    slots = torch.randn(2, 5, 2, 16, 8, generator=draw).to(dtype)
    query = torch.randn(5, 6, 1, 8, generator=draw).to(dtype)
    trunks, cache = Trunks({module: None}, 2, 16), SlotCache(5, {module: None})
    cache.reserve(16)
    for number, length in enumerate(lengths):
        source = SlotCache(1, {module: None})
        source.reserve(16)
        for state, filled in zip(source.layer(0, *trunk[:, number][:, None]), trunk[:, number][:, None], strict=True):
            state.copy_(filled)
        trunks.join((number,) * length, int((numbers == number).sum()), source, 0)
    for state, filled in zip(cache.layer(0, *slots), slots, strict=True):
        state.copy_(filled)
    places = torch.tensor(own) - 1
    positions = places + torch.tensor(lengths)[numbers]
    for spare in (0, 10**6):  # every row by itself, all in one read
        monkeypatch.setattr(slots_module, "SPARE_KEYS", spare)
        work = Decode.grouped(cache, places, np.array(own), 0, trunks.read(numbers, positions))
        assert len(work.reads) == (1 if spare else 5)
        found = work.attend(query, *cache.held(0, 5), window, softcap)
        for row, number in enumerate(numbers):
            parts = [(trunk[i, number, :, : lengths[number]], slots[i, row, :, : own[row]]) for i in range(2)]
            key, value = (torch.cat(part, 1)[None] for part in parts)
            seen = torch.arange(key.shape[2]) > (int(positions[row]) - window if window else -1)
            mask = torch.zeros(key.shape[2], dtype=dtype).masked_fill(~seen, -torch.inf)[None, None, None, None]
            expected = attend(query[row : row + 1], key, value, mask, softcap)
            close = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.03}
            torch.testing.assert_close(found[row : row + 1], expected, **close)
