"""Each distinct prefix is computed once, in batches of one shape a length, and forgotten after its last use."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from superrl.sampling.prefixes import BATCH_TOKENS, Prefixes
from superrl.sampling.slots import KeyValue

Call = tuple[list[tuple[int, ...]], int, int]


def test_computed_once_ahead_and_forgotten() -> None:
    calls: list[Call] = []

    def prefill(prefixes: Sequence[tuple[int, ...]], rows: int, length: int) -> list[list[KeyValue]]:
        calls.append((list(prefixes), rows, length))
        return [[(torch.tensor(prefix), torch.tensor(prefix))] for prefix in prefixes]

    short = [(i,) * 20 for i in range(18)]
    long = (7,) * 300
    prefixes = Prefixes(prefill, [short[0], short[0], long, *short[1:], short[0], ()])
    assert prefixes.take(short[0], 2)[0][0].tolist() == [0] * 20
    assert prefixes.take(long, 1)[0][0].tolist() == [7] * 300
    assert prefixes.take(short[0], 1)[0][0].tolist() == [0] * 20
    for prefix in short[1:]:
        assert prefixes.take(prefix, 1)[0][0].tolist() == list(prefix)
    rows = BATCH_TOKENS // 32
    assert calls == [(short[:rows], rows, 32), ([long], 1, 384), (short[rows:], rows, 32)]
    assert not prefixes._computed and not prefixes._wanted
