"""Reductions: which weight w_t every token of a sequence carries, and what every group adds to the denominator D.

    loss = (1 / D) * sum over streams s of lambda_s * sum over tokens t in s of w_t * token_loss_t

D is counted over all groups of the optimizer step before any row is dropped, so that it depends on neither the
micro-batch split nor on what a switch decides. Pure functions; `lengths` are the trained tokens of a group's sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Reduction = Literal["token", "sequence", "prompt", "constant"]
Inner = Literal["mean", "sum", "constant"]


def weights(reduction: Reduction, lengths: Sequence[int], *, max_length: int) -> tuple[float, ...]:
    """The per-token weight of each sequence of one group.

    token: 1 (DAPO) | sequence: 1/T_k (GRPO) | prompt: 1/(K T_k) (SuperRL, inner mean) | constant: 1/L_max (Dr.GRPO).

    >>> weights("prompt", [2, 4], max_length=8)
    (0.25, 0.125)
    """
    if reduction == "prompt":
        return prompt_weights("mean", lengths, max_length=max_length)
    if reduction == "sequence":
        return tuple(1.0 / length if length else 0.0 for length in lengths)
    return (1.0 if reduction == "token" else 1.0 / max_length,) * len(lengths)


def prompt_weights(inner: Inner, lengths: Sequence[int], *, max_length: int) -> tuple[float, ...]:
    """Mean over a prompt's sequences; inside a sequence the mean, the sum, or the sum over a constant length.

    mean: 1/(K T_k) | sum: 1/K (SuperRL's equation read literally) | constant: 1/(K L_max).
    """
    spans = {"mean": lengths, "sum": [1] * len(lengths), "constant": [max_length] * len(lengths)}[inner]
    return tuple(1.0 / (len(lengths) * span) if span else 0.0 for span in spans)


def denominator(reduction: Reduction, lengths: Sequence[int]) -> float:
    """What one group adds to D: its tokens, its sequences, or 1."""
    if reduction == "token":
        return float(sum(lengths))
    return 1.0 if reduction == "prompt" else float(len(lengths))
