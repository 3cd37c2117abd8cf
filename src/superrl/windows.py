"""How far back each layer of a model sees, read from the model itself.

An attention function that is put in a model's place sees a keyword `sliding_window`, and some families hold their
window (or something that is none) in the mask alone, or pass a window that their mask does not have. No short batch
would show it. So one row goes through the model with an attention and a mask function that only record: transformers
hands the mask function the rule it would have made the mask of, and the rule is asked how far it reaches. Leaves out
what the numbers say (`learner.probe`, `sampling.probe`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROBE = "superrl_windows"
FAR = 1 << 20
"""Further back than any window."""
UNLIMITED, NO_WINDOW = -1, -2
UNDERSTOOD = frozenset(
    {"dropout", "scaling", "sliding_window", "softcap", "is_causal", "position_ids", "cache_position"}
)
"""What our attention functions read, or what cannot matter to them; any other tensor in a call changes the result."""

Rule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Call:
    """One call of attention: by which module, with which `sliding_window`, how far its mask reaches (tokens, the
    query's own included; UNLIMITED, or NO_WINDOW where it is not such a mask), and the tensors nobody understands."""

    module: nn.Module
    told: int | None
    reach: int
    strange: tuple[str, ...]


def tells_its_windows(model: PreTrainedModel) -> bool:
    """Whether every layer's mask reaches as far back as its `sliding_window` says, and nothing else bends attention."""
    return all(one.reach == (one.told or UNLIMITED) and not one.strange for one in calls(model))


@torch.no_grad()
def calls(model: PreTrainedModel) -> Sequence[Call]:
    """Every call of attention in one forward pass of a short row, in order; the model is left as it was."""
    from transformers import AttentionInterface, AttentionMaskInterface

    heard: list[Call] = []

    def attention(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
        sliding_window: int | None = None, **options: Any,
    ) -> tuple[Tensor, None]:  # fmt: skip
        ours = attention_mask is not None and attention_mask.numel() == 1
        seen = int(attention_mask) if ours and attention_mask is not None else NO_WINDOW
        strange = [name for name, value in options.items() if name not in UNDERSTOOD and isinstance(value, Tensor)]
        heard.append(Call(module, sliding_window, seen, tuple(strange)))
        return query.new_zeros(query.shape[0], query.shape[2], query.shape[1], value.shape[-1]), None

    AttentionInterface.register(PROBE, attention)
    AttentionMaskInterface.register(PROBE, _mask)
    own = model.config._attn_implementation
    model.set_attn_implementation(PROBE)
    try:
        model.base_model(input_ids=torch.arange(1, 9, device=model.device)[None], use_cache=False)
    finally:
        model.set_attn_implementation(own)
    return heard


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
