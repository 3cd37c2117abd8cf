"""Deterministic mode: a completion is bit-equal whatever else is sampled, in whatever order, whenever it joins."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_local import completion, flat, full_logits, some_prompts
from tiny_models import FAMILIES, SHAPE, VOCABULARY, build_model, make_sampler
from torch.nn.functional import linear
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from superrl.records import Trajectory
from superrl.sampling import slots
from superrl.sampling.protocol import Prompt, SamplingLimits
from superrl.sampling.slots import SPARE_KEYS, Decode, SlotCache, attend

LIMITS = SamplingLimits(40)
MANY_ENDS = list(range(20))


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Which thread computes a row must not matter either."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def by_key(prompts: list[Prompt], groups: list[list[Trajectory]]) -> dict[tuple[int, ...], list[Trajectory]]:
    return {prompt.key: group for prompt, group in zip(prompts, groups, strict=True)}


@pytest.mark.parametrize("family", FAMILIES)
def test_bit_equal_alone_permuted_refilled_and_among_others(family: str) -> None:
    model = build_model(family)
    prompts = some_prompts(9, 4, longest=70)  # 36 rows: the last of them join 16 slots late
    sampler = make_sampler(model, eos_ids=MANY_ENDS)
    together = by_key(prompts, sampler.sample(prompts, LIMITS))
    assert len({trajectory.length for trajectory in flat(list(together.values()))}) > 3, "rows leave at different times"
    shuffled = random.Random(0).sample(prompts, len(prompts))
    assert by_key(shuffled, sampler.sample(shuffled, LIMITS)) == together
    others = [Prompt(tuple(reversed(p.tokens)), 3, (9, *p.key)) for p in prompts]
    mixed = [prompt for pair in zip(others, prompts, strict=True) for prompt in pair]
    assert together.items() <= by_key(mixed, sampler.sample(mixed, LIMITS)).items()
    fresh = make_sampler(model, eos_ids=MANY_ENDS)
    for prompt in prompts[:4]:
        assert fresh.sample([prompt], LIMITS) == [together[prompt.key]]


def long_prompts(count: int) -> list[Prompt]:
    """Two system prompts of some hundred tokens, under which prompts of several lengths stand; one is the other's."""
    draw = torch.Generator().manual_seed(2)
    system, other = torch.randint(VOCABULARY, (2, 310), generator=draw).tolist()
    ends = [torch.randint(VOCABULARY, (1 + 23 * i,), generator=draw).tolist() for i in range(count)]
    stems = [system, system, other[:130], system[:200], []]
    return [Prompt((*stems[i % 5], *end), 2, (6, i)) for i, end in enumerate(ends)]


def long_model() -> PreTrainedModel:
    torch.manual_seed(3)
    return LlamaForCausalLM(LlamaConfig(**{**SHAPE, "max_position_embeddings": 1024})).eval()


@pytest.mark.usefixtures("two_threads")
def test_bit_equal_with_prefixes_shared_or_not() -> None:
    prompts, limits = long_prompts(10), SamplingLimits(4)
    sampler = make_sampler(long_model(), eos_ids=[])
    together = sampler.sample(prompts, limits)
    assert sampler.sample(prompts[::-1], limits) == together[::-1]
    for i in range(len(prompts)):
        alone = make_sampler(long_model(), eos_ids=[]) if i in (1, 6) else sampler
        assert alone.sample(prompts[i : i + 1], limits) == [together[i]]


def test_shared_prefixes_give_what_a_full_forward_gives() -> None:
    model, prompts = long_model(), long_prompts(10)
    for deterministic in (True, False):
        sampler = make_sampler(model, eos_ids=[], deterministic=deterministic)
        for trajectory in flat(sampler.sample(prompts, SamplingLimits(4))):
            drawn = torch.tensor(completion(trajectory))
            logp = full_logits(model, trajectory.tokens)[-len(drawn) - 1 : -1].log_softmax(-1)
            found = torch.tensor(trajectory.logp_sampler[-len(drawn) :])
            torch.testing.assert_close(found, logp.gather(-1, drawn[:, None])[:, 0], rtol=0, atol=2e-5)


@pytest.mark.usefixtures("two_threads")
def test_bit_equal_with_two_threads() -> None:
    sampler = make_sampler(build_model("qwen3"))
    prompts = some_prompts(9, 2, longest=60)
    together = sampler.sample(prompts, SamplingLimits(4))
    assert sampler.sample(prompts[::-1], SamplingLimits(4)) == together[::-1]
    for i in (1, 8):
        assert sampler.sample(prompts[i : i + 1], SamplingLimits(4)) == [together[i]]


def test_bit_equal_across_the_chunks_of_a_long_table() -> None:
    sampler = make_sampler(build_model("llama"), slots=192, eos_ids=MANY_ENDS)
    prompts = some_prompts(30, 8, longest=60)  # 240 rows
    together = sampler.sample(prompts, LIMITS)
    assert sampler.sample(prompts[::-1], LIMITS) == together[::-1]
    for i in (0, 17, 29):
        assert sampler.sample(prompts[i : i + 1], LIMITS) == [together[i]]


def test_a_larger_cache_changes_nothing() -> None:
    sampler = make_sampler(build_model("llama"))
    prompts = some_prompts(3, 3)
    before = sampler.sample(prompts, LIMITS)
    sampler.sample(some_prompts(2, 1, longest=200), SamplingLimits(50))
    assert sampler.sample(prompts, LIMITS) == before


