"""Keys and values of prompt prefixes: each distinct one computed once, shortly before its first completion joins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from superrl.sampling.slots import KeyValue, bucket

SMALLEST_LENGTH = 32
BATCH_TOKENS = 512
"""A batch is BATCH_TOKENS // C prefixes of padded length C (at least one), so its shape follows from C alone."""

Prefix = tuple[int, ...]
Prefill = Callable[[Sequence[Prefix], int, int], list[list[KeyValue]]]
"""(prefixes, rows, length) -> per prefix and layer the keys and values, computed in one pass of [rows, length]."""


class Prefixes:
    """The prefixes that completions still wait for, and the computed keys and values of the next few."""

    def __init__(self, prefill: Prefill, wanted: Iterable[Prefix]) -> None:
        self._prefill = prefill
        self._wanted = Counter(prefix for prefix in wanted if prefix)  # in order of first use
        self._computed: dict[Prefix, list[KeyValue]] = {}

    def take(self, prefix: Prefix, count: int) -> list[KeyValue]:
        """Per layer keys and values [Hkv, len(prefix), D] for `count` completions; forgotten after the last one."""
        if prefix not in self._computed:
            length = bucket(len(prefix), SMALLEST_LENGTH)
            rows = max(1, BATCH_TOKENS // length)
            batch = [prefix, *self._next_like(prefix, length, rows - 1)]
            self._computed.update(zip(batch, self._prefill(batch, rows, length), strict=True))
        states = self._computed[prefix]
        self._wanted[prefix] -= count
        if self._wanted[prefix] == 0:
            del self._wanted[prefix], self._computed[prefix]
        return states

    def _next_like(self, prefix: Prefix, length: int, count: int) -> list[Prefix]:
        like = [
            other
            for other in self._wanted
            if other != prefix and other not in self._computed and bucket(len(other), SMALLEST_LENGTH) == length
        ]
        return like[:count]
