"""The forward pass of the common decoder in few operators, for the in-process sampler's fast mode.

Drawing one token for every row costs a pass over all weights and, in transformers' own code, some 75 small operators a
layer, which on a CPU take as long as the weights. Here it is twenty, or seven where our own kernels can be had
(`native`): products with what comes after them in the same kernel, the weights laid out for it once per push
(`matrices`). `fitting` gives such a pass where a model is built so, and computes the same.

Leaves out every other architecture: the sampler then asks transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from superrl.sampling import native
from superrl.sampling.matrices import Norm, gate, matrix
from superrl.sampling.native import Kernels
from superrl.sampling.probe import Served, Windows
from superrl.sampling.slots import Decode, KeyValue, additive, attend

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


class Layer:
    """One decoder layer: its matrices, norms and shapes."""

    def __init__(self, layer: Any, kernels: Kernels | None) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.attention: nn.Module = attention
        self.index = int(attention.layer_idx)
        self.width = int(attention.head_dim)
        self.scale = float(attention.scaling)
        self.heads = [one.out_features // self.width for one in (attention.q_proj, attention.k_proj)]
        self.before = Norm(layer.input_layernorm, kernels), Norm(layer.post_attention_layernorm, kernels)
        of_heads = (attention.q_norm, attention.k_norm) if hasattr(attention, "q_norm") else ()
        self.of_heads = [Norm(norm, kernels) for norm in of_heads]
        self.norms = (*self.before, *self.of_heads)
        self.qkv = matrix(kernels, attention.q_proj, attention.k_proj, attention.v_proj)
        self.out = matrix(kernels, attention.o_proj)
        self.gated, self.down = gate(kernels, mlp.gate_proj, mlp.up_proj), matrix(kernels, mlp.down_proj)
        self.matrices = (self.qkv, self.out, *self.gated.matrices, self.down)


Attended = Callable[[Layer, Tensor], Tensor]
"""A layer, and its queries, keys and values [N, ...] -> attention's result [N, heads * width]."""


class Lean:
    """The forward pass of a model that fits. It has weights of its own after `lay`; the rest it reads in the model."""

    def __init__(self, model: Any, kernels: Kernels | None = None) -> None:
        self._trunk = model.model
        self._kernels = kernels
        self._layers = [Layer(layer, self._kernels) for layer in self._trunk.layers]
        self._last, self._head = Norm(self._trunk.norm, self._kernels), matrix(self._kernels, model.lm_head)
        self._norms = [*(one for layer in self._layers for one in layer.norms), self._last]
        self._matrices = [*(one for layer in self._layers for one in layer.matrices), self._head]
        half = self._layers[0].width // 2
        device = self._trunk.embed_tokens.weight.device
        self._sign = torch.cat([-torch.ones(half, device=device), torch.ones(half, device=device)])
        self.lay({})

    @property
    def native(self) -> bool:
        """Whether attention of one token a row is our own kernel's."""
        return self._kernels is not None

    @torch.inference_mode()
    def lay(self, weights: Mapping[int, Tensor]) -> None:
        """Lay the matrices out anew, with weights by the id of their parameter, and the norms with their own."""
        for one in self._matrices:
            one.lay(weights)
        for norm in self._norms:
            norm.lay()

    def forget(self) -> None:
        """Give back the memory of all matrices; `lay` brings them again."""
        for one in self._matrices:
            one.forget()

    def forget_originals(self) -> set[int]:
        """Give back the memory of the parameters that the matrices have copies of; their ids. From then on they have a
        shape and no weights, and `lay` must be given all of them."""
        kept = id(self._trunk.embed_tokens.weight)
        given: set[int] = set()
        for one in self._matrices:
            for layer in one.layers:
                if one.owns and id(layer.weight) != kept:
                    layer.weight.data = layer.weight.data.new_zeros(()).expand(layer.weight.shape)
                    given.add(id(layer.weight))
        return given

    def __call__(self, tokens: Tensor, positions: Tensor, work: Pass, windows: Windows) -> Tensor:
        """tokens and positions [B, q] -> the logits [B, V] of the last column."""
        x = embedding(tokens, self._trunk.embed_tokens.weight)
        attended = self._attention(x, positions, work, windows)
        shape, x = tokens.shape, x.flatten(0, 1)
        for layer in self._layers:
            x = layer.out.plus(attended(layer, layer.qkv(layer.before[0](x))), x)
            x = layer.down.plus(layer.gated(layer.before[1](x)), x)
        return self._head.logits(self._last(x.view(*shape, -1)[:, -1]))

    def _attention(self, x: Tensor, positions: Tensor, work: Pass, windows: Windows) -> Attended:
        """Attention of this pass, by our own kernel where there is one and every row has one token."""
        cosine, sine = self._trunk.rotary_emb(x, position_ids=positions)
        turn = cosine[:, :, None], (sine * self._sign).to(x.dtype)[:, :, None]
        if self._kernels is None or not isinstance(work, Decode):
            return lambda layer, qkv: _attended(layer, qkv.view(*positions.shape, -1, layer.width), turn, work, windows)
        step = native.Attention(self._kernels, work, self._layers[0].heads[1], *(part[:, 0, 0] for part in turn))

        def attended(layer: Layer, qkv: Tensor) -> Tensor:
            norms = [(norm.weight, norm.epsilon) for norm in layer.of_heads]
            return step(qkv, layer.index, layer.scale, windows[layer.attention], norms)

        return attended


def kernels_for(model: Any) -> Kernels | None:
    """Our own kernels for a model that fits, where they can be had: on a CPU, in bfloat16, for common sizes."""
    if not _built_so(model):
        return None
    first, norm = model.model.layers[0].self_attn, model.model.norm
    if model.device.type != "cpu" or model.dtype != torch.bfloat16 or len(norm.weight) % native.LANES:
        return None
    group, rest = divmod(first.q_proj.out_features, first.k_proj.out_features)
    sizes = {layer.mlp.down_proj.in_features % native.LANES for layer in model.model.layers}
    return None if rest or sizes != {0} else native.kernels(first.head_dim, group)


def _attended(layer: Layer, qkv: Tensor, turn: tuple[Tensor, Tensor], work: Pass, windows: Windows) -> Tensor:
    """The same by torch, for qkv [B, q, heads, width]."""
    queries, keys = layer.heads
    turned = qkv[:, :, : queries + keys]
    if layer.of_heads:
        parts = zip(turned.split(layer.heads, 2), layer.of_heads, strict=True)
        turned = torch.cat([norm(part) for part, norm in parts], 2)
    turned = torch.addcmul(turned * turn[0], turned.roll(layer.width // 2, -1), turn[1]).transpose(1, 2)
    key, value = work.update(turned[:, queries:], qkv[:, :, queries + keys :].transpose(1, 2), layer.index)
    found = work.attend(turned[:, :queries] * layer.scale, key, value, windows[layer.attention], None)
    return found.transpose(1, 2).reshape(qkv.shape[0] * qkv.shape[1], -1)


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
def fitting(model: nn.Module, served: Served, kernels: Kernels | None = None) -> Lean | None:
    """The lean pass of a model that is built so and computes what it is known to compute; None for any other."""
    if not _built_so(model):
        return None
    lean, device = Lean(model, kernels), cast(Any, model).device
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
