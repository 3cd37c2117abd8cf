"""Tiny random models of several families, and samplers of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from small_tokenizers import EOS, byte_tokenizer
from superrl.sampling.local import LocalSampler

TOKENIZER = byte_tokenizer()
VOCABULARY = len(TOKENIZER)
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
GPT2_SHAPE = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 200, "initializer_range": 0.2}
SLIDING = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8, "query_pre_attn_scalar": 32}
CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": lambda: LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "qwen2": lambda: Qwen2Config(**SHAPE, tie_word_embeddings=False),
    "qwen3": lambda: Qwen3Config(**SHAPE, tie_word_embeddings=True),
    "gemma2": lambda: Gemma2Config(**SHAPE, **SLIDING, attn_logit_softcapping=5.0, final_logit_softcapping=20.0),
    "gemma3": lambda: Gemma3TextConfig(**SHAPE, **SLIDING),
    "gpt2": lambda: GPT2Config(vocab_size=VOCABULARY, bos_token_id=None, eos_token_id=None, **GPT2_SHAPE),
}
FAMILIES = sorted(CONFIGS)


def build_model(family: str) -> PreTrainedModel:
    """A random model whose distributions are neither flat nor one-hot."""
    torch.manual_seed(3)
    return AutoModelForCausalLM.from_config(CONFIGS[family](), dtype=torch.float32).eval()


def make_sampler(model: PreTrainedModel, **options: Any) -> LocalSampler:
    """A sampler with a copy of the model."""
    return LocalSampler(copy.deepcopy(model), TOKENIZER, **{"eos_ids": [EOS], "slots": 16, **options})
