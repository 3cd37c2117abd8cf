"""Our own kernels against the same in float64, against torch's in whole samplers, and what happens without them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_lean import FITTING, build
from test_local import completion, flat, full_logits, some_prompts
from tiny_models import make_sampler
from torch import Tensor
from torch.nn.functional import pad, rms_norm, silu

from superrl.learner.copies import named_weights
from superrl.records import Trajectory
from superrl.sampling import native
from superrl.sampling.native import Attention, Kernels, blocks, gated
from superrl.sampling.protocol import SamplingLimits
from superrl.sampling.slots import Decode, SlotCache
from superrl.sampling.trunks import Trunks

HALF = 2**-8
"""Half a unit in the last place of bfloat16, relative."""


def kernels(width: int = 32, group: int = 2) -> Kernels:
    found = native.kernels(width, group)
    if found is None:
        pytest.skip("our own kernels need gcc, and a CPU with avx512_bf16")
    return found


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


@settings(max_examples=60)
@given(
    rows=st.integers(1, 35),
    depth=st.integers(1, 40).map(lambda half: 2 * half),
    width=st.integers(1, 100),
    biased=st.booleans(),
    seed=st.integers(0, 99),
)
def test_products_are_exact_but_for_their_rounding(rows: int, depth: int, width: int, biased: bool, seed: int) -> None:
    ours = kernels()
    x, weight = draws(rows, depth, seed=seed), draws(width, depth, seed=seed + 1)
    bias = draws(width, seed=seed + 2).float() if biased else None
    laid = None if bias is None else pad(bias, (0, -width % native.COLUMNS))
    expected = x.double() @ weight.double().T + (0.0 if bias is None else bias.double())
    found = ours.product(native.FLOATS, x, blocks(weight), laid, width)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    rounded = ours.product(native.PLAIN, x, blocks(weight), laid, width)
    assert torch.equal(rounded, found.bfloat16()), "to the nearest, ties to even"
    if width % native.LANES == 0:
        other = draws(rows, width, seed=seed + 3)
        plus = ours.product(native.PLUS, x, blocks(weight), laid, width, other)
        assert torch.equal(plus, (found + other).bfloat16())


@settings(max_examples=30)
@given(rows=st.integers(1, 20), width=st.integers(1, 5), biased=st.booleans(), seed=st.integers(0, 99))
def test_a_gate_is_silu_of_one_product_times_the_other(rows: int, width: int, biased: bool, seed: int) -> None:
    ours, width = kernels(), 16 * width
    x, gate, up = draws(rows, 24, seed=seed), draws(width, 24, seed=seed + 1), 30 * draws(width, 24, seed=seed + 2)
    biases = [draws(width, seed=seed + i).float() for i in (3, 4)] if biased else None
    laid = None if biases is None else pad(gated(*biases), (0, -2 * width % native.COLUMNS))
    found = ours.product(native.GATED, x, blocks(gated(gate, up)), laid, width)
    one, other = (
        x.double() @ part.double().T + (0.0 if biases is None else biases[i].double())
        for i, part in enumerate((gate, up))
    )
    torch.testing.assert_close(found.double(), silu(one) * other, rtol=1.5 * HALF, atol=1e-4)


def test_a_gate_far_from_zero_is_open_or_shut_and_never_nan() -> None:
    ours = kernels()
    x = torch.ones(2, 2, dtype=torch.bfloat16)
    gate = torch.tensor([[-1e30, 0.0], [1e30, 0.0], [-150.0, 0.0], [torch.nan, 0.0]]).repeat(4, 1).bfloat16()
    found = ours.product(native.GATED, x, blocks(gated(gate, torch.ones_like(gate))), None, 16)
    shut, wide, closed, unknown = found[0, :4].tolist()
    assert abs(shut) < 1e-6 and wide > 1e30 and abs(closed) < 1e-30 and unknown != unknown


def test_a_product_does_not_depend_on_the_rows_beside() -> None:
    ours = kernels()
    x, weight = draws(37, 64), blocks(draws(96, 64, seed=1))
    whole = ours.product(native.FLOATS, x, weight, None, 96)
    order = torch.randperm(37, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ours.product(native.FLOATS, x[order], weight, None, 96), whole[order])
    for row in (0, 8, 20, 36):
        assert torch.equal(ours.product(native.FLOATS, x[row : row + 1], weight, None, 96)[0], whole[row])


def test_nothing_depends_on_the_number_of_threads() -> None:
    ours, before = kernels(), torch.get_num_threads()
    x, weight = draws(37, 128), blocks(draws(96, 128, seed=1))
    places = torch.arange(37) * 4

    def everything() -> list[Tensor]:
        cache = SlotCache(37, {})
        cache.begin(150, 150)
        step = Attention(ours, Decode.alone(cache, places, None), 1, torch.ones(37, 32), torch.zeros(37, 32))
        once = step(x, 0, 0.2, None, ())
        products = [
            ours.product(kind, x, weight, None, width) for kind, width in ((native.FLOATS, 96), (native.GATED, 48))
        ]
        return [ours.norm(x, torch.ones(128), 1e-5), once, *products]

    try:
        found = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(everything())
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_a_norm_is_that_of_float64_rounded_once() -> None:
    ours = kernels()
    x, weight = 3 * draws(9, 80), torch.rand(80)
    found = ours.norm(x, weight, 1e-5)
    expected = rms_norm(x.double(), (80,), weight.double(), 1e-5)
    torch.testing.assert_close(found.double(), expected, rtol=1.01 * HALF, atol=1e-12)
    zeros = ours.norm(torch.zeros(1, 80, dtype=torch.bfloat16), weight, 1e-5)
    assert torch.equal(zeros, torch.zeros_like(zeros))
    x[4, 7] = torch.nan
    assert ours.norm(x, weight, 1e-5).isnan().any(-1).tolist() == [row == 4 for row in range(9)]


def turned(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Heads x [heads, D] turned by one position's angles; the first half of `sine` is negated."""
    return x * cosine + x.roll(x.shape[-1] // 2, -1) * sine


def normed(x: Tensor, norm: tuple[Tensor, float]) -> Tensor:
    return rms_norm(x, x.shape[-1:], norm[0].double(), norm[1])


def by_hand(
    qkv: Tensor, old: tuple[Tensor, Tensor], angles: tuple[Tensor, Tensor], group: int, window: int | None, scale: float
) -> Tensor:
    """One row's attention in float64: qkv [heads * (group + 2), D] after the keys and values `old` [heads, L, D]."""
    heads = len(old[0])
    queries, keys, values = qkv.split([heads * group, heads, heads])
    queries = (turned(queries, *angles) * scale).bfloat16().double()
    keys = torch.cat([old[0], turned(keys, *angles).bfloat16().double()[:, None]], 1)
    values = torch.cat([old[1], values[:, None]], 1)
    seen = slice(0 if window is None else max(0, keys.shape[1] - window), None)
    scores = queries.view(heads, group, 1, -1) @ keys[:, None, seen].transpose(-1, -2)
    return (scores.softmax(-1) @ values[:, None, seen]).reshape(-1)


@settings(max_examples=40)
@given(
    shape=st.sampled_from([(16, 1), (32, 2), (48, 1), (64, 3), (128, 4)]),
    heads=st.integers(1, 3),
    lengths=st.lists(st.integers(0, 150), min_size=1, max_size=6),
    window=st.sampled_from([None, 1, 7, 64, 100]),
    prompts=st.sampled_from([None, (5,), (70, 1), (130, 64, 20)]),
    loud=st.sampled_from([0.1, 1.0, 30.0]),
    with_norms=st.booleans(),
    seed=st.integers(0, 99),
)
def test_attention_is_that_of_float64(
    shape: tuple[int, int],
    heads: int,
    lengths: list[int],
    window: int | None,
    prompts: tuple[int, ...] | None,
    loud: float,
    with_norms: bool,
    seed: int,
) -> None:
    """Rows of any lengths, alone or after what they have in common with others; with windows; sharp and flat."""
    ours = kernels(*shape)
    (width, group), rows = shape, len(lengths)
    cache = SlotCache(rows + 1, {}, masked=False)
    cache.begin(160, 160)
    like = torch.empty((rows + 1, heads, 1, width), dtype=torch.bfloat16)
    for i, state in enumerate(cache.layer(0, like, like)):
        state.copy_(draws(*state.shape, seed=seed + i))
    trunks, numbers = None, np.arange(rows) % len(prompts or (0,))
    if prompts is not None:
        trunks = Trunks({}, len(prompts), max(prompts), masked=False)
        for number, length in enumerate(prompts):
            trunks.join((number,) * length, 1, cache, 0)
    held = [state.double() for state in cache.layer(0, like, like)]
    shared = None if trunks is None else [state.double() for state in trunks.cache.layer(0, like, like)]
    places = torch.tensor(lengths)
    before = None if trunks is None else trunks.read(numbers, places + torch.tensor([prompts[n] for n in numbers]))
    angle = torch.rand(rows, width // 2, generator=torch.Generator().manual_seed(seed)) * 6
    cosine, sine = angle.cos().repeat(1, 2), torch.cat([-angle.sin(), angle.sin()], -1)
    qkv = draws(rows, heads * (group + 2) * width, seed=seed + 7) * loud
    step = Attention(ours, Decode.alone(cache, places, before), heads, cosine, sine)
    weights = torch.rand(2, width, generator=torch.Generator().manual_seed(seed)) + 0.5
    norms = [(weights[0], 1e-5), (weights[1], 1e-5)] if with_norms else []
    found = step(qkv, 0, width**-0.5, window, norms)
    for row, (length, number) in enumerate(zip(lengths, numbers, strict=True)):
        old = [state[row, :, :length] for state in held]
        if shared is not None and prompts is not None:
            old = [torch.cat([t[number, :, : prompts[number]], own], 1) for t, own in zip(shared, old, strict=True)]
        angles = cosine[row].double(), sine[row].double()
        mine = qkv[row].double().view(-1, width)
        if norms:
            queries, keys, values = mine.split([heads * group, heads, heads])
            mine = torch.cat([normed(queries, norms[0]), normed(keys, norms[1]), values])
        expected = by_hand(mine, (old[0], old[1]), angles, group, window, width**-0.5)
        torch.testing.assert_close(found[row].double(), expected, rtol=3 * HALF, atol=2 * HALF * loud)
        key, value = (state[row, :, length].double() for state in cache.layer(0, like, like))
        torch.testing.assert_close(key, turned(mine[-2 * heads : -heads], *angles), rtol=HALF, atol=HALF * loud)
        assert torch.equal(value, mine[-heads:])


def test_a_score_that_is_no_number_is_passed_on() -> None:
    ours = kernels()
    cache = SlotCache(2, {})
    cache.begin(8, 8)
    step = Attention(ours, Decode.alone(cache, torch.tensor([3, 3]), None), 1, torch.ones(2, 32), torch.zeros(2, 32))
    qkv = draws(2, 4 * 32)
    qkv[1, 5] = torch.nan
    found = step(qkv, 0, 1.0, None, ())
    assert (
        bool(found[0].isfinite().all()) and bool(found[1, :32].isnan().all()) and bool(found[1, 32:].isfinite().all())
    )


def gaps(trajectories: list[Trajectory], model: torch.nn.Module) -> Tensor:
    """How far log-probabilities are from those of a whole forward pass in float32."""
    found = []
    for one in trajectories:
        start = len(one.tokens) - len(completion(one))
        logp = (full_logits(model, one.tokens)[start - 1 : -1] / one.temperature).log_softmax(-1)
        found.append(
            torch.tensor(one.logp_sampler[start:]) - logp.gather(-1, torch.tensor(completion(one))[:, None])[:, 0]
        )
    return torch.cat(found).abs()


@pytest.mark.parametrize("family", FITTING)
def test_a_sampler_is_nearer_to_the_model_than_with_torchs(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16, rows leaving and joining, prompts read together: fewer roundings, and no new error."""
    kernels()
    model = build(FITTING[family]())
    rounded = copy.deepcopy(model).bfloat16().float()
    prompts, limits = some_prompts(5, 3, longest=90)[1:], SamplingLimits(30)
    monkeypatch.setattr("superrl.sampling.local.COMMON_NATIVE", 1)
    options = {"deterministic": False, "compute_dtype": torch.bfloat16, "slots": 7}
    ours = make_sampler(model, **options)
    assert ours._native
    monkeypatch.setattr("superrl.sampling.local.kernels_for", lambda model: None)
    theirs = make_sampler(model, **options)
    assert not theirs._native and theirs._lean is not None
    ours_gap, theirs_gap = (gaps(flat(one.sample(prompts, limits)), rounded).mean() for one in (ours, theirs))
    assert ours_gap < theirs_gap < 0.1


@pytest.mark.parametrize("family", ["llama", "qwen2, windows in some"])
def test_it_sleeps_and_wakes_with_new_weights(family: str) -> None:
    kernels()
    old, new = build(FITTING[family](), 5), build(FITTING[family](), 6)
    options = {"deterministic": False, "compute_dtype": torch.bfloat16}
    sampler, fresh = make_sampler(old, **options), make_sampler(new, **options)
    sampler.sleep()
    sampler.load(dict(named_weights(new)), 1)
    found, expected = (flat(one.sample(some_prompts(3, 2), SamplingLimits(12))) for one in (sampler, fresh))
    assert [t.tokens for t in found] == [t.tokens for t in expected]
    assert [t.logp_sampler for t in found] == [t.logp_sampler for t in expected]


def test_without_a_compiler_torch_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "functions", lambda source, **macros: None)
    assert native.kernels(32, 2) is None
    model = build(FITTING["llama"]())
    sampler = make_sampler(model, deterministic=False, compute_dtype=torch.bfloat16)
    assert sampler._lean is not None and not sampler._native
    assert len(sampler.sample(some_prompts(2, 1), SamplingLimits(4))) == 2


def test_kernels_that_compute_something_else_are_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels()
    options = {"deterministic": False, "compute_dtype": torch.bfloat16}
    model = build(FITTING["llama"]())
    attend, product = Attention.__call__, Kernels.product
    with monkeypatch.context() as patch:
        patch.setattr(Attention, "__call__", lambda step, *given: 2 * attend(step, *given))
        sampler = make_sampler(model, **options)
        assert sampler._lean is not None and not sampler._native
    with monkeypatch.context() as patch:
        patch.setattr(Kernels, "product", lambda ours, *given: 2 * product(ours, *given))
        sampler = make_sampler(model, **options)
        assert sampler._lean is not None and not sampler._native


def test_a_sampler_with_graphs_has_steps_of_fixed_shapes() -> None:
    model = build(FITTING["llama"]())
    options = {"deterministic": False, "compute_dtype": torch.bfloat16}
    recorded = make_sampler(model, record=lambda step, tokens, positions: lambda: step(tokens, positions), **options)
    assert not recorded._native
