"""A trunk that keeps less against the model's own: the same values bit by bit, gradients to rounding, fewer bytes."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BambaConfig,
    CohereConfig,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from builders import SMALL, flat_gradient, sample, tiny_llama
from ranks import in_world, on_ranks
from superrl.config import LoraConfig, OptimizerConfig
from superrl.learner import forward, fused
from superrl.learner.learner import Learner, Schedule
from superrl.learner.linear import by_onednn
from superrl.learner.sharding import whole
from superrl.models import with_adapters
from superrl.packing.pack import steady
from superrl.packing.rows import pack

BF16 = torch.bfloat16
SHAPE = {**SMALL, "max_position_embeddings": 64, "pad_token_id": 0}
INPUT, MIDDLE = "layers.*.input_layernorm", "layers.*.post_attention_layernorm"
FAMILIES = {
    "llama": (LlamaConfig(**SHAPE, mlp_bias=True, attention_bias=True), {INPUT, MIDDLE}, True),
    "qwen2": (Qwen2Config(**SHAPE), {INPUT, MIDDLE}, True),
    "qwen3": (Qwen3Config(**SHAPE, head_dim=8), {INPUT, MIDDLE}, True),  # q_norm feeds the rotary embedding
    "mistral": (MistralConfig(**SHAPE, hidden_act="gelu_pytorch_tanh"), {INPUT, MIDDLE}, True),
    "olmo2": (Olmo2Config(**SHAPE), None, True),  # norms after the layers, rounded elsewhere
    "gemma2": (Gemma2Config(**SHAPE, head_dim=8, sliding_window=4), None, True),  # 1 + weight
    "cohere": (CohereConfig(**SHAPE), None, True),  # a mean is taken off, too
}


@pytest.fixture(autouse=True)
def several_pieces(monkeypatch):
    monkeypatch.setattr(fused, "PIECE", 32 * 7)


def batch():
    (one,) = pack([sample(30, 25, seed=i) for i in range(3)], 1000)
    return one


def logprobs(model):
    found = forward.token_logprobs(model, batch(), BF16)[0]
    (found * torch.linspace(-1, 1, len(found))).sum().backward()
    return found.detach(), flat_gradient(model)


def distance(one, other):
    return float((one - other).norm() / other.norm())


def shaken(model):
    """A model whose norms' weights are not all ones."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_computes_the_same_and_only_what_fits_is_replaced(family):
    config, narrow, gated = FAMILIES[family]
    torch.manual_seed(0)
    own = shaken(AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval())
    lean = deepcopy(own)
    fused.save_less(lean, BF16)
    norms = {n: m for n, m in forward.trunk(lean).named_modules() if isinstance(m, fused.Norm)}
    assert {n.replace(".0.", ".*.") for n, m in norms.items() if m.narrow and ".1." not in n} == (narrow or set())
    assert bool(norms) == (narrow is not None)
    assert any(isinstance(m, fused.Gated) for m in lean.modules()) == gated
    (values, slopes), (expected, exact) = logprobs(lean), logprobs(own)
    assert torch.equal(values, expected)
    reference = flat(own)
    assert distance(slopes, exact) <= 0.02
    assert distance(slopes, reference) <= 1.2 * distance(exact, reference)  # no less exact than torch's own
    again = logprobs(lean)
    assert torch.equal(values, again[0]) and torch.equal(slopes, again[1])


def flat(model):
    """The float32 gradient."""
    found = forward.token_logprobs(model, batch(), torch.float32)[0]
    (found * torch.linspace(-1, 1, len(found))).sum().backward()
    return flat_gradient(model)


def test_float32_stays_bit_equal():
    own, lean = tiny_llama(), tiny_llama()
    by_onednn(own)
    fused.refit(lean, BF16)
    assert torch.equal(flat(own), flat(lean))
    untouched = tiny_llama()
    fused.refit(untouched, torch.float32)
    assert not any(isinstance(m, fused.Norm | fused.Gated | fused.Lean) for m in untouched.modules())