def test_fast_mode_draws_the_same_up_to_rounding() -> None:
    model = build_model("gemma3")
    prompts = some_prompts(9, 4, longest=70)
    exact = flat(make_sampler(model, eos_ids=MANY_ENDS).sample(prompts, LIMITS))
    fast = flat(make_sampler(model, slots=13, eos_ids=MANY_ENDS, deterministic=False).sample(prompts, LIMITS))
    assert [t.tokens for t in fast] == [t.tokens for t in exact]
    for a, b in zip(fast, exact, strict=True):
        torch.testing.assert_close(torch.tensor(a.logp_sampler), torch.tensor(b.logp_sampler), rtol=0, atol=2e-5)


@given(lengths=st.lists(st.sampled_from([0, 32, 48, 96]), min_size=32, max_size=32).filter(any), own=st.integers(0, 31))
def test_the_shape_a_row_is_read_with_follows_from_its_own_length(lengths: list[int], own: int) -> None:
    lengths[own] = 48
    reads = Decode.over(SlotCache(32, {}), torch.zeros(32, dtype=torch.int64), np.array(lengths), chunk=16).reads
    mine = [read for read in reads if read.first <= own < read.last]
    taking = [read for read in mine if read.taken is None or read.taken[own - read.first].item()]
    assert [(read.last - read.first, read.length) for read in taking] == [(16, 48)]


@settings(deadline=None)
@given(st.lists(st.integers(1, 5000), min_size=1, max_size=60))
def test_in_fast_mode_neighbours_are_read_together_as_long_as_that_is_cheap(lengths: list[int]) -> None:
    cache, positions = SlotCache(60, {}), torch.zeros(len(lengths), dtype=torch.int64)
    cache.reserve(max(lengths) + 9)
    reads = Decode.grouped(cache, positions, np.array(lengths)).reads
    whole = Decode.grouped(cache, positions, np.array(lengths), whole=32).reads
    ends = [cache.capacity if read.length > cache.capacity - 32 else read.length for read in reads]
    assert [(read.first, read.length) for read in whole] == [(r.first, e) for r, e in zip(reads, ends, strict=True)]
    assert [row for read in reads for row in range(read.first, read.last)] == list(range(len(lengths)))
    for read in reads:
        inside = lengths[read.first : read.last]
        assert (read.length, read.least) == (max(inside), min(inside))
    wasted = sum(read.length - length for read in reads for length in lengths[read.first : read.last])
    assert wasted <= SPARE_KEYS * len(lengths)
    if max(lengths) - min(lengths) <= SPARE_KEYS // 60:
        assert len(reads) == 1


def test_in_fast_mode_rows_of_all_lengths_give_what_a_full_forward_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows shorter and longer than rows, several reads a step, rows that leave and join."""
    monkeypatch.setattr(slots, "SPARE_KEYS", 20)
    model = build_model("gemma2")
    sampler = make_sampler(model, slots=7, eos_ids=MANY_ENDS, deterministic=False)
    prompts = some_prompts(20, 2, longest=180)
    for trajectory in flat(sampler.sample(prompts, SamplingLimits(20))):
        drawn = torch.tensor(completion(trajectory))
        logp = full_logits(model, trajectory.tokens)[-len(drawn) - 1 : -1].log_softmax(-1)
        found = torch.tensor(trajectory.logp_sampler[-len(drawn) :])
        torch.testing.assert_close(found, logp.gather(-1, drawn[:, None])[:, 0], rtol=0, atol=2e-5)


# --- the facts about this machine's kernels that the mode rests on


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("rows", [16, 48, 64, 256])
@pytest.mark.parametrize(("inputs", "outputs"), [(128, 128), (352, 128), (576, 1536), (64, 61)])
def test_linear_layers_do_not_mix_rows_or_depend_on_their_place(rows: int, inputs: int, outputs: int) -> None:
    x, weight, order = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randperm(rows)
    whole = linear(x, weight)
    assert torch.equal(linear(x[order], weight), whole[order])
    neighbours = torch.randn(rows, inputs)
    neighbours[rows // 2] = x[0]
    assert torch.equal(linear(neighbours, weight)[rows // 2], whole[0])


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("length", [32, 48, 64, 96, 128])
@pytest.mark.parametrize(("heads", "shared", "size"), [(4, 4, 32), (9, 3, 64), (4, 2, 16)])
def test_attention_rows_do_not_depend_on_their_place(length: int, heads: int, shared: int, size: int) -> None:
    rows, order = 64, torch.randperm(64)
    query = torch.randn(rows, heads, 1, size)
    key = torch.randn(rows, shared, size, 160).transpose(-1, -2)[:, :, :length]
    value = torch.randn(rows, shared, 160, size)[:, :, :length]
    mask = torch.zeros(rows, 1, 1, 1, length).masked_fill_(torch.rand(rows, 1, 1, 1, length) < 0.3, -torch.inf)
    whole = attend(query, key, value, mask, None)
    moved = (
        key.transpose(-1, -2)[order].transpose(-1, -2),
        value[order],
    )
    assert torch.equal(attend(query[order], *moved, mask[order], None), whole[order])


def test_rows_of_the_last_chunk_alone_get_what_they_get_among_others():
    """The first chunk's slots are idle: a single read that does not begin with the first row."""
    torch.manual_seed(0)
    key, value, query = torch.randn(32, 2, 8, 4), torch.randn(32, 2, 8, 4), torch.randn(32, 2, 1, 4)
    positions, alone = torch.full((32,), 5), np.array([0] * 16 + [6] * 16)
    found = Decode.over(SlotCache(32, {}), positions, alone, chunk=16).attend(query, key, value, None, None)
    among = Decode.over(SlotCache(32, {}), positions, np.full(32, 6), chunk=16).attend(query, key, value, None, None)
    assert found.shape == query.shape
    assert torch.equal(found[16:], among[16:])
