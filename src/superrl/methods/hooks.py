"""The hooks a method may write, each with its default, and the two constructors that turn trajectories into samples.

A method is a small class with typed options and no state of its own: what it must remember is a JSON mapping that it
gets and returns (`after_step`), and that is checkpointed. The trainer never asks which method it runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from superrl.config import Frozen
from superrl.records import Group, Plan, Request, Sample, State, StepRecord, Trajectory, View

NEEDS = frozenset({"demo_logp", "entropy"})
"""What a method may ask of the learner."""

Credit = float | tuple[float, ...]
"""The advantage of one rollout: one number for all its tokens, or one a token of the whole sequence."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a stage fixes and a method may need: completions a prompt, and the most tokens one may have."""

    group_size: int
    max_new_tokens: int


class Method:
    """Base of all methods: rolls out every prompt `group_size` times and remembers nothing."""

    Options: ClassVar[type[Frozen]] = Frozen
    rolls_out: ClassVar[bool] = True
    """False for purely supervised methods: a batch is then one of problems that have a demonstration."""
    refill_keeps: ClassVar[str] = "mixed"
    """Which groups dynamic sampling keeps for it, unless the recipe names another rule."""
    needs_correct: ClassVar[bool] = False
    """True if the method reads `Score.correct`: a reward that never sets it is refused before anything runs."""

    def __init__(self, options: Frozen, limits: Limits) -> None:
        self.limits = limits

    @property
    def needs(self) -> frozenset[str]:
        """What the learner computes for it, of NEEDS: `demo_logp` notes the log-probabilities of demonstrations,
        `entropy` makes the view's entropy differentiable."""
        return frozenset()

    def initial_state(self) -> State:
        """The state before the first step of a stage; JSON values only."""
        return {}

    def requests(self, groups: Sequence[Group], state: State) -> list[Request]:
        """What to roll out, one request a group; its key seeds every draw, its demonstrations may give a prefix."""
        return [Request(group.problem, self.limits.group_size) for group in groups]

    def retry(self, groups: Sequence[Group], state: State) -> Mapping[int, Request]:
        """A second round for some scored groups, by index; what it draws is scored and joins the group."""
        return {}

    def plan(self, groups: Sequence[Group], state: State) -> Plan:
        """Who is trained, on what, with which advantage, stream and weight. Pure: the switch of a method lives here."""
        raise NotImplementedError

    def token_loss(self, view: View) -> Tensor:
        """The loss of every trained token of a micro-batch, [N], unreduced."""
        raise NotImplementedError

    def telemetry(self, view: View) -> Mapping[str, tuple[float, float]]:
        """Metric -> (sum, count) over the tokens of a micro-batch; called without gradient."""
        return {}

    def after_step(self, record: StepRecord, groups: Sequence[Group], state: State) -> State:
        """The state for the next step: schedules, histories, learned weights."""
        return state


class PolicyGradient(Protocol):
    """What a method that mixes in a policy gradient asks of it: the advantages, and the token loss."""

    def credit(self, groups: Sequence[Group]) -> list[list[Credit]]:
        """One advantage a rollout of every group."""
        ...

    def token_loss(self, view: View) -> Tensor:
        """The loss of every trained token, [N]."""
        ...

    def telemetry(self, view: View) -> Mapping[str, tuple[float, float]]:
        """Metric -> (sum, count)."""
        ...


def policy_samples(
    trajectories: Sequence[Trajectory], credits: Sequence[Credit], weights: Sequence[float], group: int
) -> list[Sample]:
    """The rollouts of one group as samples of stream `pg`. A rollout whose advantage is zero everywhere is left out:
    its gradient is zero, and the denominator has already counted it."""
    samples = []
    for trajectory, credit, weight in zip(trajectories, credits, weights, strict=True):
        advantage = credit if isinstance(credit, tuple) else (credit,) * len(trajectory.tokens)
        if any(advantage) and trajectory.length:
            samples.append(_sample(trajectory, "pg", advantage, weight, group))
    return samples


def expert_samples(trajectories: Sequence[Trajectory], weights: Sequence[float], group: int) -> list[Sample]:
    """Demonstrations of one group as samples of stream `sft`, advantage 1 (the gradient of -log p)."""
    return [
        _sample(trajectory, "sft", (1.0,) * len(trajectory.tokens), weight, group)
        for trajectory, weight in zip(trajectories, weights, strict=True)
    ]


def _sample(trajectory: Trajectory, stream: str, advantage: tuple[float, ...], weight: float, group: int) -> Sample:
    return Sample(
        tokens=trajectory.tokens,
        loss_mask=trajectory.loss_mask,
        stream=stream,
        advantage=advantage,
        weight=weight,
        logp_sampler=trajectory.logp_sampler,
        group=group,
        temperature=trajectory.temperature,
        version=trajectory.version,
        origin=trajectory.origin,
        annotations=trajectory.annotations,
    )
