"""Padded rows, sorted by length: the naive and exact way to put sequences through a model.

Every sequence is a row of its own, so nothing is shared; that makes it the oracle of the forest, and the layout of the
models that a forest cannot serve. Rows are padded on the right and a causal model never looks to the right, so there is
no padding mask to get wrong, and padding is never recognised by its token id.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from superrl.packing.pack import Pack, Tokens, trained_positions


def pack(sequences: Sequence[Tokens], max_tokens: int) -> list[Pack]:
    """Rows of similar length together, at most `max_tokens` padded tokens a pack."""
    order = sorted(
        (i for i, one in enumerate(sequences) if any(one.loss_mask)), key=lambda i: (len(sequences[i].tokens), i)
    )
    packs: list[Pack] = []
    rows: list[int] = []
    for index in order:
        if rows and (len(rows) + 1) * len(sequences[index].tokens) > max_tokens:
            packs.append(_pad(sequences, rows))
            rows = []
        rows.append(index)
    return [*packs, _pad(sequences, rows)] if rows else packs


def _pad(sequences: Sequence[Tokens], rows: Sequence[int]) -> Pack:
    width = max(len(sequences[i].tokens) for i in rows)
    tokens = torch.zeros(len(rows), width, dtype=torch.long)
    source, target, sequence, position, temperature = [], [], [], [], []
    for row, index in enumerate(rows):
        item = sequences[index]
        tokens[row, : len(item.tokens)] = torch.tensor(item.tokens)
        trained = trained_positions(item)
        source += [row * width + t - 1 for t in trained]
        target += [item.tokens[t] for t in trained]
        sequence += [row] * len(trained)
        position += trained
        temperature += [item.temperature] * len(trained)
    return Pack(
        items=tuple(rows),
        tokens=tokens,
        source=torch.tensor(source),
        target=torch.tensor(target),
        temperature=torch.tensor(temperature, dtype=torch.float32),
        edge=torch.arange(len(source)),
        sequence=torch.tensor(sequence),
        position=torch.tensor(position),
        logical=sum(len(sequences[i].tokens) for i in rows),
    )
