"""Drawing tokens by inverse CDF from one uniform number a token, with their log-probabilities.

The uniform numbers come from a counter-based generator keyed by (prompt key, sample), so that a draw depends on neither
its neighbours in the batch nor on global state. Drawing this way also costs a fraction of `torch.multinomial`, which
makes one exponential number a vocabulary entry.

A `Truncation` cuts the tail off what is drawn from, never off what is recorded: log-probabilities and entropies are
those of the whole distribution, which is the learner's. Leaves out penalties.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from superrl.truncation import Truncation

BLOCK = 128
"""The vocabulary is searched in two levels: first among the sums of blocks of this size, then inside one block."""
CACHED_ENTRIES = 1 << 19
"""Rows are treated in chunks of about this many logits, so that the passes over them find them in the CPU's cache."""
RESOLUTION = float(1 << 40)
"""The likeliest token's mass in the integers that are cumulated: what has less than 1e-12 of it is never drawn."""
NUCLEUS = 256
"""Top-p first looks among so many of the likeliest tokens, which is where it ends but for flat distributions."""
NEVER = -200.0
"""A logit this far below the largest has probability zero in float32; keeps infinities out of the entropy."""


class Draws(NamedTuple):
    """One drawn token a row, all [n] in float64: token id, its log-probability, entropy of its distribution in nats."""

    tokens: Tensor
    logp: Tensor
    entropy: Tensor


def uniforms(key: Sequence[int], sample: int, count: int) -> NDArray[np.float64]:
    """`count` uniform numbers in [0, 1) for completion `sample`: number t is a pure function of (key, sample, t)."""
    name = repr((tuple(int(part) for part in key), int(sample)))
    seed = int.from_bytes(blake2b(name.encode(), digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=seed)).random(count)


def draw(logits: Tensor, uniform: Tensor, temperature: Tensor, truncation: Truncation | None = None) -> Draws:
    """Draw one token a row from softmax(logits / temperature), or take the likeliest where the temperature is 0.

    `logits` [n, V], `uniform` [n] float64, `temperature` [n]. Log-probability and entropy are float32 quantities of the
    untruncated distribution at the sampling temperature, at 1 for greedy rows.
    """
    rows = max(1, CACHED_ENTRIES // logits.shape[1]) if logits.device.type == "cpu" else len(logits)
    parts = zip(*(x.split(rows) for x in (logits, uniform, temperature)), strict=True)
    drawn = [_draw_chunk(*part, truncation=truncation) for part in parts]
    return Draws(*(torch.cat(column) for column in zip(*drawn, strict=True)))


def _draw_chunk(logits: Tensor, uniform: Tensor, temperature: Tensor, *, truncation: Truncation | None) -> Draws:
    n, vocabulary = logits.shape
    shifted = logits.float() / torch.where(temperature > 0, temperature, 1.0).float()[:, None]
    if ragged := -vocabulary % BLOCK:
        shifted = pad(shifted, (0, ragged), value=-torch.inf)
    shifted.sub_(shifted.amax(-1, keepdim=True)).clamp_(min=NEVER)
    mass = shifted.exp()
    blocks = mass.view(n, -1, BLOCK).sum(-1).double()
    total = blocks.sum(-1, keepdim=True)
    if truncation is None:
        drawn = _inverse_cdf(mass, blocks, uniform[:, None])
    else:
        kept = mass.where(mass >= least_mass(mass, truncation), 0.0)
        drawn = _inverse_cdf(kept, kept.view(n, -1, BLOCK).sum(-1).double(), uniform[:, None])
    greedy = temperature[:, None] <= 0
    if logits.device.type != "cpu" or bool(greedy.any()):  # a GPU would have to wait for the answer
        drawn = drawn.where(~greedy, shifted.argmax(-1, keepdim=True))
    log_total = total.log()
    logp = (shifted.gather(-1, drawn) - log_total).float().double()
    entropy = log_total - mass.mul_(shifted).sum(-1, keepdim=True) / total
    return Draws(drawn[:, 0].double(), logp[:, 0], entropy[:, 0])


def least_mass(mass: Tensor, truncation: Truncation) -> Tensor:
    """[n, 1]: the least mass that may be drawn, of masses [n, V] of which the likeliest token's is 1."""
    least = mass.new_full((len(mass), 1), truncation.min_p or 0.0)
    if truncation.top_k is not None and truncation.top_k < mass.shape[1]:
        last = mass.topk(truncation.top_k).values[:, -1:]
        mass, least = mass.where(mass >= last, 0.0), torch.maximum(least, last)
    if truncation.top_p is not None and truncation.top_p < 1.0:
        least = torch.maximum(least, _nucleus(mass, truncation.top_p))
    return least


def _nucleus(mass: Tensor, share: float) -> Tensor:
    """[n, 1]: the mass of the last token of the smallest set of likeliest ones with at least `share` of the whole; in
    integers, whose sums depend on no order."""
    goal = (mass.double() * RESOLUTION).long().sum(-1, keepdim=True) * share
    likely = mass.topk(min(NUCLEUS, mass.shape[1])).values
    while True:
        size = (likely.double() * RESOLUTION).long()
        count = (size.cumsum(-1) - size < goal).sum(-1, keepdim=True)
        if likely.shape[1] == mass.shape[1] or bool((count < likely.shape[1]).all()):
            return likely.gather(-1, count.clamp_(min=1) - 1)
        likely = mass.sort(-1, descending=True).values


def _inverse_cdf(mass: Tensor, blocks: Tensor, uniform: Tensor) -> Tensor:
    """[n, 1]: the token at which the cumulated mass first exceeds `uniform` of the total; never one of mass zero.

    Sums of integers are exact, so nothing runs over an end: the target is at most the total less one, and the entry at
    which the sum exceeds it has raised it. (And CUDA has no deterministic cumulated sum of floating-point numbers.)
    """
    sizes = (blocks * RESOLUTION).long()
    coarse = sizes.cumsum(-1)
    goal = uniform * coarse[:, -1:]
    block = first_above(coarse, goal)
    size = sizes.gather(-1, block)
    rest = ((goal - (coarse.gather(-1, block) - size)) / size).clamp_(0.0, 1.0)
    index = block[:, :, None].expand(-1, -1, BLOCK)
    inside = mass.view(len(mass), -1, BLOCK).gather(1, index)[:, 0].double()
    fine = (inside * (RESOLUTION / inside.sum(-1, keepdim=True))).long().cumsum(-1)
    return block * BLOCK + first_above(fine, rest * fine[:, -1:])


def first_above(cumulated: Tensor, goal: Tensor) -> Tensor:
    """[n, 1]: index of the first entry greater than `goal`, which is held below the last one.

    An index also for rows of nan, whose draw means nothing but must not read out of bounds.
    """
    above = (cumulated <= torch.minimum(goal.long(), cumulated[:, -1:] - 1)).sum(-1, keepdim=True)
    return above.clamp_(max=cumulated.shape[-1] - 1)
