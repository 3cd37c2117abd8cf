"""What the learner can do with a model, found out before it is trained: by computing, not by a list of names.

A model whose logits the learner does not know is refused. One that computes the same over a prefix forest as over
padded rows gets the forest; any other keeps its own attention and one sequence a row.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from superrl.errors import UserError
from superrl.learner.forward import bare, head, logits, trunk
from superrl.packing import forest, rows
from superrl.packing.attention import ATTENTION, forest_attention
from superrl.packing.pack import Packer
from superrl.records import Trajectory
from superrl.rotary import unsteady
from superrl.windows import tells_its_windows

TOLERANCE = 1e-2
"""How far trunk-then-head may be from the model's own logits, in nats: rounding of a float32 forward is far below."""
RELATIVE = 1e-3
"""How far a forest's hidden states may be from those of padded rows, relative to the largest one."""
DEVICES = {"cpu", "cuda"}
SERVED_LAYERS = {"full_attention", "sliding_attention"}


def check_served(model: nn.Module) -> None:
    """Refuse a model that does more to its logits than `logits` knows: its gradients would be another model's.

    The model is left with plain attention, also if a learner had given it the forest's: that learner is at its end.
    """
    plain: Any = bare(model)
    if plain.config._attn_implementation == ATTENTION:
        _attend_by(plain, "sdpa" if plain._supports_sdpa else "eager")
    if plain.base_model is plain:
        raise UserError(
            f"model.name: {type(plain).__name__} does not show its trunk apart from its head: take a model of another "
            "family"
        )
    gap = disagreement(model, torch.arange(8, device=_device(model))[None] % _vocabulary(model))
    if not gap <= TOLERANCE:
        raise UserError(
            f"model.name: {type(bare(model)).__name__} treats its logits in a way that superrl's learner does not know "
            f"(they differ by {gap:.3g}): take a model of another family"
        )


@torch.no_grad()
def disagreement(model: nn.Module, tokens: Tensor) -> float:
    """Largest difference between trunk-then-head and the model's own logits on one row [1, L]: 0 for a served model."""
    whole = model(input_ids=tokens, use_cache=False).logits[0]
    parts = logits(model, trunk(model)(input_ids=tokens, use_cache=False).last_hidden_state[0])
    return float((whole.float() - parts.float()).abs().max())


def choose_packer(model: nn.Module) -> Packer:
    """The forest if the model computes the same over it (its attention is then replaced for good), else padded rows."""
    plain: Any = bare(model)
    own = plain.config._attn_implementation
    if _device(model).type in DEVICES and _known(plain.config) and tells_its_windows(plain):
        over_rows = _hidden(model, rows.pack)
        _attend_by(plain, ATTENTION)
        if plain.config._attn_implementation == ATTENTION and _agree(_over_forest(model), over_rows):
            return forest.pack
    _attend_by(plain, own)
    return rows.pack


def _over_forest(model: nn.Module) -> Tensor | None:
    """The probe's hidden states over a forest; None if the model does not take one, or the device's kernel refuses."""
    try:
        return _hidden(model, forest.pack)
    except TypeError:  # a forward without room for another keyword
        return None
    except (RuntimeError, NotImplementedError):
        if _device(model).type == "cuda":  # a shape that FlexAttention does not compile for
            return None
        raise


def _known(config: Any) -> bool:
    """Whether all its layers are of a kind that a forest can serve, as far as its config tells."""
    text = config.get_text_config()
    layers = set(getattr(text, "layer_types", None) or ())
    return not config.is_encoder_decoder and layers <= SERVED_LAYERS and not unsteady(text)


def _attend_by(model: Any, implementation: str) -> None:
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, forest_attention)
    model.set_attn_implementation(implementation)


def _hidden(model: nn.Module, packer: Packer) -> Tensor:
    """The hidden state before every trained token of a small batch with much in common; on a GPU also a backward, which
    is compiled apart."""
    sequences = _probe(_vocabulary(model))
    (pack,) = (pack.to(_device(model)) for pack in packer(sequences, 10_000))
    with torch.set_grad_enabled(_device(model).type == "cuda"):
        hidden = trunk(model)(**pack.arguments).last_hidden_state.flatten(0, 1)
    if hidden.requires_grad:
        hidden.sum().backward()
        model.zero_grad(set_to_none=True)
    found = hidden.detach().index_select(0, pack.source).index_select(0, pack.edge)
    lengths = [sum(sequences[i].loss_mask) for i in pack.items]
    states = sorted(zip(pack.items, found.split(lengths), strict=True), key=lambda one: one[0])
    return torch.cat([state for _, state in states])


def _agree(one: Tensor | None, other: Tensor) -> bool:
    return one is not None and bool((one - other).abs().max() <= RELATIVE * other.abs().max())


def _probe(vocabulary: int) -> list[Trajectory]:
    """Sequences that share a prompt, share more, are equal, contain each other, or share nothing."""
    draw = torch.Generator().manual_seed(0)
    prompt, first, second, third, other = torch.randint(vocabulary, (5, 9), generator=draw).tolist()
    contents = [prompt + first, prompt + first[:4] + second, prompt + third, prompt + first, prompt, other + third]
    return [
        Trajectory(tuple(tokens), (False,) * 3 + (True,) * (len(tokens) - 3), (0.0,) * len(tokens), "")
        for tokens in contents
    ]


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _vocabulary(model: nn.Module) -> int:
    return int(cast(Tensor, head(model).weight).shape[0])
