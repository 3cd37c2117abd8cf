"""The forward pass of the common decoder in few operators, for the in-process sampler's fast mode.

Drawing one token for every row costs a pass over all weights and, in transformers' own code, some 75 small operators a
layer, which on a CPU take as long as the weights. Here it is twenty: products with the activation, the product of
both branches or the residual added in the same kernel, the weights laid out for that kernel once per push. The same
arithmetic, rounded in fewer places. `fitting` gives such a pass where a model is built so, and computes the same.

Leaves out every other architecture: the sampler then asks transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear, rms_norm, silu

from superrl.sampling.probe import Served, Windows
from superrl.sampling.slots import KeyValue, additive, attend

FAMILIES = {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"}
PARTS: dict[str, list[set[str]]] = {
    "": [{"model", "lm_head"}],
    "model": [{"embed_tokens", "layers", "norm", "rotary_emb"}],
    "layer": [{"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}],
    "self_attn": [
        {"q_proj", "k_proj", "v_proj", "o_proj"},
        {"q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"},
    ],
    "mlp": [{"gate_proj", "up_proj", "down_proj", "act_fn"}],
}
"""What the modules of a model that fits are made of."""
ACTIVATIONS = {"SiLU", "SiLUActivation"}
TOLERANCE = {torch.float32: 1e-4}
ROUGH = 0.05
"""How far the logits may be from transformers', relative to their norm; the rest is rounding."""


class Pass(Protocol):
    """Where a layer's keys and values go, and what is read of them: `slots.Prefill` and `slots.Decode`."""

    def update(self, key: Tensor, value: Tensor, layer_idx: int) -> KeyValue: ...

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, window: int | None, softcap: float | None
    ) -> Tensor: ...


class Matrix:
    """x -> x W^T + b for the weights of linear layers, one below the other, in the layout of the device's kernel."""

    def __init__(self, *layers: nn.Linear) -> None:
        self.layers = layers
        self._packed = packs(layers[0].weight)
        self.owns = self._packed or len(layers) > 1
        """Whether it has weights of its own; else it reads its layer's."""
        self._weight: Tensor = layers[0].weight
        self._bias: Tensor | None = layers[0].bias

    def lay(self, weights: Mapping[int, Tensor]) -> None:
        """Take the weights found under the ids of the layers' parameters; where none is, the parameter itself. What is
        not packed goes where the last weights were: a recorded step reads them there."""
        if not self.owns:
            return
        first = self.layers[0].weight
        parts = [weights.get(id(layer.weight), layer.weight) for layer in self.layers]
        whole = torch.cat([part.detach().to(first.device, first.dtype) for part in parts])
        if self._packed:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(whole)
        else:
            self._weight = whole if self._weight is first else self._weight.copy_(whole)
        if biases := [layer.bias for layer in self.layers if layer.bias is not None]:
            bias = torch.cat([one.detach() for one in biases])
            self._bias = bias if self._bias is biases[0] or self._bias is None else self._bias.copy_(bias)

    def forget(self) -> None:
        """Give back the memory of what was laid."""
        self._weight, self._bias = self.layers[0].weight, self.layers[0].bias

    def __call__(self, x: Tensor) -> Tensor:
        """[N, in] -> [N, out]."""
        if not self._packed:
            return linear(x, self._weight, self._bias)
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return found

    def silu(self, x: Tensor) -> Tensor:
        """silu(x W^T + b)."""
        if not self._packed:
            return silu(linear(x, self._weight, self._bias))
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "swish", [], "")
        return found

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """(x W^T + b) * other."""
        if not self._packed:
            return linear(x, self._weight, self._bias) * other
        found: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, self._weight, self._bias, "mul")
        return found

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """x W^T + b + other."""
        if not self._packed:
            return linear(x, self._weight, self._bias) + other
        found: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, self._weight, self._bias, "add")
        return found


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

    def __init__(self, norm: Any) -> None:
        self._own = norm
        width = len(norm.weight)
        self._stretch = width**0.5
        self._least = norm.weight.new_tensor(width * norm.variance_epsilon, dtype=torch.float32)
        self._weight = torch.empty_like(norm.weight, dtype=torch.float32)

    def lay(self) -> None:
        """Take the weight that the norm has now."""
        self._weight.copy_(self._own.weight).mul_(self._stretch)

    def __call__(self, x: Tensor) -> Tensor:
        """[..., H] -> [..., H]."""
        if x.device.type != "cpu":
            return rms_norm(x, self._weight.shape, self._own.weight, self._own.variance_epsilon)
        found = x.to(torch.float32, copy=True)  # torch's own takes nine passes on a CPU
        size = torch.linalg.vector_norm(found, dim=-1, keepdim=True)
        scale = torch.addcmul(self._least, size, size).rsqrt_()
        return found.mul_(scale).mul_(self._weight).to(x.dtype)


