"""Copies of a model: its weights by name and a whole one beside it, both with adapters merged in; and a policy kept.

A policy with adapters is kept as a copy of the adapters alone: its base never changes, so both share it. Leaves out
what copies are for: the sampler and checkpoints take the weights, the critic a model, the reference a kept policy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from superrl.learner.forward import bare


def named_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of the plain model's parameters, tied ones under each of their names, and of its buffers that are
    saved (how some mixtures of experts route); LoRA's product is added."""
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
    saved = plain.state_dict().keys()
    for name, buffer in plain.named_buffers():
        if name in saved:
            yield name, buffer


def plain_copy(model: nn.Module) -> nn.Module:
    """A model of its own with these weights (adapters merged), frozen, that computes as this one does: the same
    attention, the same device."""
    copied: Any = deepcopy(model)
    if bare(copied) is not copied:
        copied = copied.merge_and_unload()
    plain: nn.Module = copied
    plain.zero_grad(set_to_none=True)
    return plain.requires_grad_(False)


class KeptAdapters(nn.Module):
    """A policy with adapters as it stood when this was made: a frozen copy of the adapters, whose place it takes while
    the policy computes. Its base is the policy's own, and none of its parameters."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._policy = (model,)  # in a tuple: no submodule
        self._places = [p for p in model.parameters() if p.requires_grad]
        names = [name.replace(".", "/") for name, p in model.named_parameters() if p.requires_grad]
        kept = [nn.Parameter(p.detach().clone(), requires_grad=False) for p in self._places]
        self.adapters = nn.ParameterDict(zip(names, kept, strict=True))  # it would sort a dict

    @contextmanager
    def in_place(self) -> Iterator[nn.Module]:
        """The policy with these adapters, to compute without gradient; its own are back afterwards."""
        self._exchange()
        try:
            with torch.no_grad():
                yield self._policy[0]
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for place, kept in zip(self._places, self.adapters.values(), strict=True):
            place.data, kept.data = kept.data, place.data


def kept_policy(model: nn.Module) -> nn.Module:
    """The policy as it stands, to be asked `standing`: of a plain model a copy, of one with adapters those."""
    return plain_copy(model) if bare(model) is model else KeptAdapters(model)


@contextmanager
def standing(kept: nn.Module) -> Iterator[nn.Module]:
    """The model that computes as a kept policy does."""
    if isinstance(kept, KeptAdapters):
        with kept.in_place() as model:
            yield model
    else:
        yield kept
