"""Plain copies of a model: its weights by name, and a whole one beside it, both with adapters merged in.

Leaves out what copies are for: the sampler and checkpoints take the weights, the reference policy and the critic a
model.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from torch import Tensor, nn

from superrl.learner.forward import bare


def named_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of the plain model's parameters, tied ones under each of their names; LoRA's product is added."""
    plain = bare(model)
    for name, parameter in plain.named_parameters(remove_duplicate=False):
        if ".lora_" in name:
            continue
        weight = parameter.detach()
        if ".base_layer." in name:
            layer: Any = plain.get_submodule(name.rpartition(".base_layer.")[0])
            if name.endswith(".weight"):
                weight = weight + layer.get_delta_weight("default").detach()
        yield name.replace(".base_layer", ""), weight


def plain_copy(model: nn.Module) -> nn.Module:
    """A model of its own with these weights (adapters merged), frozen, that computes as this one does: the same
    attention, the same device."""
    copied: Any = deepcopy(model)
    if bare(copied) is not copied:
        copied = copied.merge_and_unload()
    plain: nn.Module = copied
    plain.zero_grad(set_to_none=True)
    return plain.requires_grad_(False)
