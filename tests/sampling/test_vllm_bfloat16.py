"""vLLM in bfloat16, for real: its logits are computed in float32, also from weights that are pushed."""

from itertools import chain

import pytest
import torch
from parity import gaps, moved, prompts, unsure

from superrl import models
from superrl.config import ModelConfig
from superrl.learner.copies import named_weights
from superrl.sampling.protocol import SamplingLimits

pytest.importorskip("vllm")
from superrl.sampling.vllm import VllmSampler


def test_the_head_computes_in_float32_and_follows_the_weights():
    model, tokenizer = unsure(models.load_model(ModelConfig(name="tiny"))), models.load_tokenizer("tiny")
    ends = [tokenizer.eos_token_id]
    sampler = VllmSampler(model, tokenizer, eos_ids=ends, dtype=torch.bfloat16, memory=0.25, max_length=96)
    try:
        for version in (1, 2):
            sampler.load(dict(named_weights(model)), version)
            drawn = list(chain.from_iterable(sampler.sample(prompts(tokenizer, 2, 1.0), SamplingLimits(24))))
            assert 0 < float(gaps(model, drawn).mean()) < 2e-2
            moved(model)
            assert float(gaps(model, drawn).mean()) > 5e-2
        assert sampler._engine.vllm_config.model_config.head_dtype == torch.float32
    finally:
        sampler.close()
