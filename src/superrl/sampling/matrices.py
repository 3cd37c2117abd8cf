"""What the lean pass consists of: products with weights, laid out as the fastest kernel here reads them, and norms.

`matrix`, `gate` and `norm` choose: our own kernels (`native`) where there are any, oneDNN's on another CPU, else
torch's. The same arithmetic, rounded in fewer places. Leaves out attention (`lean`, `slots`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad, rms_norm, silu

from superrl.sampling import native
from superrl.sampling.native import Kernels


class Matrix:
    """x -> x W^T + b for the weights of linear layers, one below the other, as torch has them."""

    def __init__(self, *layers: nn.Linear) -> None:
        self.layers = layers
        self.owns = len(layers) > 1
        """Whether it has weights of its own; else it reads its layer's."""
        self._weight: Tensor = layers[0].weight
        self._bias: Tensor | None = layers[0].bias

    def lay(self, weights: Mapping[int, Tensor]) -> None:
        """Take the weights found under the ids of the layers' parameters; where none is, the parameter itself."""
        if not self.owns:
            return
        first = self.layers[0].weight
        parts = [weights.get(id(layer.weight), layer.weight) for layer in self.layers]
        self._weight = self._laid(self._joined([part.detach().to(first.device, first.dtype) for part in parts]))
        if biases := [layer.bias for layer in self.layers if layer.bias is not None]:
            bias = self._joined([one.detach() for one in biases])
            self._bias = bias if self._bias is biases[0] or self._bias is None else self._bias.copy_(bias)

    def _joined(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts))

    def _laid(self, whole: Tensor) -> Tensor:
        """The weights in the kernel's layout: where the last ones were, for a recorded step reads them there."""
        return whole if self._weight is self.layers[0].weight else self._weight.copy_(whole)

    def forget(self) -> None:
        """Give back the memory of what was laid."""
        self._weight, self._bias = self.layers[0].weight, self.layers[0].bias

    def __call__(self, x: Tensor) -> Tensor:
        """[N, in] -> [N, out]."""
        return linear(x, self._weight, self._bias)

    def silu(self, x: Tensor) -> Tensor:
        """silu(x W^T + b)."""
        return silu(self(x))

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """(x W^T + b) * other."""
        return self(x) * other

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """x W^T + b + other."""
        return self(x) + other

    def logits(self, x: Tensor) -> Tensor:
        """x W^T + b, in float32 where that costs nothing."""
        return self(x)


class Packed(Matrix):
    """The same in oneDNN's layout, with what comes after the product in the same kernel."""

    def __init__(self, *layers: nn.Linear) -> None:
        super().__init__(*layers)
        self.owns = True

    def _laid(self, whole: Tensor) -> Tensor:
        found: Tensor = torch.ops.mkldnn._reorder_linear_weight(whole)
        return found

    def __call__(self, x: Tensor) -> Tensor:
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return found

    def silu(self, x: Tensor) -> Tensor:
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "swish", [], "")
        return found

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        found: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, self._weight, self._bias, "mul")
        return found

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        found: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, self._weight, self._bias, "add")
        return found


class Blocks(Matrix):
    """The same in the layout of our own kernel, which reads the weights ahead of the product."""

    def __init__(self, kernels: Kernels, *layers: nn.Linear) -> None:
        super().__init__(*layers)
        self.owns = True
        self._kernels = kernels
        self._width = sum(layer.out_features for layer in layers)
        self._bias = None

    def _joined(self, parts: Sequence[Tensor]) -> Tensor:
        whole = super()._joined(parts)
        return whole if whole.dim() == 2 else pad(whole.float(), (0, -len(whole) % native.COLUMNS))

    def _laid(self, whole: Tensor) -> Tensor:
        return native.blocks(whole)

    def forget(self) -> None:
        self._weight, self._bias = self.layers[0].weight, None

    def __call__(self, x: Tensor) -> Tensor:
        return self._kernels.product(native.PLAIN, x, self._weight, self._bias, self._width)

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        return self._kernels.product(native.PLUS, x, self._weight, self._bias, self._width, other)

    def logits(self, x: Tensor) -> Tensor:
        return self._kernels.product(native.FLOATS, x, self._weight, self._bias, self._width)


