"""Log-probabilities of target tokens from hidden states, for an LM head that is one matrix: fused, and exact.

    s = (W h + b) / divisor,   logp = s[target] - logsumexp(s),   entropy = -sum over v of p_v log p_v

The product with W is taken in large chunks, for the sake of the matrix products; everything the size of the vocabulary
is done to a few rows of it at a time, which stay in the processor's cache. Logits are kept for the backward pass, in
the type they were computed in, up to HELD bytes a pack; the rest are computed again. The backward pass writes
(onehot - p) over them, as the operand of its products: nothing of the vocabulary's size is gathered, scattered or
divided, and there is one backward pass.

In bfloat16 a logit of 16 to 32 is rounded by up to 0.06, and log p with it. The softmax does not mind a shift, so what
is rounded is W h - c, with c about the target's own logit, or the largest where that is far above it: small wherever p
is large. The shift is one more column of the product, c beside h and -1 beside W, and takes place in its float32
accumulator (a bias comes after it). Leaves out heads that are more than a matrix (`forward` knows those).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from superrl.learner.linear import product
from superrl.packing.pack import steady

CHUNK_LOGITS = 2**25
"""Logits of one matrix product: 64 MiB in bfloat16."""
PIECE_LOGITS = 2**19
"""Logits treated at a time: 2 MiB in float32."""
HELD = 2**29
"""Bytes of logits kept from the forward pass to the backward pass of a pack."""
FAR = 8.0
"""A logit so far above the target's is shifted by itself: up to here its rounding is 0.016 at most."""
SPARE = 32
"""Columns more for the shift: one is used, and rows still begin at whole cache lines."""


