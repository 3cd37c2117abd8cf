"""Products of float32 matrices on a CPU by oneDNN, twice as fast where the library that torch asks is slow.

torch sends float32 products to MKL, which on some processors uses half of their vector width; in bfloat16 it asks
oneDNN itself. `product` and `Linear` ask oneDNN in float32 too, forward and backward. Results differ from torch's own
by rounding. Leaves out other devices and types, and small matrices: they take torch's own way.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

SMALL = 2**20
"""Multiplications below which the detour costs more than it saves."""


def available() -> bool:
    """Whether this torch has oneDNN's product."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def product(x: Tensor, w: Tensor) -> Tensor:
    """x [N, K] times w [M, K] transposed: [N, M], without gradient."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or len(x) * w.numel() < SMALL or not available():
        return x @ w.t()
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, w, None, "none", [], "")
    return found


class Linear(nn.Linear):
    """`nn.Linear` by `product`; under autocast, on another device or with a weight that is not whole, as ever."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., K] -> [..., M]."""
        plain = type(self.weight) is nn.Parameter and self.weight.dtype == input.dtype == torch.float32
        if not plain or input.dim() < 2 or input.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            own: Tensor = super().forward(input)
            return own
        multiply: Any = _Product.apply  # torch leaves it untyped
        out: Tensor = multiply(input.flatten(0, -2), self.weight)
        if self.bias is not None:
            out = out + self.bias
        shaped: Tensor = out.unflatten(0, input.shape[:-1])
        return shaped


class _Product(torch.autograd.Function):
    """`product` with its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return product(x, w)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        of_x, of_w = ctx.needs_input_grad
        g = gradients[0]
        return product(g, w.t()) if of_x else None, product(g.t(), x.t()) if of_w else None


def by_onednn(model: nn.Module) -> None:
    """Let every plain `nn.Linear` of a model multiply so, where this torch can; the weights stay where they are."""
    if available():
        for module in model.modules():
            if type(module) is nn.Linear:
                module.__class__ = Linear
