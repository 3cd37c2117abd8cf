"""Weights split among the ranks (FSDP2): what is split, where a forward must happen, and how parts and wholes convert.

Every decoder layer is gathered when it is used and split again; what lies around the layers (embeddings, last norm,
head) belongs to a root, whose weights are whole only inside the root's forward. So whatever reads them, trunk and head
in chunks, is handed to the root as a function. The root, too, is split after its forward: else a forward without
gradient would leave weights behind that the next step no longer has.

Gradients are averaged over ranks, so a loss is multiplied by their number. Leaves out how many forwards each rank does,
which must be the same (`learner`).
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from superrl.learner.forward import bare

T = TypeVar("T")


class Root(nn.Module):
    """A model as one module whose forward is whatever is computed with it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, compute: Callable[[], T]) -> T:
        """What `compute` gives, with the root's weights whole."""
        return compute()


def split(model: nn.Module, ranks: int) -> Root:
    """Split a model's parameters, in place, among all ranks; its forwards are from then on the root's."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    plain: Any = bare(model)
    mesh = init_device_mesh(next(model.parameters()).device.type, (ranks,))
    names = set(plain._no_split_modules or ())
    for block in [module for module in model.modules() if type(module).__name__ in names]:
        fully_shard(block, mesh=mesh)
    root = Root(model)
    fully_shard(root, mesh=mesh, reshard_after_forward=True)
    return root


def skeleton(model: nn.Module) -> nn.Module:
    """A copy of a model that is not split yet without the numbers in its parameters: what `twin` is made from."""
    return _copy(model, torch.device("meta"))


@torch.no_grad()
def twin(bones: nn.Module, model: nn.Module, ranks: int) -> tuple[nn.Module, Root]:
    """A frozen model of its own with the weights of one that is split, split likewise; and its root."""
    device = next(model.parameters()).device
    copied = _copy(bones, device)
    root = split(copied, ranks)
    for own, one in zip(copied.parameters(), model.parameters(), strict=True):
        own.copy_(one)
    return copied, root


def whole(tensor: Tensor) -> Tensor:
    """A tensor in full, on every rank (all must ask); one that is not split as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def placed(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor as the parameter is held to which it belongs: on its device, or this rank's part of it there."""
    if isinstance(tensor, DTensor):
        return tensor
    moved = tensor.to(parameter.device)
    if not isinstance(parameter, DTensor):
        return moved
    return distribute_tensor(moved, parameter.device_mesh, parameter.placements, src_data_rank=None)


def _copy(model: nn.Module, device: torch.device) -> nn.Module:
    blank = {id(p): nn.Parameter(torch.empty_like(p, device=device), requires_grad=False) for p in model.parameters()}
    return deepcopy(model, blank)
