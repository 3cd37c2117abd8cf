"""pass@k curves of the final models and of their base, and where they cross: does training find new solutions, or
does it only make the base's own more likely?

A curve is the unbiased estimate from n completions a problem at temperature 1 (arXiv:2107.03374 eq. 1). If the base's
curve meets an arm's at some k, then at that many attempts the untrained model solves as much. Pure functions on counts;
leaves out drawing (`measure`). The estimate is written here again, and not taken from `evaluation`, since reading a
comparison must not wait for torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from superrl.comparison.results import Passes, Run
from superrl.comparison.statistics import estimate

COLUMNS = (1, 2, 4, 8, 16)
"""The k that have a column in compare.csv."""


def pass_at_k(n: int, correct: int, k: int) -> float:
    """1 - C(n - c, k) / C(n, k).

    >>> pass_at_k(4, 1, 2)
    0.5
    """
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def powers(samples: int) -> list[int]:
    """The k that so many samples serve: 1, 2, 4, ...

    >>> powers(20)
    [1, 2, 4, 8, 16]
    """
    return [2**i for i in range(samples.bit_length())]


def curve(of: Passes) -> dict[int, float]:
    """pass@k by k, the mean over problems."""
    counts = list(of.correct.values())
    return {k: math.fsum(pass_at_k(of.samples, c, k) for c in counts) / len(counts) for k in powers(of.samples)}


def crossing(own: Mapping[int, float], base: Mapping[int, float]) -> int | None:
    """The smallest k at which the base solves as much or more; None if it never does. A k at which neither solves
    anything compares nothing and is passed over.

    >>> crossing({1: 0.5, 2: 0.6, 4: 0.7}, {1: 0.1, 2: 0.4, 4: 0.8})
    4
    """
    return next((k for k in sorted(own) if k in base and base[k] > 0 and base[k] >= own[k] - 1e-12), None)


def beyond(own: Passes, base: Passes) -> float:
    """The share of problems that the model solves in n attempts and the base in none of as many."""
    found = [count > 0 and not base.correct[name] for name, count in own.correct.items()]
    return sum(found) / len(found)


def over_seeds(runs: Sequence[Run], base: Passes | None) -> dict[str, Any] | None:
    """An arm's curve over seeds and how it lies to the base's; None if no run was looked at.

    `beyond`: the share of problems solved that the base never solved; `lost`: the reverse. Base and arm are compared
    only where they had the same problems and as many samples.
    """
    known = [run.passes for run in runs if run.passes]
    if not known:
        return None
    ks = powers(min(one.samples for one in known))
    curves = [curve(one) for one in known]
    at = {k: estimate([points[k] for points in curves]).within(0.0, 1.0) for k in ks}
    alike = base is not None and all(_alike(one, base) for one in known)
    found: dict[str, Any] = {"at": {str(k): asdict(one) for k, one in at.items()}, "compared": alike}
    if base is None or not alike:
        return {**found, "crossing": None, "beyond": None, "lost": None}
    return {
        **found,
        "crossing": crossing({k: one.mean for k, one in at.items()}, curve(base)),
        "beyond": asdict(estimate([beyond(one, base) for one in known]).within(0.0, 1.0)),
        "lost": asdict(estimate([beyond(base, one) for one in known]).within(0.0, 1.0)),
    }


def plain(of: Passes | None) -> dict[str, Any] | None:
    """One model's curve, as JSON."""
    if of is None:
        return None
    at = {str(k): value for k, value in curve(of).items()}
    return {"samples": of.samples, "problems": len(of.correct), "at": at}


def _alike(one: Passes, other: Passes) -> bool:
    return one.samples == other.samples and set(one.correct) == set(other.correct)
