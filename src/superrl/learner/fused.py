"""A trunk that keeps less for its backward pass in mixed precision: the same values, other things saved.

torch keeps the operands of every elementary operation, and autocast a copy of an input for every product that reads it.
Here a norm keeps its input and one number a row; a gated MLP keeps the results of its two products, and computes
activation and product again; a linear layer keeps its input in the compute type, which layers share where a norm feeds
only products, and its float32 weight, which is there anyway. Elementwise work goes through a few rows at a time, which
stay in the processor's cache.

Norms and MLPs are those whose forward reads like Llama's, operation by operation; any other stays as it was. Leaves out
float32, where nothing changes, rotary embeddings (they keep nothing) and the head (`head`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from superrl.learner.forward import head, trunk
from superrl.learner.linear import Linear, by_onednn

PIECE = 2**17
"""Elements that a thread treats at a time on a CPU: 512 KiB in float32."""


def refit(model: nn.Module, dtype: torch.dtype) -> None:
    """Let a model compute as the learner does, in place: products by oneDNN in float32; under autocast to another
    `dtype` the trunk keeps less."""
    by_onednn(model)
    if dtype != torch.float32:
        save_less(model, dtype)


def save_less(model: nn.Module, dtype: torch.dtype) -> None:
    """Let a model's trunk keep less for its backward pass under autocast to `dtype`, in place."""
    from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

    inner = list(trunk(model).modules())
    last = head(model)
    for module in inner:
        if type(module) in (nn.Linear, Linear) and module is not last:
            module.__class__ = Lean
    for module in inner:
        for kind, pattern in ((Norm, LlamaRMSNorm), (Gated, LlamaMLP)):
            if _reads(module, pattern):
                _become(module, kind)
    _narrow(model, dtype)


def _casts(x: Tensor) -> torch.dtype | None:
    """The type that autocast takes products of `x` in, or None where it is not at work."""
    device = x.device.type
    if not torch.is_autocast_enabled(device) or not x.is_floating_point() or x.dtype == torch.float64:
        return None
    return torch.get_autocast_dtype(device)


def _plain(layer: nn.Module) -> bool:
    """Whether a layer is one matrix that lies here whole in float32, and nothing listens to it."""
    watched = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    if not isinstance(layer, nn.Linear) or type(layer) not in (nn.Linear, Linear, Lean) or watched:
        return False
    return type(layer.weight) is nn.Parameter and layer.weight.dtype == torch.float32