def score(
    rows: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, divisor: Tensor, dtype: torch.dtype,
    *, with_entropy: bool = False, held: int = HELD,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """(logp [E], entropy [E] in nats or None) in float32; differentiable in rows, weight and bias.

    Shapes: rows [E, H], weight [V, H], bias [V], target [E], divisor [E]. Products are taken in `dtype`; at most `held`
    bytes of logits are kept for the backward pass.
    """
    edges = len(rows)
    if rows.device.type == "cpu" and (spare := steady(edges) - edges):
        rows, target, divisor = (
            pad(rows, (0, 0, 0, spare)),
            pad(target, (0, spare)),
            pad(divisor, (0, spare), value=1.0),
        )
    learnt = torch.is_grad_enabled() and any(one is not None and one.requires_grad for one in (rows, weight, bias))
    plain = bool((divisor == 1.0).all())
    divisor = divisor.new_empty(0) if plain else divisor.float()[:, None]
    fused: Any = _Score.apply  # torch leaves it untyped
    logp, entropy = fused(rows, weight, bias, target, divisor, dtype, with_entropy, held if learnt else 0)
    return logp[:edges], entropy[:edges] if with_entropy else None


class _Score(torch.autograd.Function):
    """`score`; a divisor without elements is 1."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, divisor: Tensor,
        dtype: torch.dtype, with_entropy: bool, held: int,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        with torch.autocast(rows.device.type, enabled=False):
            width, spare = rows.shape[1], 0 if dtype == torch.float32 else SPARE
            x, w = _widened(rows, dtype, spare), _widened(weight, dtype, spare)
            if spare:
                w[:, width] = -1.0
            b = None if bias is None else bias.to(dtype)
            kept: list[Tensor] = []
            logp = torch.empty(len(x), dtype=torch.float32, device=x.device)
            entropy = torch.empty_like(logp) if with_entropy else logp.new_empty(0)
            for chunk in _chunks(len(x), len(w), CHUNK_LOGITS):
                if spare:
                    x[chunk, width] = (x[chunk, :width] * w[target[chunk], :width]).sum(-1)
                z = _logits(x[chunk], w, b)
                if spare and len(far := (z.amax(1) > FAR).nonzero()[:, 0]):
                    far = far[torch.arange(steady(len(far)), device=far.device).clamp_(max=len(far) - 1)]
                    x[far + chunk.start, width] += z[far].amax(1)
                    z[far] = _logits(x[far + chunk.start], w, b)
                for piece in _chunks(len(z), len(w), PIECE_LOGITS):
                    at = slice(chunk.start + piece.start, chunk.start + piece.stop)
                    log_p = _scaled(z[piece], divisor[at]).log_softmax(-1)
                    logp[at] = log_p.gather(1, target[at, None])[:, 0]
                    if with_entropy:
                        entropy[at] = -(log_p.exp() * log_p).sum(-1)
                if (held := held - z.nbytes) >= 0:
                    kept.append(z)
        ctx.save_for_backward(x, w, b, target, divisor, *kept)
        ctx.mark_non_differentiable(*([] if with_entropy else [entropy]))
        ctx.width = width
        ctx.dtypes = rows.dtype, weight.dtype, None if bias is None else bias.dtype
        return logp, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, w, b, target, divisor, *kept = ctx.saved_tensors
        of_rows, of_weight, of_bias = ctx.needs_input_grad[:3]
        g_logp, g_entropy = gradients[0], gradients[1] if gradients[1] is not None and len(gradients[1]) else None
        h, weight = x[:, : ctx.width], w[:, : ctx.width]
        d_rows = torch.empty_like(h) if of_rows else None
        d_weight = d_bias = None
        for number, chunk in enumerate(_chunks(len(x), len(w), CHUNK_LOGITS)):
            d = kept[number] if number < len(kept) else _logits(x[chunk], w, b)
            for piece in _chunks(len(d), len(w), PIECE_LOGITS):
                at = slice(chunk.start + piece.start, chunk.start + piece.stop)
                d[piece] = _slope(
                    d[piece], target[at], divisor[at], g_logp[at], None if g_entropy is None else g_entropy[at]
                )
            if d_rows is not None:
                d_rows[chunk] = product(d, weight.t())
            if of_weight:
                part = product(d.t(), h[chunk].t())
                d_weight = part.float() if d_weight is None else d_weight.add_(part)
            if of_bias:
                sums = d.sum(0, dtype=torch.float32)
                d_bias = sums if d_bias is None else d_bias.add_(sums)
        found = (d_rows, d_weight, d_bias)
        return *(None if d is None else d.to(t) for d, t in zip(found, ctx.dtypes, strict=True)), *(None,) * 5


def _widened(matrix: Tensor, dtype: torch.dtype, spare: int) -> Tensor:
    """The matrix in `dtype`; with `spare` columns of zeros at its right a copy."""
    if not spare:
        return matrix.to(dtype)
    rows, width = matrix.shape
    wide = torch.zeros(rows, width + spare, dtype=dtype, device=matrix.device)
    wide[:, :width] = matrix
    return wide


def _logits(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    z = product(x, w)
    return z if b is None else z.add_(b)


def _chunks(rows: int, vocabulary: int, logits: int) -> Iterator[slice]:
    """Ranges of rows with at most `logits` logits, or a few rows where the vocabulary is huge."""
    size = max(4, logits // vocabulary)
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def _scaled(z: Tensor, divisor: Tensor) -> Tensor:
    """The logits in float32, each row divided by its divisor; no view of `z`."""
    s = z.to(torch.float32, copy=True)
    return s.div_(divisor) if len(divisor) else s


def _slope(z: Tensor, target: Tensor, divisor: Tensor, g_logp: Tensor, g_entropy: Tensor | None) -> Tensor:
    """The gradient in the logits [n, V] of sum(g_logp * logp + g_entropy * entropy), in float32."""
    log_p = _scaled(z, divisor).log_softmax(-1)
    if g_entropy is None:
        d = log_p.exp_().mul_(-g_logp[:, None])
    else:
        p = log_p.exp()
        entropy = -(p * log_p).sum(-1, keepdim=True)
        d = p.mul_(log_p.add_(entropy).mul_(g_entropy[:, None]).add_(g_logp[:, None]).neg_())
    d[torch.arange(len(d), device=d.device), target] += g_logp
    return d.div_(divisor) if len(divisor) else d
