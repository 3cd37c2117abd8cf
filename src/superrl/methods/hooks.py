"""The hooks a method may write, each with its default, and the constructors that turn trajectories into samples.

A method is a small class with typed options and no state of its own: what it must remember is a JSON mapping that it
gets and returns (`after_step`), and that is checkpointed. The trainer never asks which method it runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from superrl.config import Frozen, NonNegativeInt
from superrl.records import Group, Message, Plan, Request, Sample, State, StepRecord, Trajectory, View

NEEDS = frozenset({"demo_logp", "demo_entropy", "entropy", "logp_ref", "logp_teacher", "value", "end_value"})
"""What a method may ask of the learner. Under the weights before the step's first update it notes on the demonstrations
`demo_logp` and `demo_entropy` (per token, nats, temperature 1); on the rollouts `logp_ref` (the reference policy: the
weights that the stage began with), `logp_teacher` (the policy under the messages of `Method.teacher`), `value` and
`value_next` (the critic before and after each token; needs `Method.critic`); on both, where a group has demonstrations,
`end_value` (at the last token: the critic's value of the text as `ended`). `entropy` makes the view's differentiable.
"""

Credit = float | tuple[float, ...]
"""The advantage of one rollout: one number for all its tokens, or one a token of the whole sequence."""


class CriticOptions(Frozen):
    """A critic: `head` is one linear layer on the policy's last hidden states, `model` a network of its own that starts
    as a copy of the policy. It learns at its own `lr`; for the first `warmup_steps` of the stage it learns alone."""

    kind: Literal["head", "model"] = "model"
    lr: Annotated[float, Field(gt=0.0)] = 1e-5
    warmup_steps: NonNegativeInt = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """What a stage fixes and a method may need: completions a prompt, and the most tokens one may have."""

    group_size: int
    max_new_tokens: int


class Method:
    """Base of all methods: rolls out every prompt `group_size` times and remembers nothing. A class with a `name` of
    its own is what a recipe calls by it."""

    name: ClassVar[str]
    Options: ClassVar[type[Frozen]] = Frozen
    rolls_out: ClassVar[bool] = True
    """False for purely supervised methods: a batch is then one of problems that have a demonstration."""
    refill_keeps: ClassVar[str] = "mixed"
    """Which groups dynamic sampling keeps for it, unless the recipe names another rule."""
    keeps: ClassVar[str | None] = None
    """The run folder's folder to which a stage's end writes the critic, as a model that scores whole texts."""
    takes_refill: bool = True
    """False for a method that judges or chooses over whole batches, which dynamic sampling would sift first."""
    takes_staleness: ClassVar[bool] = True
    """False for a method whose `requests` and `plan` must see the same state, which rolling out ahead would part."""
    needs_correct: ClassVar[bool] = False
    """True if the method reads `Score.correct`: a reward that never sets it is refused before anything runs."""

    def __init__(self, options: Frozen, limits: Limits) -> None:
        self.limits = limits

    @property
    def needs(self) -> frozenset[str]:
        """What the learner computes for it, of NEEDS."""
        return frozenset()

    @property
    def critic(self) -> CriticOptions | None:
        """The critic that the learner keeps for it; its values reach `plan` as `value`, and the view as `value`."""
        return None

    def initial_state(self) -> State:
        """The state before the first step of a stage; JSON values only."""
        return {}

    def requests(self, groups: Sequence[Group], state: State) -> list[Sequence[Request]]:
        """What to roll out of every group; its key seeds every draw, its demonstrations may give a prefix."""
        return [(Request(self.limits.group_size),) for _ in groups]

    def asked(self, state: State) -> Mapping[str, float]:
        """Numbers for the row of the step that `requests` asked for under this state. `plan` may see a later one: with
        rollouts ahead one step lies between the two."""
        return {}

    def retry(self, groups: Sequence[Group], state: State) -> Mapping[int, Sequence[Request]]:
        """A further round for some scored groups, by index: what it draws is scored and joins the group. Asked again
        after every round, until nothing is wanted."""
        return {}

    def check_drawn(self, groups: Sequence[Group], state: State) -> None:
        """Sees all scored groups of a step before dynamic sampling has sifted them; may stop the run in a sentence."""

    def teacher(self, group: Group, state: State) -> Sequence[Message] | None:
        """The messages under which the policy itself teaches this group's rollouts (`logp_teacher`); None: it does
        not."""
        return None

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


def ended(one: Trajectory, end: int) -> tuple[int, ...]:
    """The tokens of a trajectory as a text that is over: `end` closes it, in place of another token that ended it and
    where it was cut off. A reward sees no more than that of it."""
    kept = one.tokens[:-1] if one.stop == "eos" else one.tokens
    return (*kept, end)


def policy_samples(
    trajectories: Sequence[Trajectory],
    credits: Sequence[Credit],
    weights: Sequence[float],
    group: int,
    *,
    stream: str = "pg",
    keep_zero: bool = False,
) -> list[Sample]:
    """The rollouts of one group as samples of a stream. A rollout whose advantage is zero everywhere is left out: its
    gradient is zero, and the denominator has already counted it; `keep_zero` keeps it where another term trains it."""
    samples = []
    for trajectory, credit, weight in zip(trajectories, credits, weights, strict=True):
        advantage = credit if isinstance(credit, tuple) else (credit,) * len(trajectory.tokens)
        if (keep_zero or any(advantage)) and trajectory.length and weight:
            samples.append(sample(trajectory, stream, advantage, weight, group))
    return samples


def expert_samples(trajectories: Sequence[Trajectory], weights: Sequence[float], group: int) -> list[Sample]:
    """Demonstrations of one group as samples of stream `sft`, advantage 1 (the gradient of -log p)."""
    return [
        sample(trajectory, "sft", (1.0,) * len(trajectory.tokens), weight, group)
        for trajectory, weight in zip(trajectories, weights, strict=True)
    ]


def sample(
    trajectory: Trajectory,
    stream: str,
    advantage: tuple[float, ...],
    weight: float,
    group: int,
    loss_mask: tuple[bool, ...] | None = None,
) -> Sample:
    """A trajectory as one row to train, with its annotations; `loss_mask` may choose other tokens than it drew."""
    return Sample(
        tokens=trajectory.tokens,
        loss_mask=trajectory.loss_mask if loss_mask is None else loss_mask,
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