def _pieces(x: Tensor) -> Iterator[slice]:
    """Ranges of the rows of x [N, H], all of them at once on a device that has no use for less."""
    size = max(1, PIECE * torch.get_num_threads() // x.shape[1]) if x.device.type == "cpu" else max(1, len(x))
    for start in range(0, len(x), size):
        yield slice(start, start + size)


class Lean(Linear):
    """A linear layer that under autocast keeps its float32 weight, not a copy, and its input only if it is needed."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., K] -> [..., M]."""
        dtype = _casts(input)
        if dtype is None or type(self.weight) is not nn.Parameter or input.dim() < 2:
            return super().forward(input)
        multiply: Any = _Multiply.apply  # torch leaves it untyped
        out: Tensor = multiply(input.flatten(0, -2).to(dtype), self.weight, self.bias)
        return out.view(*input.shape[:-1], out.shape[-1])


class _Multiply(torch.autograd.Function):
    """x [N, K] times w [M, K] transposed, plus b, in the type of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, w)
        with torch.autocast(x.device.type, enabled=False):
            return nn.functional.linear(x, w.to(x.dtype), None if b is None else b.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        of_x, of_w, of_b = ctx.needs_input_grad
        g = gradients[0]
        return (
            g @ w.to(g.dtype) if of_x else None,
            (g.t() @ x).to(w.dtype) if of_w else None,
            g.sum(0, dtype=w.dtype) if of_b else None,
        )


class Norm(nn.Module):
    """An RMS norm, weight * normalised, that under autocast keeps its input and 1 / RMS. A `narrow` one gives its
    result in the compute type at once."""

    weight: Tensor
    variance_epsilon: float
    narrow: bool = False

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[..., H] -> [..., H]."""
        dtype = _casts(hidden_states)
        if dtype is None or type(self.weight) is not nn.Parameter:
            own: Tensor = super().forward(hidden_states)
            return own
        wide = torch.promote_types(hidden_states.dtype, self.weight.dtype)
        normalise: Any = _Normalise.apply  # torch leaves it untyped
        rows = hidden_states.reshape(-1, hidden_states.shape[-1])
        out: Tensor = normalise(rows, self.weight, self.variance_epsilon, dtype if self.narrow else wide)
        return out.view(hidden_states.shape)


class _Normalise(torch.autograd.Function):
    """w * (x / RMS(x)) of the rows of x [N, H], in float32 (float64 for its like), given in `dtype`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        out, scale = x.new_empty(x.shape, dtype=dtype), x.new_empty((len(x), 1), dtype=wide)
        with torch.autocast(x.device.type, enabled=False):
            for piece in _pieces(x):
                part = x[piece].to(wide)
                scale[piece] = torch.rsqrt(part.pow(2).mean(-1, keepdim=True) + epsilon)
                out[piece] = w * (part * scale[piece]).to(x.dtype)
        ctx.save_for_backward(x, w, scale)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, w, scale = ctx.saved_tensors
        of_x, of_w = ctx.needs_input_grad[:2]
        d_x = torch.empty_like(x) if of_x else None
        d_w = torch.zeros_like(w) if of_w else None
        for piece in _pieces(x):
            g, r = gradients[0][piece].to(scale.dtype), scale[piece]
            n = x[piece].to(scale.dtype) * r
            if d_w is not None:
                d_w += (g * n).sum(0)
            if d_x is not None:
                a = g * w
                along = (a * n).mean(-1, keepdim=True)
                d_x[piece] = a.sub_(n.mul_(along)).mul_(r)
        return d_x, d_w, None, None


class Gated(nn.Module):
    """An MLP, down(act(gate(x)) * up(x)), that under autocast keeps gate(x) and up(x), and one copy of x. A layer that
    is more than a matrix, one with adapters say, is called and keeps what it will."""

    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module
    act_fn: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """[..., H] -> [..., H]."""
        dtype = _casts(x)
        if dtype is None or not torch.is_grad_enabled():
            own: Tensor = super().forward(x)
            return own
        x = x.to(dtype)
        gate, up = (layer(x).flatten(0, -2) for layer in (self.gate_proj, self.up_proj))
        last = self.down_proj
        whole, product = cast(Any, _GatedDown.apply), cast(Any, _GatedProduct.apply)  # torch leaves them untyped
        fused = _plain(last) and last.bias is None
        out: Tensor = whole(gate, up, last.weight, self.act_fn) if fused else last(product(gate, up, self.act_fn))
        return out.view(x.shape)


Act = Callable[[Tensor], Tensor]


class _GatedProduct(torch.autograd.Function):
    """act(gate) * up of [N, I]."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, act: Act) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.act = act
        return _product(gate, up, act)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        return *_slopes(gate, up, ctx.act, gradients[0])[:2], None


class _GatedDown(torch.autograd.Function):
    """act(gate) * up of [N, I], times w [H, I] transposed, in the type of gate."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, w: Tensor, act: Act) -> Tensor:
        ctx.save_for_backward(gate, up, w)
        ctx.act = act
        with torch.autocast(gate.device.type, enabled=False):
            return nn.functional.linear(_product(gate, up, act), w.to(gate.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gate, up, w = ctx.saved_tensors
        g = gradients[0]
        d_gate, d_up, inner = _slopes(gate, up, ctx.act, g @ w.to(g.dtype))
        return d_gate, d_up, (g.t() @ inner).to(w.dtype) if ctx.needs_input_grad[2] else None, None


def _product(gate: Tensor, up: Tensor, act: Act) -> Tensor:
    out = torch.empty_like(up)
    for piece in _pieces(gate):
        torch.mul(act(gate[piece]), up[piece], out=out[piece])
    return out


def _slopes(gate: Tensor, up: Tensor, act: Act, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients in gate and up, and act(gate) * up, each in the memory of its own."""
    d_gate, d_up, product = torch.empty_like(gate), torch.empty_like(up), torch.empty_like(up)
    for piece in _pieces(gate):
        with torch.enable_grad():
            x = gate[piece].detach().requires_grad_()
            y = act(x)
        g, value = gradient[piece], y.detach()
        torch.mul(value, up[piece], out=product[piece])
        torch.mul(value, g, out=d_up[piece])
        (d_gate[piece],) = torch.autograd.grad(y, x, g * up[piece])
    return d_gate, d_up, product


def _become(module: nn.Module, kind: type[nn.Module]) -> None:
    """Give a module the forward of `kind` before its own."""
    if not isinstance(module, kind):
        module.__class__ = cast(Any, _blend)(kind, type(module))


@cache
def _blend(kind: Any, own: Any) -> Any:
    """One class for each pair."""
    return type(own.__name__, (kind, own), {"__module__": own.__module__, "__doc__": kind.__doc__})


def _reads(module: nn.Module, pattern: type[nn.Module]) -> bool:
    """Whether a module's forward is that of a pattern to the letter: of transformers' families most have a copy."""
    own, known = (getattr(kind.forward, "__code__", None) for kind in (type(module), pattern))
    parts = ("co_code", "co_names", "co_varnames", "co_consts")
    return own is not None and [getattr(own, part) for part in parts] == [getattr(known, part) for part in parts]


@torch.no_grad()
def _narrow(model: nn.Module, dtype: torch.dtype) -> None:
    """Let the norms give their results in the compute type that feed nothing but products: those at one place of all
    layers together, if the trunk's results stay the same bit by bit."""
    places: dict[str, list[Norm]] = {}
    for name, module in trunk(model).named_modules():
        if isinstance(module, Norm):
            module.narrow = False
            places.setdefault(re.sub(r"\d+", "*", name), []).append(module)
    if not places:
        return
    expected = _states(model, dtype)
    for norms in places.values():
        for norm in norms:
            norm.narrow = True
        found = _states(model, dtype)
        same = found.dtype == expected.dtype and torch.equal(found, expected)
        for norm in norms:
            norm.narrow = same


def _states(model: nn.Module, dtype: torch.dtype) -> Tensor:
    """The last hidden states of a few tokens."""
    device = next(model.parameters()).device
    tokens = torch.arange(8, device=device)[None] % int(cast(Tensor, head(model).weight).shape[0])
    with torch.autocast(device.type, dtype=dtype):
        found: Tensor = trunk(model)(input_ids=tokens, use_cache=False).last_hidden_state
    return found
