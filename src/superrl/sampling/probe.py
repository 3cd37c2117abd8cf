"""Which models the in-process sampler serves, found out by computing: its attention takes the place of the model's own.

A model is served without a line of its own architecture: transformers hands every layer's keys and values to the cache
object given as `past_key_values`, and computes attention with the function registered under the name in its config.
How far a layer sees is read from its mask (`superrl.windows`), and a short row must come out as from the model's own
forward pass. Leaves out the arithmetic (`slots`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from superrl.errors import UserError
from superrl.rotary import unsteady
from superrl.windows import NO_WINDOW, UNLIMITED, calls

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from superrl.sampling.slots import Decode, Prefill

ATTENTION = "superrl_slots"
SERVED_LAYERS = {"full_attention", "sliding_attention"}
ELSEWHERE = "which the local sampler cannot serve; use another engine"
PROBE_TOKENS = 12
"""Tokens of the row that the sampler's passes and the model's own are compared on."""
SHAKE = 0.1
"""Standard deviation of what fresh norms and biases are shaken by."""
TOLERANCE = {torch.float32: 1e-3}
ROUGH = 0.25
"""How far they may differ, relative to the logits' norm. Below float32 rounding can send a token to other experts, so
that only another architecture is told from it."""

Windows = Mapping[nn.Module, int | None]
"""For every module that attends: how many tokens it sees, the query's own included; None: all before it."""


@dataclass(frozen=True)
class Served:
    """What is known about a model that is served: its windows, and its own `logits` [L, V] after `tokens` [L]."""

    windows: Windows
    tokens: tuple[int, ...]
    logits: Tensor


@contextmanager
def shaken(model: nn.Module) -> Iterator[None]:
    """Within the block norms and biases are not the ones and zeros that a fresh model has, so that one that is left out
    tells. Those that have learnt something tell as they are."""
    draw = torch.Generator().manual_seed(0)
    vectors = [p for p in model.parameters() if p.dim() == 1 and bool((p == p[:1]).all())]
    kept = [(vector, vector.data.clone()) for vector in vectors]
    for vector, values in kept:
        vector.data += (SHAKE * torch.randn(len(values), generator=draw)).to(values)
    try:
        yield
    finally:
        for vector, values in kept:
            vector.data.copy_(values)


@torch.inference_mode()
def serve(model: PreTrainedModel) -> Served:
    """Make `model` compute attention through `slot_attention`, or say why it cannot be served."""
    from transformers import AttentionInterface

    name, text = type(model).__name__, model.config.get_text_config()
    if unknown := set(getattr(text, "layer_types", None) or ()) - SERVED_LAYERS:
        raise UserError(f"{name} has layers of type {sorted(unknown)[0]!r}, {ELSEWHERE}")
    if model.config.is_encoder_decoder:
        raise UserError(f"{name} has an encoder, {ELSEWHERE}")
    if kinds := unsteady(text):
        raise UserError(f"{name} turns its tokens by the length of the whole batch (rope {kinds[0]!r}), {ELSEWHERE}")
    AttentionInterface.register(ATTENTION, slot_attention)
    own = model.config._attn_implementation
    model.set_attn_implementation(ATTENTION)
    if model.config._attn_implementation != ATTENTION:
        raise UserError(f"{name} does not let its attention be replaced; use another engine")
    model.set_attn_implementation(own)
    windows = _windows(model)
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(int(text.vocab_size), (PROBE_TOKENS,), generator=draw)
    logits = model(input_ids=tokens.to(model.device)[None], use_cache=False).logits[0].float()
    model.set_attn_implementation(ATTENTION)
    return Served(windows, tuple(tokens.tolist()), logits)


def _windows(model: PreTrainedModel) -> Windows:
    """What each module's mask lets it see; a mask that is no window, or a tensor nobody reads, is refused."""
    name, heard = type(model).__name__, calls(model)
    for call in heard:
        if call.strange:
            raise UserError(f"{type(call.module).__name__} uses {call.strange[0]}, {ELSEWHERE}")
        if call.reach == NO_WINDOW:
            raise UserError(f"{type(call.module).__name__} has an attention mask of its own, {ELSEWHERE}")
    if not heard:
        raise UserError(f"{name} does not attend through transformers' interface, {ELSEWHERE}")
    windows: dict[nn.Module, int | None] = {}
    for call in heard:
        window = None if call.reach == UNLIMITED else call.reach
        if windows.setdefault(call.module, window) != window:
            raise UserError(f"{type(call.module).__name__} looks back now further and now less far, {ELSEWHERE}")
    return windows


def distance(served: Served, found: Tensor) -> float:
    """How far the logits over the sampler's passes, the last len(found) of the probe's, are from the model's own,
    relative to their size."""
    expected = served.logits[-len(found) :]
    return float((found.float() - expected).norm() / expected.norm())


def allowed(model: PreTrainedModel) -> float:
    """How large that distance may be: rounding."""
    return TOLERANCE.get(model.dtype, ROUGH)


def check(model: PreTrainedModel, served: Served, found: Tensor) -> None:
    """Refuse a model whose logits over the sampler's passes are not its own."""
    gap = distance(served, found)
    if not gap <= allowed(model):
        raise UserError(
            f"{type(model).__name__} computes something else token by token than at once (its logits differ by "
            f"{gap:.2g} of their size), {ELSEWHERE}"
        )


def slot_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    slot_pass: Prefill | Decode | None = None,
    scaling: float | None = None,
    softcap: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in every layer: query [B, H, q, D], key and value [B, Hkv, L, D] -> [B, q, H, D]."""
    if slot_pass is None:
        raise UserError(f"{type(module).__name__} is not handed the sampler's cache; use another engine for this model")
    scaled = query * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    window = slot_pass.cache.windows[module]
    return slot_pass.attend(scaled, key, value, window, softcap).transpose(1, 2).contiguous(), None
