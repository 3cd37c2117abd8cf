"""Trunk and chunked head against the model's own logits, for every family of architecture we promise."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GraniteConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen3Config,
)

from builders import SMALL, VOCABULARY, flat_gradient, sample, tiny_llama
from superrl.errors import UserError
from superrl.learner import forward, head, probe
from superrl.packing.rows import pack

SHAPE = {**SMALL, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
CONFIGS = {
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE, head_dim=8),
    "gemma2": Gemma2Config(**SHAPE, head_dim=8, sliding_window=4, final_logit_softcapping=2.0),
    "gemma3": Gemma3TextConfig(**SHAPE, head_dim=8, sliding_window=4),
    "granite": GraniteConfig(**SHAPE, logits_scaling=3.0),
    "cohere": CohereConfig(**SHAPE, logit_scale=0.1),
    "gpt2": GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=0),
}


def build(name):
    torch.manual_seed(0)
    return tiny_llama() if name == "llama" else AutoModelForCausalLM.from_config(CONFIGS[name]).eval()


@pytest.mark.parametrize("name", ["llama", *CONFIGS])
def test_logprobs_are_the_model_s_own(name, monkeypatch):
    monkeypatch.setattr(head, "CHUNK_LOGITS", 16 * VOCABULARY)  # several chunks
    model = build(name)
    samples = [sample(12, 7, seed=1), sample(20, 15, seed=2), sample(9, 8, seed=3)]
    (batch,) = pack(samples, 1000)
    logp, entropy = forward.token_logprobs(model, batch, torch.float32, with_entropy=True)
    expected, entropies = [], []
    for i in batch.items:
        table = model(torch.tensor([samples[i].tokens])).logits[0].log_softmax(-1)
        trained = [t for t, m in enumerate(samples[i].loss_mask) if m]
        expected += [table[t - 1, samples[i].tokens[t]] for t in trained]
        entropies += [torch.distributions.Categorical(logits=table[t - 1]).entropy() for t in trained]
    torch.testing.assert_close(logp, torch.stack(expected), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(entropy, torch.stack(entropies), rtol=1e-5, atol=1e-6)
    assert probe.disagreement(model, batch.tokens[:1]) < 1e-5


def test_temperature_divides_the_logits():
    from dataclasses import replace

    model, one = tiny_llama(), replace(sample(10, 4, seed=1), temperature=0.5)
    (batch,) = pack([one], 100)
    logp, _ = forward.token_logprobs(model, batch, torch.float32)
    table = (model(torch.tensor([one.tokens])).logits[0] / 0.5).log_softmax(-1)
    expected = torch.stack([table[t - 1, one.tokens[t]] for t in range(6, 10)])
    torch.testing.assert_close(logp, expected, rtol=1e-5, atol=1e-6)


def test_chunks_do_not_change_the_gradient(monkeypatch):
    model = tiny_llama()
    (batch,) = pack([sample(30, 25, seed=i) for i in range(4)], 1000)

    def gradient():
        forward.token_logprobs(model, batch, torch.float32)[0].sum().backward()
        return flat_gradient(model)

    whole = gradient()
    monkeypatch.setattr(head, "CHUNK_LOGITS", 17 * VOCABULARY)
    torch.testing.assert_close(gradient(), whole, rtol=1e-5, atol=1e-6)


def test_bfloat16_compute_keeps_float32_gradients():
    model = tiny_llama()
    (batch,) = pack([sample(30, 25, seed=1)], 1000)
    logp, _ = forward.token_logprobs(model, batch, torch.bfloat16)
    logp.sum().backward()
    assert logp.dtype == torch.float32
    assert {p.grad.dtype for p in model.parameters()} == {torch.float32}
    exact, _ = forward.token_logprobs(model, batch, torch.float32)
    assert 0 < float((logp - exact).detach().abs().max()) < 0.1


@pytest.mark.gpu
def test_the_gpu_agrees_with_the_cpu():
    model = tiny_llama()
    (batch,) = pack([sample(30, 25, seed=1)], 1000)
    here, _ = forward.token_logprobs(model, batch, torch.float32)
    there, _ = forward.token_logprobs(model.cuda(), batch.to(torch.device("cuda")), torch.float32)
    torch.testing.assert_close(there.cpu(), here, rtol=1e-4, atol=1e-4)


def test_activation_checkpointing_changes_no_bit_of_the_gradient():
    (batch,) = pack([sample(30, 25, seed=i) for i in range(3)], 1000)

    def gradient(recompute):
        model = tiny_llama()
        if recompute:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.train()
        forward.token_logprobs(model, batch, torch.float32)[0].sum().backward()
        return flat_gradient(model)

    assert torch.equal(gradient(True), gradient(False))


class Doubled(LlamaForCausalLM):
    """A model that does something to its logits that nobody told us of."""

    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        out.logits = out.logits * 2
        return out


def test_a_model_with_logits_of_its_own_is_refused():
    plain = tiny_llama()
    probe.check_served(plain)
    with pytest.raises(UserError, match="Doubled treats its logits"):
        probe.check_served(Doubled(plain.config))
