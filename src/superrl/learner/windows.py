"""Whether a model tells its attention function how far back each layer sees, read from the model itself.

The forest's attention trusts the keyword `sliding_window`. Some families hold their window (or something that is none)
in the mask alone, and no short batch would show it. So one row goes through the model with an attention and a mask
function that only record: transformers hands the mask function the rule it would have made the mask of, and the rule is
asked how far it reaches. Leaves out what the numbers say (`serving`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from superrl.learner.forward import bare, trunk

PROBE = "superrl_windows"
FAR = 1 << 20
"""Further back than any window."""
UNLIMITED, NO_WINDOW = -1, -2
UNDERSTOOD = frozenset(
    {"dropout", "scaling", "sliding_window", "softcap", "is_causal", "position_ids", "cache_position"}
)
"""What the forest's attention reads, or what cannot matter to it; any other tensor in a call changes the result."""

Rule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@torch.no_grad()
def tells_its_windows(model: nn.Module) -> bool:
    """Whether every layer's mask reaches as far back as its `sliding_window` says, and nothing else bends attention."""
    from transformers import AttentionInterface, AttentionMaskInterface

    told: list[bool] = []

    def attention(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
        sliding_window: int | None = None, **options: Any,
    ) -> tuple[Tensor, None]:  # fmt: skip
        ours = attention_mask is not None and attention_mask.numel() == 1
        reach = int(attention_mask) if ours and attention_mask is not None else NO_WINDOW
        strange = [name for name, value in options.items() if name not in UNDERSTOOD and isinstance(value, Tensor)]
        told.append(reach == (sliding_window or UNLIMITED) and not strange)
        return query.new_zeros(query.shape[0], query.shape[2], query.shape[1], value.shape[-1]), None

    AttentionInterface.register(PROBE, attention)
    AttentionMaskInterface.register(PROBE, _mask)
    plain: Any = bare(model)
    own = plain.config._attn_implementation
    plain.set_attn_implementation(PROBE)
    try:
        device = next(model.parameters()).device
        trunk(model)(input_ids=torch.arange(1, 9, device=device)[None], use_cache=False)
    finally:
        plain.set_attn_implementation(own)
    return all(told)


def _mask(*, mask_function: Rule, device: torch.device | str = "cpu", **_: Any) -> Tensor:
    """What stands in the mask's place: how far back the rule reaches, [1, 1, 1, 1]."""
    return torch.full((1, 1, 1, 1), reach(mask_function), device=device)


def reach(rule: Rule) -> int:
    """The window W of a rule that lets a query see itself and the W - 1 keys before it; UNLIMITED; or NO_WINDOW for a
    rule that is neither, such as chunks."""
    zero = torch.tensor(0)

    def sees(query: int, back: int) -> bool:
        return bool(rule(zero, zero, torch.tensor(query), torch.tensor(query - back)))

    if sees(FAR + 12345, FAR):
        return UNLIMITED
    low, high = 0, FAR
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if sees(FAR + 12345, middle) else (low, middle)
    elsewhere = 2 * FAR + 7
    return high if sees(elsewhere, high - 1) and not sees(elsewhere, high) else NO_WINDOW