class Gate(Protocol):
    """x -> silu(x G^T) * (x U^T)."""

    @property
    def matrices(self) -> tuple[Matrix, ...]: ...

    def __call__(self, x: Tensor) -> Tensor: ...


class Pair:
    """A gate of two matrices."""

    def __init__(self, gate: Matrix, up: Matrix) -> None:
        self.matrices = (gate, up)

    def __call__(self, x: Tensor) -> Tensor:
        gate, up = self.matrices
        return up.times(x, gate.silu(x))


class GateBlocks(Blocks):
    """Both in one matrix."""

    def __init__(self, kernels: Kernels, gate: nn.Linear, up: nn.Linear) -> None:
        super().__init__(kernels, gate, up)
        self._width = gate.out_features
        self.matrices = (self,)

    def _joined(self, parts: Sequence[Tensor]) -> Tensor:
        return super()._joined([native.gated(*parts)])

    def __call__(self, x: Tensor) -> Tensor:
        return self._kernels.product(native.GATED, x, self._weight, self._bias, self._width)


def matrix(kernels: Kernels | None, *layers: nn.Linear) -> Matrix:
    """The fastest product with these weights."""
    if kernels is not None and kernels.multiply:
        return Blocks(kernels, *layers)
    return Packed(*layers) if packs(layers[0].weight) else Matrix(*layers)


def gate(kernels: Kernels | None, gate: nn.Linear, up: nn.Linear) -> Gate:
    """The fastest gate of these weights."""
    if kernels is not None and kernels.multiply:
        return GateBlocks(kernels, gate, up)
    return Pair(matrix(None, gate), matrix(None, up))


def packs(weight: Tensor) -> bool:
    """Whether oneDNN multiplies by such a weight in a layout of its own, and takes part in what comes after."""
    if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.bfloat16):
        return False
    ops = torch.ops.mkldnn
    if not torch.backends.mkldnn.is_available() or not hasattr(ops, "_reorder_linear_weight"):
        return False
    if hasattr(ops, "_is_mkldnn_acl_supported") and ops._is_mkldnn_acl_supported():  # Arm's library adds nothing
        return False
    return weight.dtype == torch.float32 or bool(ops._is_mkldnn_bf16_supported())


class Norm:
    """An RMS norm of a model's, computed in float32 and given in the type of its input."""

    def __init__(self, norm: Any, kernels: Kernels | None) -> None:
        self._own = norm
        self._kernels = kernels
        self.epsilon = float(norm.variance_epsilon)
        width = len(norm.weight)
        self._stretch = width**0.5
        self._least = norm.weight.new_tensor(width * norm.variance_epsilon, dtype=torch.float32)
        self.weight = torch.empty_like(norm.weight, dtype=torch.float32)

    def lay(self) -> None:
        """Take the weight that the norm has now."""
        self.weight.copy_(self._own.weight)

    def __call__(self, x: Tensor) -> Tensor:
        """[..., H] -> [..., H]."""
        if self._kernels is not None:
            return self._kernels.norm(x.reshape(-1, x.shape[-1]).contiguous(), self.weight, self.epsilon).view(x.shape)
        if x.device.type != "cpu":
            return rms_norm(x, self.weight.shape, self._own.weight, self.epsilon)
        found = x.to(torch.float32, copy=True)  # torch's own takes nine passes on a CPU
        size = torch.linalg.vector_norm(found, dim=-1, keepdim=True)
        scale = torch.addcmul(self._least, size, size).rsqrt_()
        return found.mul_(scale.mul_(self._stretch)).mul_(self.weight).to(x.dtype)
