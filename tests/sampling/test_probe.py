"""Real families whose windows or caches are not what a keyword says: served as their own forward pass, or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_local import completion, full_logits
from tiny_models import SHAPE, TOKENIZER, VOCABULARY, make_sampler
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BertConfig,
    DiffLlamaConfig,
    DogeConfig,
    Glm4MoeConfig,
    GptOssConfig,
    MistralConfig,
    MixtralConfig,
    OlmoeConfig,
    PhimoeConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2MoeConfig,
    StableLmConfig,
)

from superrl.config import ModelConfig, OptimizerConfig
from superrl.errors import UserError
from superrl.learner.copies import named_weights
from superrl.learner.learner import Learner, Schedule
from superrl.models import load_model, sampler_model
from superrl.persistence import save_model
from superrl.sampling import probe
from superrl.sampling.protocol import Prompt, SamplingLimits

EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}
EVEN = {**SHAPE, "head_dim": 16}
"""For families that do not read head_dim."""
WINDOW = {"sliding_window": 8}
HALF = {**WINDOW, "use_sliding_window": True}
SERVED: dict[str, tuple[Callable[[], PretrainedConfig], list[int | None]]] = {
    "a window in the mask alone": (
        lambda: Qwen2MoeConfig(**SHAPE, **EXPERTS, **HALF, max_window_layers=2),
        [8, None],
    ),
    "the same, of other experts": (lambda: PhimoeConfig(**SHAPE, **EXPERTS, **WINDOW), [8, 8]),
    "a keyword that no mask follows": (lambda: OlmoeConfig(**EVEN, **EXPERTS, **WINDOW), [None, None]),
    "both": (lambda: MistralConfig(**SHAPE, **WINDOW), [8, 8]),
    "both, with experts": (lambda: MixtralConfig(**SHAPE, **EXPERTS, **WINDOW), [8, 8]),
    "both, in some layers": (lambda: Qwen2Config(**SHAPE, **HALF, max_window_layers=1), [None, 8]),
    "two calls a layer": (lambda: DiffLlamaConfig(**SHAPE), [None, None]),
}
REFUSED: dict[str, tuple[Callable[[], PretrainedConfig], str]] = {
    "a mask of its own": (lambda: DogeConfig(**SHAPE), "DogeAttention has an attention mask of its own"),
    "sinks": (lambda: GptOssConfig(**SHAPE, **EXPERTS), "GptOssAttention uses s_aux"),
    "a cache of another kind": (lambda: StableLmConfig(**EVEN), "StableLmAttention is not handed the sampler's cache"),
    "attention to what comes later": (
        lambda: BertConfig(**SHAPE),
        "BertLMHeadModel computes something else token by token than at once",
    ),
    "positions of its own": (
        lambda: BartConfig(vocab_size=VOCABULARY, d_model=32, decoder_layers=1, decoder_attention_heads=2),
        "BartForCausalLM",
    ),
}


def build(config: PretrainedConfig) -> PreTrainedModel:
    torch.manual_seed(3)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("case", sorted(SERVED))
def test_rows_far_longer_than_a_window_are_those_of_the_model_itself(case: str, deterministic: bool) -> None:
    make, windows = SERVED[case]
    model = build(make())
    sampler = make_sampler(model, eos_ids=[], deterministic=deterministic)
    assert list(sampler._cache.windows.values()) == windows
    draw = torch.Generator().manual_seed(1)
    prompts = [
        Prompt(tuple(torch.randint(VOCABULARY, (length,), generator=draw).tolist()), 2, (length,), 0.7)
        for length in (1, 20, 33)
    ]
    for group in sampler.sample(prompts, SamplingLimits(16)):
        for trajectory in group:
            drawn = torch.tensor(completion(trajectory))
            logits = full_logits(model, trajectory.tokens)[-len(drawn) - 1 : -1] / 0.7
            expected = logits.log_softmax(-1).gather(-1, drawn[:, None])[:, 0]
            found = torch.tensor(trajectory.logp_sampler[-len(drawn) :])
            torch.testing.assert_close(found, expected, rtol=0, atol=5e-5)


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_what_cannot_be_served_is_refused_before_anything_is_drawn(case: str) -> None:
    make, message = REFUSED[case]
    with pytest.raises(UserError, match=message) as refused:
        make_sampler(build(make()))
    assert "use another engine" in str(refused.value)


def test_in_bfloat16_another_architecture_is_still_told_from_rounding() -> None:
    make_sampler(build(PhimoeConfig(**SHAPE, **EXPERTS)), deterministic=False, compute_dtype=torch.bfloat16)
    with pytest.raises(UserError, match="computes something else token by token"):
        make_sampler(build(BertConfig(**SHAPE)), deterministic=False, compute_dtype=torch.bfloat16)


def test_the_windows_of_a_mask_are_what_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen failing: with the keyword's window the rows above are others'."""
    real = probe._windows
    monkeypatch.setattr(probe, "_windows", lambda model: dict.fromkeys(real(model)))
    with pytest.raises(UserError, match="computes something else token by token"):
        make_sampler(build(MistralConfig(**SHAPE, **WINDOW)))


def test_a_rotary_embedding_that_looks_at_the_whole_batch_is_refused() -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    config = MistralConfig(**EVEN, rope_parameters=rope)
    with pytest.raises(UserError, match="by the length of the whole batch \\(rope 'dynamic'\\)"):
        make_sampler(AutoModelForCausalLM.from_config(config))


def test_buffers_that_are_saved_are_weights_too(tmp_path: Path) -> None:
    """How GLM-4's experts are chosen is a buffer: without it log-probabilities are those of another model, and a saved
    model cannot be loaded."""
    shape = {**SHAPE, "moe_intermediate_size": 32, "n_routed_experts": 8, "num_experts_per_tok": 2}
    config = Glm4MoeConfig(**shape, n_group=1, topk_group=1, n_shared_experts=1, first_k_dense_replace=0)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for name, buffer in model.named_buffers():
        if "correction" in name:
            buffer.normal_()
    sampler = make_sampler(sampler_model(model, torch.float32))
    sampler.load(dict(named_weights(model)), 0)
    (trajectory,) = sampler.sample([Prompt(tuple(range(5, 25)), 1, (0,))], SamplingLimits(10))[0]
    drawn = torch.tensor(trajectory.logp_sampler)[list(trajectory.loss_mask)]
    tokens = torch.tensor(trajectory.tokens)
    logp = model(tokens[None], use_cache=False).logits[0].log_softmax(-1)[:-1].gather(1, tokens[1:, None])[:, 0]
    torch.testing.assert_close(drawn, logp[-len(drawn) :].detach(), atol=1e-4, rtol=0)
    learner = Learner(model, torch.float32, Schedule(OptimizerConfig(), 1, 1, 1, 4096, 0))
    save_model(learner, TOKENIZER, tmp_path / "saved")
    again = load_model(ModelConfig(name=str(tmp_path / "saved"), dtype="float32")).state_dict()
    assert all(torch.equal(again[name], weight) for name, weight in model.state_dict().items())