def test_bytes_kept():
    """Of a layer in bfloat16: the residual stream twice in float32, a float32 a row for each norm, what q, k, v read,
    the three themselves, what o reads, what the MLP reads, gate and up; no weight but those that are there."""
    model = tiny_llama(num_hidden_layers=1)
    fused.refit(model, BF16)
    forward.trunk(model).norm = nn.Identity()
    learner = Learner(model, BF16, Schedule(OptimizerConfig(), 1, 1, 1, 1000, 0))
    (one,) = learner.pack([sample(30, 25, seed=0)], 1000)
    rotary, hidden, inner = 2 * 4 * 8, 32, 64
    expected = 2 * (4 * hidden + 4) + 2 * (hidden + 2 * hidden + hidden + hidden) + 2 * 2 * inner + rotary
    assert (
        kept(model, lambda: forward.hidden_states(forward.trunk(model), one, BF16)) == steady(one.computed) * expected
    )


def test_a_layer_keeps_its_input_once_and_a_frozen_one_none():
    model = tiny_llama(num_hidden_layers=1)
    fused.refit(model, BF16)
    mlp = forward.trunk(model).layers[0].mlp
    x = torch.randn(1, 5, 32, requires_grad=True)
    with torch.autocast("cpu", BF16):
        assert kept(model, lambda: mlp(x)) == 5 * 2 * (32 + 2 * 64)
        assert kept(model, lambda: mlp.requires_grad_(False)(x)) == 5 * 2 * (2 * 64)


def kept(model, compute):
    """Bytes of what `compute` saves for its backward pass, the model's own weights not counted."""
    weights = {p.data_ptr() for p in model.parameters()}
    found = {}

    def note(tensor):
        memory = tensor.untyped_storage()
        if memory.data_ptr() not in weights and tensor.is_floating_point():
            found[memory.data_ptr()] = (tensor, memory.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        compute()
    return sum(size for _, size in found.values())


def test_adapters_are_called_and_learn_the_same():
    found = []
    for lean in (False, True):
        model = with_adapters(tiny_llama(), LoraConfig(rank=2))
        torch.manual_seed(0)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_()
        if lean:
            fused.refit(model, BF16)
            assert sum(isinstance(m, fused.Gated) for m in model.modules()) == 2
            assert sum(isinstance(m, fused.Norm) and m.narrow for m in model.modules()) == 4
        found.append(logprobs(model))
        assert all(p.grad is None for n, p in model.named_parameters() if "lora_" not in n)
    assert torch.equal(found[0][0], found[1][0]) and distance(found[1][1], found[0][1]) <= 0.02


def test_activation_checkpointing_changes_no_bit():
    found = []
    for recompute in (False, True):
        model = tiny_llama()
        fused.refit(model, BF16)
        if recompute:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.train()
        found.append(logprobs(model))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])


def test_listeners_hear_what_they_heard():
    own, lean = tiny_llama(), tiny_llama()
    fused.refit(lean, BF16)
    heard = []
    for model in (own, lean):
        for layer in forward.trunk(model).layers:
            layer.mlp.down_proj.register_forward_pre_hook(lambda _, inputs: heard.append(inputs[0].flatten(0, -2)))
        logprobs(model)
    assert len(heard) == 4 and torch.equal(heard[0], heard[2]) and torch.equal(heard[1], heard[3])


def test_no_gradient_no_difference():
    own, lean = tiny_llama(), tiny_llama()
    fused.refit(lean, BF16)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            a, b = (forward.token_logprobs(model, batch(), BF16)[0] for model in (own, lean))
        assert torch.equal(a, b)


def test_a_second_learner_s_model_is_refitted_once():
    model = tiny_llama()
    fused.refit(model, BF16)
    kinds = [type(module) for module in model.modules()]
    fused.refit(model, BF16)
    assert kinds == [type(module) for module in model.modules()]


class Clamped(LlamaMLP):
    """The parts of a gated MLP, but large products are cut off, as in families whose small ones look like Llama's."""

    def forward(self, x):
        return self.down_proj(self.act_fn(self.gate_proj(x)).clamp(max=10.0) * self.up_proj(x))


