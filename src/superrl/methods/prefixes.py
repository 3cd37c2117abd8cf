"""Expert prefixes: the first tokens of a demonstration, which the policy continues (UFT, Prefix-RFT, BREAD, hints).

Lengths are in tokens, for a method sees no words; a prefix may end inside one. It is never the whole demonstration: two
tokens or more of it stay with the policy, and one or more of `max_new_tokens`. Leaves out who asks for one and when.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from superrl.methods.demonstrations import choose
from superrl.methods.grpo import Grpo
from superrl.methods.hooks import Limits
from superrl.records import Group, Sample, State, StepRecord, Trajectory, Update

Chosen = Literal["first", "random", "shortest"]
"""Which demonstration gives the prefix: one, and one that is known before anything is drawn (so not `likeliest`)."""


def expert_of(group: Group, choice: Chosen) -> Trajectory | None:
    """The demonstration whose beginning is given, the same one whenever it is asked for; None if there is none."""
    chosen = choose(group, choice)
    return group.demonstrations[chosen[0]] if chosen else None


def longest(expert: Trajectory, limits: Limits) -> int:
    """How many of its tokens may be given."""
    return max(min(expert.length - 2, limits.max_new_tokens - 1), 0)


def prefix_of(expert: Trajectory, length: int, limits: Limits) -> tuple[int, ...]:
    """Its first `length` tokens, or as many of them as may be given."""
    return expert.tokens[expert.start :][: min(length, longest(expert, limits))]


def outcome(trajectories: Sequence[Trajectory]) -> str:
    """`2 of 4 correct after 12 expert tokens`, or their mean reward where the reward does not say what is correct."""
    scores = [t.score for t in trajectories if t.score is not None]
    verdicts = [score.correct for score in scores]
    mean = sum(score.value for score in scores) / max(len(scores), 1)
    told = f"mean reward {mean:.3g}" if None in verdicts else f"{sum(map(bool, verdicts))} of {len(verdicts)} correct"
    given = max((t.prefix for t in trajectories), default=0)
    return f"{told} after {given} expert tokens" if given else told


class Counting(Grpo):
    """GRPO that counts its steps, for what it schedules."""

    def initial_state(self) -> State:
        """The steps done."""
        return {"step": 0}

    def after_step(self, record: StepRecord, groups: Sequence[Group], state: State) -> State:
        """One step more."""
        return {"step": state["step"] + 1}


def falling(t: int, steps: int, high: float, low: float) -> float:
    """Half a cosine from `high` at t = 0 to `low` at t = `steps`, and there it stays.

    >>> [round(falling(t, 10, 0.95, 0.05), 3) for t in (0, 5, 10, 20)]
    [0.95, 0.5, 0.05, 0.05]
    """
    return low + (high - low) / 2 * (1 + math.cos(math.pi * min(t, steps) / steps))


def given(one: Trajectory, places: Sequence[int], stream: str, advantage: float, weight: float, group: int) -> Sample:
    """Some tokens of a rollout's prefix as a row to train: the expert's, whatever version of the weights went on."""
    end, chosen = one.start + one.prefix, set(places)
    return Sample(
        tokens=one.tokens[:end],
        loss_mask=tuple(i in chosen for i in range(end)),
        stream=stream,
        advantage=(advantage,) * end,
        weight=weight,
        logp_sampler=one.logp_sampler[:end],
        group=group,
        temperature=one.temperature,
        origin="expert",
        annotations={name: column[:end] for name, column in one.annotations.items()},
    )


def prefix_places(one: Trajectory) -> range:
    """Where a rollout's prefix stands among its tokens."""
    return range(one.start, one.start + one.prefix) if one.prefix else range(0)


def given_tokens(groups: Sequence[Group]) -> float:
    """The mean length of the groups' longest prefixes, where there is none 0."""
    lengths = [max((t.prefix for t in group.trajectories), default=0) for group in groups]
    return sum(lengths) / max(len(lengths), 1)


def beside(update: Update, stream: str, samples: Sequence[Sample], weight: float = 1.0) -> Update:
    """An update with the samples of one more stream, over the denominator that it has."""
    return replace(
        update,
        samples=(*update.samples, *samples),
        denominators={**update.denominators, stream: update.denominators["pg"]},
        stream_weights={**update.stream_weights, stream: weight},
    )
