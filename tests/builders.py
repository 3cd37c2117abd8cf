"""Hand-made records and small real models for tests: no mocks, no files."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from superrl.records import Demonstration, Group, Problem, Sample, Score, Trajectory

VOCABULARY = 23


def trajectory(
    prompt: int, completion: int, reward: float | None = None, correct: bool | None = None, *, origin="policy", seed=0
) -> Trajectory:
    """Random tokens: `prompt` untrained ones, then `completion` trained ones."""
    rng = random.Random(f"{prompt}/{completion}/{seed}")
    total = prompt + completion
    return Trajectory(
        tokens=tuple(rng.randrange(1, VOCABULARY) for _ in range(total)),
        loss_mask=(False,) * prompt + (True,) * completion,
        logp_sampler=(0.0,) * prompt + tuple(-rng.random() for _ in range(completion)),
        text=f"completion {seed}",
        origin=origin,
        score=None if reward is None else Score(reward, correct),
    )


def group(
    rewards: Sequence[float],
    *,
    lengths: Sequence[int] | None = None,
    correct: Sequence[bool | None] | None = None,
    experts: Sequence[int] = (),
    name: str = "p",
    key: tuple[int, ...] = (),
) -> Group:
    """A scored group; by default a rollout is correct iff its reward is 1. `experts` are demonstration lengths."""
    lengths = lengths or [3] * len(rewards)
    verdicts = [reward == 1.0 for reward in rewards] if correct is None else correct
    rollouts = tuple(
        trajectory(4, length, reward, verdict, seed=hash_free(name, i))
        for i, (reward, length, verdict) in enumerate(zip(rewards, lengths, verdicts, strict=True))
    )
    demonstrations = tuple(
        trajectory(4, length, origin="expert", seed=hash_free(name, 100 + i)) for i, length in enumerate(experts)
    )
    problem = Problem(
        name,
        ({"role": "user", "content": f"question {name}"},),
        "42",
        tuple(Demonstration(f"expert {i}") for i in range(len(experts))),
    )
    return Group(problem, rollouts, demonstrations, key or (0, 0, 0, 0, 0, 0))


def hash_free(name: str, i: int) -> int:
    """A seed that does not depend on the interpreter's string hashing."""
    return sum(ord(c) * 31**k for k, c in enumerate(name)) * 1000 + i


def sample(length: int, trained: int, *, stream="pg", advantage=1.0, weight=1.0, group=0, seed=0) -> Sample:
    """A random sequence whose last `trained` tokens are trained."""
    one = trajectory(length - trained, trained, seed=seed)
    return Sample(
        one.tokens, one.loss_mask, stream, (advantage,) * length, weight, one.logp_sampler, group, temperature=1.0
    )


SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
"""The shape of a model that computes in milliseconds."""


def tiny_llama(seed: int = 0, **overrides) -> PreTrainedModel:
    """Two layers, random weights, float32."""
    torch.manual_seed(seed)
    settings = {
        **SMALL,
        "tie_word_embeddings": True,
        "max_position_embeddings": 128,
        "eos_token_id": 0,
        "bos_token_id": None,
    }
    return LlamaForCausalLM(LlamaConfig(**settings | overrides)).eval()


def flat_gradient(model: torch.nn.Module) -> torch.Tensor:
    """All gradients in one vector; the model's are cleared."""
    flat = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad(set_to_none=True)
    return flat
