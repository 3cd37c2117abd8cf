"""A model as vLLM starts it: a Hugging Face folder whose head is a matrix of its own, multiplied in float32.

A tied head goes stale, silently, when vLLM on a CPU takes new weights in place (it keeps a packed copy of the head and
packs only what it is sent under its own name), so the folder says that nothing is tied and the learner's weights come
under all their names. Costs one more matrix of vocabulary x width.

Logits in bfloat16 are rounded by up to 0.06, and the log-probabilities with them; vLLM reads from the folder
(`head_dtype`) that it shall compute them in float32, from weights that stay bfloat16. Leaves out the engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from superrl.learner.forward import bare

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WEIGHTS = "model.safetensors"


def write_shell(folder: Path, model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
    """config.json and the tokenizer's files of the plain model, untied, its logits in float32; no weights."""
    plain: Any = bare(model)
    config = deepcopy(plain.config)
    for one in {id(config): config, id(config.get_text_config()): config.get_text_config()}.values():
        one.tie_word_embeddings = False
    config.architectures = [type(plain).__name__]
    config.head_dtype = "float32"
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_weights(folder: Path, weights: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """model.safetensors in `dtype` (whole numbers stay what they are); every name gets numbers of its own, also where
    tensors are shared."""
    from safetensors.torch import save_file

    owners: set[int] = set()
    own = {}
    for name, weight in weights.items():
        cast = weight.detach().to("cpu", dtype if weight.is_floating_point() else None).contiguous()
        own[name] = cast.clone() if cast.data_ptr() in owners else cast
        owners.add(cast.data_ptr())
    save_file(own, folder / WEIGHTS, metadata={"format": "pt"})
