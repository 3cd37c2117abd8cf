"""Which engine generates: the one that a recipe's `sampler` names, around its own copy of the model or beside it.

Leaves out the engines (`sampling`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from superrl import models
from superrl.config import SamplerConfig
from superrl.errors import UserError
from superrl.rollout import Environment
from superrl.sampling.local import LocalSampler
from superrl.sampling.protocol import Sampler
from superrl.sampling.recorded import cuda_graph
from superrl.sampling.vllm import VllmSampler
from superrl.sampling.vllm_server import ServerSampler
from superrl.text import eos_ids

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SLOTS, SMALL = 64, 10_000_000
"""Rows sampled at once; four times as many for models of at most so many parameters, whose cost a step is overhead."""
ROOMY = 1024
"""Tokens a row may have before fewer rows are sampled at once: their keys and values would fill the memory."""


LOCAL = SamplerConfig()
"""The engine where nobody names one."""


def slots_for(parameters: int, longest: int | None) -> int:
    """How many rows to sample at once, where a row has at most `longest` tokens (None: nobody says).

    >>> slots_for(135_000_000, None), slots_for(135_000_000, 2048), slots_for(135_000_000, 10**6)
    (64, 32, 8)
    """
    most = SLOTS if parameters > SMALL else 4 * SLOTS
    return most if longest is None else max(8, min(most, most * ROOMY // longest))


def new_sampler(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dtype: torch.dtype,
    environments: Sequence[Environment],
    longest: int | None = None,
    config: SamplerConfig = LOCAL,
) -> Sampler:
    """The engine that the recipe names, without weights yet or with a plain copy of the model, in `dtype` unless the
    recipe names another; the local one is deterministic in float32 on a CPU, else fast."""
    import torch

    dtype = dtype if config.dtype is None else getattr(torch, config.dtype)
    ends = dict.fromkeys(
        token
        for environment in environments
        for token in eos_ids(tokenizer, models.declared_ends(model), environment.renderer.prompt).ids
    )
    if config.url is not None:
        return ServerSampler(
            config.url, tokenizer, eos_ids=tuple(ends), dtype=dtype, share=config.share, max_length=longest
        )
    if config.engine == "vllm":
        return VllmSampler(model, tokenizer, eos_ids=tuple(ends), dtype=dtype, memory=config.memory, max_length=longest)
    if config.graphs and model.device.type != "cuda":
        raise UserError(f"sampler.graphs: they are for a GPU, the model is on {model.device.type}: leave graphs out")
    plain = models.sampler_model(model, dtype)
    return LocalSampler(
        plain,
        tokenizer,
        eos_ids=tuple(ends),
        slots=slots_for(plain.num_parameters(), longest),
        deterministic=dtype == torch.float32 and model.device.type == "cpu",
        compute_dtype=dtype,
        record=cuda_graph if config.graphs else None,
    )
