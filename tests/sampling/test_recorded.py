"""Recorded decode steps: traced operator by operator here, as CUDA graphs on a GPU. Either way a replay does what was
recorded, over the same memory, whatever Python would do now."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from test_lean import build
from test_local import flat, some_prompts
from tiny_models import SHAPE, build_model, make_sampler
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from transformers import GemmaConfig, LlamaConfig, Qwen2Config

from superrl.errors import UserError
from superrl.learner.copies import named_weights
from superrl.records import Trajectory
from superrl.sampling import matrices
from superrl.sampling.protocol import SamplingLimits
from superrl.sampling.recorded import Step, cuda_graph

LIMITS = SamplingLimits(150)
WINDOWED = Qwen2Config(**SHAPE, sliding_window=8, use_sliding_window=True, max_window_layers=1)


class Tracer:
    """A `Recorder` for the CPU."""

    def __init__(self) -> None:
        self.recorded: list[int] = []
        self.replays = 0

    def __call__(self, step: Step, tokens: Tensor, positions: Tensor) -> Callable[[], Tensor]:
        traced = make_fx(step)(tokens, positions)
        self.recorded.append(len(tokens))

        def again() -> Tensor:
            self.replays += 1
            found: Tensor = traced(tokens, positions)
            return found

        return again


@pytest.fixture(autouse=True)
def plain_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: weights are not packed."""
    monkeypatch.setattr(matrices, "packs", lambda weight: False)


def assert_same(found: list[Trajectory], expected: list[Trajectory]) -> None:
    assert [t.tokens for t in found] == [t.tokens for t in expected]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.tensor(one.logp_sampler), torch.tensor(other.logp_sampler), rtol=0, atol=1e-4)


@pytest.mark.parametrize("config", [LlamaConfig(**SHAPE), WINDOWED], ids=["llama", "windows"])
def test_replays_draw_what_steps_draw(config: LlamaConfig) -> None:
    model, tracer = build(config), Tracer()
    plain = make_sampler(model, deterministic=False, slots=20)
    replaying = make_sampler(model, deterministic=False, slots=20, record=tracer)
    for prompts in (some_prompts(5, 5, longest=60), some_prompts(2, 3)):
        assert_same(flat(replaying.sample(prompts, LIMITS)), flat(plain.sample(prompts, LIMITS)))
    assert set(tracer.recorded) <= {8, 12, 16, 20}
    assert len(tracer.recorded) <= 8, "twice as many shapes of rows, two of keys"
    assert tracer.replays > 10 * len(tracer.recorded)


def test_new_weights_reach_what_was_recorded() -> None:
    config, tracer = Qwen2Config(**SHAPE), Tracer()
    old, new = build(config, 5), build(config, 6)
    sampler = make_sampler(old, deterministic=False, record=tracer)
    prompts, limits = some_prompts(2, 2), SamplingLimits(20)
    sampler.sample(prompts, limits)
    recorded = len(tracer.recorded)
    sampler.load(dict(named_weights(new)), 1)
    found = flat(sampler.sample(prompts, limits))
    assert len(tracer.recorded) == recorded, "not recorded again"
    assert_same(found, flat(make_sampler(new, deterministic=False).sample(prompts, limits)))


def test_keys_that_went_elsewhere_are_recorded_anew() -> None:
    model, tracer = build(LlamaConfig(**SHAPE)), Tracer()
    sampler = make_sampler(model, deterministic=False, record=tracer)
    sampler.sample(some_prompts(1, 2), SamplingLimits(4))
    recorded = len(tracer.recorded)
    sampler.close()
    prompts, limits = some_prompts(1, 2, longest=100), SamplingLimits(100)
    expected = flat(make_sampler(model, deterministic=False).sample(prompts, limits))
    assert_same(flat(sampler.sample(prompts, limits)), expected)
    assert len(tracer.recorded) > recorded


def test_a_model_without_a_lean_pass_is_refused() -> None:
    with pytest.raises(UserError, match=r"sampler\.graphs: GemmaForCausalLM has no forward pass"):
        make_sampler(build(GemmaConfig(**SHAPE)), deterministic=False, record=Tracer())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_graphs_draw_what_steps_draw() -> None:
    model = build_model("llama").to("cuda")
    plain = make_sampler(model, deterministic=False, slots=20)
    replaying = make_sampler(model, deterministic=False, slots=20, record=cuda_graph)
    for prompts in (some_prompts(5, 5, longest=60), some_prompts(2, 3)):
        assert_same(flat(replaying.sample(prompts, LIMITS)), flat(plain.sample(prompts, LIMITS)))
    new = build(LlamaConfig(**SHAPE, tie_word_embeddings=True)).to("cuda")
    replaying.load(dict(named_weights(new)), 1)
    fresh = make_sampler(new, deterministic=False, slots=20)
    prompts = some_prompts(3, 4)
    assert_same(flat(replaying.sample(prompts, LIMITS)), flat(fresh.sample(prompts, LIMITS)))