class GatedNorm(LlamaRMSNorm):
    """A norm with a second argument, as in layers with a state."""

    def forward(self, hidden_states, gate=None):
        normed = super().forward(hidden_states)
        return normed if gate is None else normed * nn.functional.silu(gate)


def test_what_reads_otherwise_stays():
    model = tiny_llama()
    for layer in forward.trunk(model).layers:
        layer.mlp, layer.input_layernorm = Clamped(model.config), GatedNorm(model.config.hidden_size)
    fused.save_less(model, BF16)
    for layer in forward.trunk(model).layers:
        assert type(layer.mlp) is Clamped and type(layer.input_layernorm) is GatedNorm
        assert isinstance(layer.post_attention_layernorm, fused.Norm)


def test_a_family_with_gated_norms_is_refitted_and_still_computes():
    torch.manual_seed(0)
    sizes = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 8}
    config = BambaConfig(**SHAPE, **sizes, attn_layer_indices=[1], attn_rotary_emb=8)
    own = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    lean, tokens = deepcopy(own), torch.arange(12)[None]
    fused.refit(lean, BF16)
    assert any(isinstance(module, fused.Norm) for module in lean.modules())
    with torch.autocast("cpu", dtype=BF16):
        found, expected = (model(input_ids=tokens, use_cache=False).logits for model in (lean, own))
    torch.testing.assert_close(found, expected)


def test_a_refitted_layer_takes_no_rows_and_a_single_one():
    layer = nn.Linear(4, 3)
    layer.__class__ = fused.Lean
    with torch.autocast("cpu", dtype=BF16):
        assert layer(torch.zeros(0, 4)).shape == (0, 3)
        assert layer(torch.zeros(4)).shape == (3,)


def wide(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


@pytest.mark.parametrize("act", [nn.functional.silu, nn.functional.gelu])
def test_slopes_of_the_gated_product(act, monkeypatch):
    monkeypatch.setattr(fused, "PIECE", 8)  # 2 rows of 4
    gate, up, w = wide(5, 4, seed=0), wide(5, 4, seed=1), wide(3, 4, seed=2)
    assert torch.autograd.gradcheck(lambda g, u: fused._GatedProduct.apply(g, u, act), (gate, up))
    assert torch.autograd.gradcheck(lambda *all_: fused._GatedDown.apply(*all_, act), (gate, up, w))
    torch.testing.assert_close(fused._GatedProduct.apply(gate, up, act), act(gate) * up, rtol=1e-12, atol=1e-12)


def test_slopes_of_the_norm(monkeypatch):
    monkeypatch.setattr(fused, "PIECE", 8)
    x, w = wide(5, 4, seed=0), wide(4, seed=1)
    assert torch.autograd.gradcheck(lambda x, w: fused._Normalise.apply(x, w, 0.1, torch.float64), (x, w))


def test_slopes_of_the_product():
    x, w, b = wide(5, 4, seed=0), wide(3, 4, seed=1), wide(3, seed=2)
    assert torch.autograd.gradcheck(fused._Multiply.apply, (x, w, b))
    assert torch.autograd.gradcheck(lambda x, w: fused._Multiply.apply(x, w, None), (x, w.detach()))


def gradient(world):
    """The whole gradient of one pack, split where there are several ranks."""
    learner = Learner(tiny_llama(), BF16, Schedule(OptimizerConfig(), 1, 1, 1, 1000, 0), world=world)
    if not world.alone:
        learner.split()
    (one,) = learner.pack([sample(30, 25, seed=i) for i in range(3)], 1000)
    found = learner._within(learner.model, lambda: forward.token_logprobs(learner.model, one, BF16)[0])
    found.sum().backward()
    assert any(isinstance(m, fused.Gated) for m in learner.model.modules())
    return torch.cat([whole(p.grad).flatten() for p in learner.model.parameters()])


def test_split_weights_give_the_same_gradient():
    (alone,) = on_ranks(1, in_world, gradient)
    for theirs in on_ranks(2, in_world, gradient):
        assert distance(theirs, alone) <= 1e-6
