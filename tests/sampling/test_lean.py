"""The lean forward pass against transformers' own, and the models that it keeps its hands off."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from test_local import completion, full_logits, some_prompts
from tiny_models import SHAPE, make_sampler
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GemmaConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from superrl.learner.copies import named_weights
from superrl.sampling import lean, matrices
from superrl.sampling.probe import serve, shaken
from superrl.sampling.protocol import SamplingLimits

FITTING: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": lambda: LlamaConfig(**SHAPE),
    "llama, tied": lambda: LlamaConfig(**{**SHAPE, "tie_word_embeddings": True}),
    "llama, biased, stretched": lambda: LlamaConfig(
        **SHAPE, attention_bias=True, rope_scaling={"rope_type": "linear", "factor": 2.0}
    ),
    "mistral, windows": lambda: MistralConfig(**SHAPE, sliding_window=8),
    "qwen2, windows in some": lambda: Qwen2Config(
        **SHAPE, sliding_window=8, use_sliding_window=True, max_window_layers=1
    ),
    "qwen3": lambda: Qwen3Config(**SHAPE),
    "qwen3, one head of keys": lambda: Qwen3Config(**{**SHAPE, "num_key_value_heads": 1}),
}
OTHERS: dict[str, Callable[[], PretrainedConfig]] = {
    "another activation": lambda: LlamaConfig(**SHAPE, hidden_act="gelu"),
    "gemma": lambda: GemmaConfig(**SHAPE),
    "gemma2": lambda: Gemma2Config(**SHAPE),
    "granite": lambda: GraniteConfig(**SHAPE),
    "cohere": lambda: CohereConfig(**SHAPE),
    "olmo2": lambda: Olmo2Config(**SHAPE),
}


def build(config: PretrainedConfig, seed: int = 5) -> PreTrainedModel:
    """A model in float32 whose norms and biases are not what they begin with."""
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * (0.1 if "norm" in name else 0.5))
    return model


def fitting(model: PreTrainedModel) -> lean.Lean | None:
    return lean.fitting(model, serve(model))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("family", FITTING)
def test_draws_and_log_probs_are_those_of_a_full_forward(
    family: str, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(FITTING[family]())
    if not packed:
        monkeypatch.setattr(matrices, "packs", lambda weight: False)
    exact = make_sampler(model)
    fast = make_sampler(model, deterministic=False)
    assert exact._lean is None and fast._lean is not None
    prompts, limits = some_prompts(4, 3, longest=40), SamplingLimits(24)
    for one, other in zip(fast.sample(prompts, limits), exact.sample(prompts, limits), strict=True):
        assert [t.tokens for t in one] == [t.tokens for t in other]
        for trajectory in one:
            start = len(trajectory.tokens) - len(completion(trajectory))
            logits = full_logits(model, trajectory.tokens)[start - 1 : -1].double()
            logp = (logits / trajectory.temperature).log_softmax(-1)
            expected = logp.gather(-1, torch.tensor(completion(trajectory))[:, None])[:, 0].float()
            given = torch.tensor(trajectory.logp_sampler[start:])
            torch.testing.assert_close(given, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", OTHERS)
def test_what_is_built_otherwise_is_left_to_transformers(family: str) -> None:
    assert fitting(build(OTHERS[family]())) is None


def test_what_only_computes_otherwise_is_left_to_transformers() -> None:
    model = build(LlamaConfig(**SHAPE))
    assert fitting(copy.deepcopy(model)) is not None
    model.model.layers[1].mlp.register_forward_hook(lambda module, given, found: found * 1.01)
    assert fitting(model) is None


def test_a_linear_layer_of_another_kind_is_left_to_transformers() -> None:
    class Scaled(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(input)

    model = build(LlamaConfig(**SHAPE))
    model.model.layers[0].self_attn.k_proj.__class__ = Scaled
    assert fitting(model) is None


@pytest.mark.parametrize("wrong", ["norms", "biases"])
def test_what_only_other_weights_would_show_is_seen_on_a_fresh_model(
    wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that waits for its weights has norms of ones and biases of zeros."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(Qwen2Config(**SHAPE), dtype=torch.float32)
    kept = {name: p.clone() for name, p in model.named_parameters()}
    assert make_sampler(model, deterministic=False)._lean is not None
    if wrong == "norms":
        monkeypatch.setattr(
            matrices.Norm, "__call__", lambda norm, x: nn.functional.rms_norm(x, x.shape[-1:], None, 1e-6)
        )
    else:
        monkeypatch.setattr(matrices, "packs", lambda weight: False)
        monkeypatch.setattr(matrices, "linear", lambda x, weight, bias: nn.functional.linear(x, weight))
    sampler = make_sampler(model, deterministic=False)
    assert sampler._lean is None
    for name, parameter in sampler._model.named_parameters():
        torch.testing.assert_close(parameter, kept[name], rtol=0, atol=0)


def test_what_has_learnt_something_is_not_shaken() -> None:
    """Small norms, as trained models have them, shaken by much more than they are, would leave noise to compare."""
    model = build(LlamaConfig(**SHAPE, attention_bias=True))
    fresh, learnt = model.model.norm.weight, model.model.layers[0].input_layernorm.weight
    fresh.data.fill_(1.0)
    learnt.data.mul_(0.02)
    before = learnt.clone()
    with shaken(model):
        assert torch.equal(learnt, before)
        assert float(fresh.std()) > 0.05
    assert torch.equal(fresh, torch.ones_like(fresh))


def test_where_torch_has_no_onednn_nothing_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    assert not matrices.packs(torch.zeros(2, 2, dtype=torch.bfloat16))
    assert not matrices.packs(torch.zeros(2, 2, dtype=torch.float32))
    assert not matrices.packs(torch.zeros(2, 2, dtype=torch.float64))


def test_a_layer_that_is_not_packed_is_read_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrices, "packs", lambda weight: False)
    sampler = make_sampler(build(LlamaConfig(**{**SHAPE, "tie_word_embeddings": True})), deterministic=False)
    held = {name: p.untyped_storage().nbytes() // p.element_size() for name, p in sampler._model.named_parameters()}
    assert held["model.layers.0.self_attn.q_proj.weight"] == 1, "one of three in a matrix"
    assert sampler._lean is not None
    assert sampler._lean._head._weight is sampler._model.get_output_embeddings().weight
    up = sampler._model.model.layers[0].mlp.up_proj.weight
    assert held["model.layers.0.mlp.up_proj.weight"] == up.numel()


@pytest.mark.usefixtures("either_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FITTING)
def test_new_weights_arrive_everywhere(family: str, dtype: torch.dtype) -> None:
    old, new = build(FITTING[family](), 5), build(FITTING[family](), 6)
    sampler = make_sampler(old, deterministic=False, compute_dtype=dtype)
    fresh = make_sampler(new, deterministic=False, compute_dtype=dtype)
    prompts, limits = some_prompts(3, 2), SamplingLimits(12)
    before = sampler.sample(prompts, limits)
    sampler.load(dict(named_weights(new)), 1)
    after, expected = sampler.sample(prompts, limits), fresh.sample(prompts, limits)
    tokens = [[[t.tokens for t in group] for group in groups] for groups in (before, after, expected)]
    assert tokens[0] != tokens[1] == tokens[2]
    logps = [[[t.logp_sampler for t in group] for group in groups] for groups in (after, expected)]
    assert logps[0] == logps[1]


def test_a_weight_that_only_a_matrix_reads_is_not_kept_twice() -> None:
    model = copy.deepcopy(build(LlamaConfig(**{**SHAPE, "tie_word_embeddings": True})))
    sampler = make_sampler(model, deterministic=False)
    held = {name: p.untyped_storage().nbytes() // p.element_size() for name, p in sampler._model.named_parameters()}
    assert held["model.layers.0.mlp.up_proj.weight"] == held["model.layers.1.self_attn.q_proj.weight"] == 1
    assert held["model.embed_tokens.weight"] == model.model.embed_tokens.weight.numel()
    assert model.model.layers[0].mlp.up_proj.weight.untyped_storage().nbytes() > 4, "not the caller's"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_products_of_a_packed_matrix_are_those_of_a_plain_one(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(48, 40, bias=True, dtype=dtype), nn.Linear(48, 24, bias=True, dtype=dtype)]
    x, other = torch.randn(7, 48, dtype=dtype), torch.randn(7, 64, dtype=dtype)

    @torch.inference_mode()
    def products() -> list[torch.Tensor]:
        matrix = matrices.matrix(None, *layers)
        matrix.lay({})
        return [matrix(x), matrix.silu(x), matrix.times(x, other), matrix.plus(x, other)]

    packed = products()
    monkeypatch.setattr(matrices, "packs", lambda weight: False)
    whole = torch.cat([layer(x) for layer in layers], -1)
    by_hand = [whole, nn.functional.silu(whole), whole * other, whole + other]
    for found, plain, expected in zip(packed, products(), by_hand, strict=True):
        torch.testing.assert_close(plain, expected)
        tolerance = 1e-5 if dtype == torch.float32 else 2e-2
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
