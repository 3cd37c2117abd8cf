"""Which of a problem's demonstrations to learn from (methods that imitate share this choice)."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Literal

from superrl.records import Group, Trajectory

Choice = Literal["first", "random", "all", "shortest", "likeliest"]


def choose(group: Group, choice: Choice) -> list[int]:
    """Indices of the chosen demonstrations, [] if there is none; `random` is seeded by the group's own key.

    `likeliest` has the highest mean log-probability a token under the learner (annotation `demo_logp`).
    """
    demonstrations = group.demonstrations
    indices = range(len(demonstrations))
    if not demonstrations or choice == "all":
        return list(indices)
    if choice == "random":
        return [random.Random(f"demonstration/{group.key}").randrange(len(demonstrations))]
    if choice == "shortest":
        return [min(indices, key=lambda i: demonstrations[i].length)]
    if choice == "likeliest":
        return [max(indices, key=lambda i: mean_logp(demonstrations[i]))]
    return [0]


def mean_logp(demonstration: Trajectory) -> float:
    """Mean `demo_logp` over the trained tokens, in nats."""
    logp = demonstration.annotations["demo_logp"]
    return (
        math.fsum(x for x, trained in zip(logp, demonstration.loss_mask, strict=True) if trained) / demonstration.length
    )


def describe(group: Group, chosen: Sequence[int]) -> str:
    """`demonstration 0 (source)`, or how many when there are several."""
    if len(chosen) != 1:
        return f"{len(chosen)} demonstrations"
    source = group.problem.demonstrations[chosen[0]].source if group.problem.demonstrations else ""
    return f"demonstration {chosen[0]}" + (f" ({source})" if source else "")
