"""Decode steps of fixed shapes, recorded once and replayed: on a GPU as CUDA graphs.

A decode step of a small model is a few hundred kernels of some microseconds each, which take longer to launch than to
run. A step whose shapes and addresses are fixed is launched as one. So rows and keys are rounded up to a few sizes;
rows that nobody needs compute something in idle slots, and keys that a row does not have are masked. Between replays
tokens and positions are written into the tensors that were recorded with, and new weights into those that are there.

Leaves out prefill, and models without a lean pass (`lean`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from superrl.sampling.slots import Decode, Read, SlotCache, bucket

SMALLEST_ROWS, SMALLEST_KEYS = 8, 128
WARM_UPS = 3
"""Runs before a recording, in which kernels choose and compile what they need."""

Step = Callable[[Tensor, Tensor], Tensor]
"""Tokens and positions [R, 1] -> logits [R, V]."""
Recorder = Callable[[Step, Tensor, Tensor], Callable[[], Tensor]]
"""Records a step over two tensors; what it gives does the step again over whatever they hold then."""


class Recording(NamedTuple):
    """A recorded step, and the tensors that it reads."""

    tokens: Tensor
    positions: Tensor
    again: Callable[[], Tensor]


class Recorded:
    """The recordings of `forward`, one for each shape, over one cache whose active slots are its first."""

    def __init__(self, forward: Callable[[Tensor, Tensor, Decode], Tensor], cache: SlotCache, record: Recorder) -> None:
        self._forward = forward
        self._cache = cache
        self._record = record
        self._epoch = cache.epoch
        self._recordings: dict[tuple[int, int], Recording] = {}

    def __call__(self, tokens: Tensor, positions: Tensor, longest: int) -> Tensor:
        """tokens and positions [n, 1] of the first n slots, the longest of which has so many keys -> logits [n, V]."""
        if self._epoch != self._cache.epoch:  # the keys lie elsewhere now
            self._recordings.clear()
            self._epoch = self._cache.epoch
        n = len(tokens)
        rows = min(bucket(n, SMALLEST_ROWS), self._cache.slots)
        shape = rows, min(bucket(longest, SMALLEST_KEYS), self._cache.capacity)
        recording = self._recordings.get(shape)
        if recording is None:
            recording = self._recordings[shape] = self._new(*shape, tokens, positions)
        else:
            _fill(recording.tokens, tokens)
            _fill(recording.positions, positions)
        return recording.again()[:n].clone()

    def _new(self, rows: int, keys: int, tokens: Tensor, positions: Tensor) -> Recording:
        """The step of `rows` rows over `keys` keys, recorded on real input."""
        inputs = tokens.new_zeros((2, rows, 1))
        _fill(inputs[0], tokens)
        _fill(inputs[1], positions)
        slots = torch.arange(rows, device=tokens.device)

        def step(tokens: Tensor, positions: Tensor) -> Tensor:
            work = Decode(self._cache, positions[:, 0], (Read(0, rows, keys, 0),), slots)
            return self._forward(tokens, positions, work)

        step(inputs[0], inputs[1])  # what is made once, the cache's memory say, is no part of a recording
        return Recording(inputs[0], inputs[1], self._record(step, inputs[0], inputs[1]))


def _fill(target: Tensor, source: Tensor) -> None:
    target.zero_()
    target[: len(source)].copy_(source)


def cuda_graph(step: Step, tokens: Tensor, positions: Tensor) -> Callable[[], Tensor]:
    """The `Recorder` of a GPU. A step may be done several times over: it writes the same keys to the same place."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM_UPS):
            step(tokens, positions)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step(tokens, positions)

    def again() -> Tensor:
        graph.replay()
        return found

    return again