class Layer:
    """One decoder layer: its matrices, norms and shapes."""

    def __init__(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.attention: nn.Module = attention
        self.index = int(attention.layer_idx)
        self.width = int(attention.head_dim)
        self.scale = float(attention.scaling)
        self.heads = [one.out_features // self.width for one in (attention.q_proj, attention.k_proj)]
        self.before = Norm(layer.input_layernorm), Norm(layer.post_attention_layernorm)
        self.of_heads = [Norm(attention.q_norm), Norm(attention.k_norm)] if hasattr(attention, "q_norm") else []
        self.norms = (*self.before, *self.of_heads)
        self.qkv = Matrix(attention.q_proj, attention.k_proj, attention.v_proj)
        self.out, self.gate = Matrix(attention.o_proj), Matrix(mlp.gate_proj)
        self.up, self.down = Matrix(mlp.up_proj), Matrix(mlp.down_proj)
        self.matrices = (self.qkv, self.out, self.gate, self.up, self.down)


class Lean:
    """The forward pass of a model that fits. It has weights of its own after `lay`; the rest it reads in the model."""

    def __init__(self, model: Any) -> None:
        self._trunk = model.model
        self._layers = [Layer(layer) for layer in self._trunk.layers]
        self._last, self._head = Norm(self._trunk.norm), Matrix(model.lm_head)
        self._norms = [*(norm for layer in self._layers for norm in layer.norms), self._last]
        self._matrices = [*(matrix for layer in self._layers for matrix in layer.matrices), self._head]
        half = self._layers[0].width // 2
        device = self._trunk.embed_tokens.weight.device
        self._sign = torch.cat([-torch.ones(half, device=device), torch.ones(half, device=device)])
        self.lay({})

    @torch.inference_mode()
    def lay(self, weights: Mapping[int, Tensor]) -> None:
        """Lay the matrices out anew, with weights by the id of their parameter, and the norms with their own."""
        for matrix in self._matrices:
            matrix.lay(weights)
        for norm in self._norms:
            norm.lay()

    def forget(self) -> None:
        """Give back the memory of all matrices; `lay` brings them again."""
        for matrix in self._matrices:
            matrix.forget()

    def forget_originals(self) -> set[int]:
        """Give back the memory of the parameters that the matrices have copies of; their ids. From then on they have a
        shape and no weights, and `lay` must be given all of them."""
        kept = id(self._trunk.embed_tokens.weight)
        given: set[int] = set()
        for matrix in self._matrices:
            for layer in matrix.layers:
                if matrix.owns and id(layer.weight) != kept:
                    layer.weight.data = layer.weight.data.new_zeros(()).expand(layer.weight.shape)
                    given.add(id(layer.weight))
        return given

    def __call__(self, tokens: Tensor, positions: Tensor, work: Pass, windows: Windows) -> Tensor:
        """tokens and positions [B, q] -> the logits [B, V] of the last column."""
        x = embedding(tokens, self._trunk.embed_tokens.weight)
        cos, sin = self._trunk.rotary_emb(x, position_ids=positions)
        turn = cos[:, :, None], (sin * self._sign).to(x.dtype)[:, :, None]
        shape, x = tokens.shape, x.flatten(0, 1)
        for layer in self._layers:
            x = layer.out.plus(self._attended(layer, layer.before[0](x), shape, turn, work, windows), x)
            y = layer.before[1](x)
            x = layer.down.plus(layer.up.times(y, layer.gate.silu(y)), x)
        return self._head(self._last(x.view(*shape, -1)[:, -1]))

    @staticmethod
    def _attended(
        layer: Layer, x: Tensor, shape: tuple[int, ...], turn: tuple[Tensor, Tensor], work: Pass, windows: Windows
    ) -> Tensor:
        """Attention's result [B * q, heads * width] before its last product."""
        queries, keys = layer.heads
        qkv = layer.qkv(x).view(*shape, -1, layer.width)
        turned = qkv[:, :, : queries + keys]
        if layer.of_heads:
            parts = zip(turned.split(layer.heads, 2), layer.of_heads, strict=True)
            turned = torch.cat([norm(part) for part, norm in parts], 2)
        turned = torch.addcmul(turned * turn[0], turned.roll(layer.width // 2, -1), turn[1]).transpose(1, 2)
        key, value = work.update(turned[:, queries:], qkv[:, :, queries + keys :].transpose(1, 2), layer.index)
        found = work.attend(turned[:, :queries] * layer.scale, key, value, windows[layer.attention], None)
        return found.transpose(1, 2).reshape(x.shape[0], -1)


class Alone:
    """A `Pass` over whole rows that are kept nowhere."""

    def update(self, key: Tensor, value: Tensor, layer_idx: int) -> KeyValue:
        return key, value

    def attend(self, query: Tensor, key: Tensor, value: Tensor, window: int | None, softcap: float | None) -> Tensor:
        column = torch.arange(key.shape[2], device=query.device)
        seen = column <= column[:, None]
        if window is not None:
            seen &= column > column[:, None] - window
        return attend(query, key, value, additive(seen, query.dtype), softcap)


@torch.inference_mode()
def fitting(model: nn.Module, served: Served) -> Lean | None:
    """The lean pass of a model that is built so and computes what it is known to compute; None for any other."""
    if not _built_so(model):
        return None
    lean, device = Lean(model), cast(Any, model).device
    tokens, positions = torch.tensor(served.tokens, device=device), torch.arange(len(served.tokens), device=device)
    try:
        found = lean(tokens[None], positions[None], Alone(), served.windows).float()
    except (RuntimeError, KeyError):  # a kernel that does not take these shapes, a layer that nobody calls
        return None
    gap = float((found - served.logits[-1]).norm() / served.logits[-1].norm())
    return lean if gap <= TOLERANCE.get(cast(Any, model).dtype, ROUGH) else None


def _built_so(model: nn.Module) -> bool:
    """Whether the model is of a known family, made of the known parts, and of nothing else."""
    if type(model).__name__ not in FAMILIES:
        return False
    trunk: Any = model.model
    named = [("", model), ("model", trunk)]
    for layer in trunk.layers:
        named += [("layer", layer), ("self_attn", layer.self_attn), ("mlp", layer.mlp)]
    for kind, part in named:
        children = dict(part.named_children())
        if set(children) not in PARTS[kind]:
            return False
        if any(type(child) is not nn.Linear for name, child in children.items() if name.endswith(("_proj", "lm_head"))):
            return False
    return all(type(layer.mlp.act_fn).__name__ in ACTIVATIONS for layer in trunk.layers)
