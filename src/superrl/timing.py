"""Clocks and peak memory, kept apart from metrics: they never repeat."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class Clock:
    """Wall-clock seconds by phase of one step, and the CPU seconds that the process spent in it."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.cpu = time.process_time()
        self.seconds = dict.fromkeys(("rollout", "reward", "train", "sync"), 0.0)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Add the time inside the block to a phase."""
        before = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - before

    def add(self, seconds: Mapping[str, float]) -> None:
        """Add seconds by phase that another clock told."""
        for phase, spent in seconds.items():
            self.seconds[phase] += spent

    def row(self, step: int, stage: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """A line of timing.jsonl."""
        whole = time.perf_counter() - self.started
        return {
            "step": step,
            "stage": stage,
            **{f"time/{phase}": seconds for phase, seconds in self.seconds.items()},
            "time/step": whole,
            "time/cpu": time.process_time() - self.cpu,
            "tokens_per_second/generated": _rate(metrics.get("tokens/generated"), self.seconds["rollout"]),
            "tokens_per_second/trained": _rate(metrics.get("tokens/logical"), self.seconds["train"]),
            "memory/peak_bytes": peak_memory(),
        }


def peak_memory() -> int:
    """The most memory this process has had, in bytes: on the GPU where there is one, else resident."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _rate(count: float | None, seconds: float) -> float | None:
    return count / seconds if count and seconds > 0 else None
