"""Metrics are (sum, count) until they are printed; a step's row has every key of the contract, `None` = not computed.

Leaves out clocks: they stand in `timing.jsonl`, so that `metrics.jsonl` is byte-equal when a run is repeated or
resumed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

METRIC_KEYS = (
    "step", "stage", "stage_step", "updates", "epoch", "lr",
    "loss", "loss/pg", "loss/sft",
    "reward/mean", "reward/std", "reward/correct",
    "switch/fallback_rate", "switch/fallback_rate_demonstrated", "switch/expected_rate", "switch/solved_rate",
    "switch/all_correct_rate", "switch/no_demo", "switch/fallbacks",
    "policy/entropy", "policy/kl", "policy/clip_fraction", "policy/staleness", "policy/sampler_gap",
    "demo/nll", "demo/probability",
    "grad_norm", "length/completion", "length/truncated_rate", "length/demonstration",
    "groups/drawn", "groups/trained",
    "tokens/generated", "tokens/trained", "tokens/logical", "tokens/computed",
    "updates/refused",
    "streams/grad_norm/pg", "streams/grad_norm/sft", "streams/share/pg", "streams/share/sft",
    "streams/cosine", "streams/update_cosine",
)  # fmt: skip
"""Every key of a metrics row, in this order; a method may add streams (`loss/S`, `streams/.../S`), and others under
`method/`, a reward its parts under `score/`."""

TIMING_KEYS = (
    "step", "stage", "time/rollout", "time/reward", "time/train", "time/sync", "time/step", "time/cpu",
    "tokens_per_second/generated", "tokens_per_second/trained", "memory/peak_bytes",
)  # fmt: skip


@dataclass(slots=True)
class Mean:
    """A mean in the making: total and count, so that parts of unequal size add up right."""

    total: float = 0.0
    count: float = 0.0

    def add(self, total: float, count: float = 1.0) -> None:
        """Add `count` values that sum to `total`."""
        self.total += total
        self.count += count

    @property
    def value(self) -> float | None:
        """The mean, or None if nothing was added."""
        return self.total / self.count if self.count else None


@dataclass(slots=True)
class Means:
    """Means by name."""

    means: dict[str, Mean] = field(default_factory=dict)

    def add(self, name: str, total: float, count: float = 1.0) -> None:
        """Add `count` values that sum to `total` to the mean called `name`."""
        self.means.setdefault(name, Mean()).add(total, count)

    def merge(self, other: Means) -> None:
        """Add what another has counted."""
        for name, one in other.means.items():
            self.add(name, one.total, one.count)

    def value(self, name: str) -> float | None:
        """The mean called `name`, or None if nothing was added to it."""
        return self.means[name].value if name in self.means else None


def mean(values: Iterable[float]) -> float | None:
    """The mean of some numbers, None of none; exact summation, so that order does not matter."""
    numbers = list(values)
    return math.fsum(numbers) / len(numbers) if numbers else None


def row(values: Mapping[str, float | int | str | None]) -> dict[str, float | int | str | None]:
    """A complete metrics row: contract keys first, absent and non-finite numbers as None, then the method's own."""
    own = sorted(key for key in values if key not in METRIC_KEYS)
    unknown = [key for key in own if not key.startswith(("method/", "loss/", "streams/", "score/"))]
    assert not unknown, f"metric keys missing from METRIC_KEYS: {unknown}"
    return {key: _finite(values.get(key)) for key in [*METRIC_KEYS, *own]}


def _finite(value: float | int | str | None) -> float | int | str | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value
