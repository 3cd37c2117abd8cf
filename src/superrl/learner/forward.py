"""From a pack to the log-probability of every trained token: the model's trunk once, its head in chunks.

Only hidden states that predict a trained token reach the LM head. A head that is one matrix is fused with the
logarithm of the softmax (`head`); of any other each chunk's logits are recomputed in the backward pass. Either way
memory for logits is bounded, whatever vocabulary and batch. Leaves out losses, and what else may be read off hidden
states (`critic`).
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from superrl.learner.head import CHUNK_LOGITS, HELD, score
from superrl.learner.linear import Linear
from superrl.packing.attention import ATTENTION
from superrl.packing.pack import Pack


def token_logprobs(
    model: nn.Module, pack: Pack, compute_dtype: torch.dtype, *, with_entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """(logp [N], entropy [N] or None) in float32, at each token's temperature; differentiable where gradients are on.

    Shapes: N trained tokens of the pack. Entropy is in nats, of the distribution the token came from. Tokens that share
    an edge share its computation.
    """
    return from_hidden(model, hidden_states(trunk(model), pack, compute_dtype), pack, compute_dtype, with_entropy)


def hidden_states(body: nn.Module, pack: Pack, compute_dtype: torch.dtype) -> Tensor:
    """[E, H]: the last hidden states of a trunk from which the pack's edges are predicted; differentiable."""
    shared = cast(Any, body).config._attn_implementation == ATTENTION
    assert shared == (pack.forest is not None), "the model's attention was set up for another layout by another learner"
    with torch.autocast(pack.tokens.device.type, dtype=compute_dtype, enabled=compute_dtype != torch.float32):
        hidden: Tensor = body(**pack.arguments).last_hidden_state.flatten(0, 1)
        return hidden.index_select(0, pack.source)  # not hidden[source]: its backward is not deterministic


def from_hidden(
    model: nn.Module, rows: Tensor, pack: Pack, compute_dtype: torch.dtype, with_entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """`token_logprobs` of hidden states [E, H] that are already there."""
    with torch.autocast(pack.tokens.device.type, dtype=compute_dtype, enabled=compute_dtype != torch.float32):
        logp, entropy = _through_head(model, rows, pack.target, pack.temperature, with_entropy, compute_dtype)
    return logp.index_select(0, pack.edge), None if entropy is None else entropy.index_select(0, pack.edge)


def _through_head(
    model: nn.Module, rows: Tensor, target: Tensor, temperature: Tensor, with_entropy: bool, compute_dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    if (matrix := one_matrix(model)) is not None:
        thrifty = any(getattr(one, "gradient_checkpointing", False) is True for one in model.modules())
        return score(
            rows, matrix.weight, matrix.bias, target, temperature / factor(model), compute_dtype,
            with_entropy=with_entropy, held=0 if thrifty else HELD,
        )  # fmt: skip
    logps: list[Tensor] = []
    entropies: list[Tensor] = []
    chunk = max(16, CHUNK_LOGITS // int(cast(Tensor, head(model).weight).shape[0]))
    for start in range(0, len(target), chunk):
        part = slice(start, start + chunk)
        arguments = (model, rows[part], target[part], temperature[part], with_entropy)
        recompute = torch.is_grad_enabled() and len(target) > chunk
        logp, entropy = (
            checkpoint(_head_chunk, *arguments, use_reentrant=False) if recompute else _head_chunk(*arguments)
        )
        logps.append(logp)
        entropies += [] if entropy is None else [entropy]
    return torch.cat(logps), torch.cat(entropies) if with_entropy else None


def one_matrix(model: nn.Module) -> nn.Linear | None:
    """The LM head if it is a plain matrix that nothing listens to, and its logits are only scaled; else None."""
    found = head(model)
    capped = getattr(cast(Any, model).config, "final_logit_softcapping", None) is not None
    watched = bool(found._forward_hooks or found._forward_pre_hooks)
    plain = type(found) in (nn.Linear, Linear) and type(found.weight) in (nn.Parameter, Tensor)
    return cast(nn.Linear, found) if plain and not capped and not watched else None


def factor(model: nn.Module) -> float:
    """What the families that scale their logits multiply them by."""
    config: Any = cast(Any, model).config
    by, over = getattr(config, "logit_scale", None), getattr(config, "logits_scaling", None)  # Cohere; Granite
    return (1.0 if by is None else float(by)) / (1.0 if over is None else float(over))


def _head_chunk(
    model: nn.Module, rows: Tensor, target: Tensor, temperature: Tensor, with_entropy: bool
) -> tuple[Tensor, Tensor | None]:
    distribution = (logits(model, rows).float() / temperature[:, None]).log_softmax(-1)
    logp = distribution.gather(1, target[:, None]).squeeze(1)
    return logp, -(distribution.exp() * distribution).sum(-1) if with_entropy else None


def logits(model: nn.Module, hidden: Tensor) -> Tensor:
    """What the model makes of final hidden states [N, H]: head, and the scale or soft cap of the families that have
    one.
    """
    out: Tensor = head(model)(hidden)
    if (by := factor(model)) != 1.0:
        out = out * by
    if (cap := getattr(cast(Any, model).config, "final_logit_softcapping", None)) is not None:  # Gemma 2
        out = torch.tanh(out / cap) * cap
    return out


def trunk(model: nn.Module) -> nn.Module:
    """The decoder without its head, adapters included."""
    return cast(nn.Module, bare(model).base_model)


def bare(model: nn.Module) -> nn.Module:
    """The transformers model itself, without peft's wrapper around it."""
    wrapped: Any = model
    return cast(nn.Module, wrapped.get_base_model()) if hasattr(wrapped, "get_base_model") else model


def head(model: nn.Module) -> nn.Module:
    """The LM head."""
    wrapped: Any = model
    return cast(nn.Module, wrapped.get_output_embeddings())
