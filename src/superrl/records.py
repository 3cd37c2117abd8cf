"""The vocabulary every layer speaks: frozen records that check themselves on construction.

A stage never edits a record, it returns a new one (`dataclasses.replace`). `None` means "not computed" and is never
written as 0.0. Log-probabilities are named after who computed them: `logp_sampler` drew the token, `logp` is the
learner now, `logp_old` the learner before this batch's first update, `logp_ref` the reference policy.

Leaves out tensors, except in `View`: what a token loss sees of one micro-batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

Message = Mapping[str, str]
Origin = Literal["policy", "expert", "replay"]
Stop = Literal["eos", "stop", "length"]
DecisionKind = Literal["pg", "sft", "both", "none"]
State = Mapping[str, Any]
"""A method's explicit, JSON-serialisable state; it is checkpointed as it stands."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an expert: the `action` that a policy should take, and what stood around it.

    In a solution `lead` is its header as it stood ("2. **Factor** ") and `title` what it announces; `text`, lead and
    action, is the step as written. For an agent, `thought` is the expert's own (never scored), `observation` what the
    environment answered, `tool` the program or function that the action calls.
    """

    action: str
    lead: str = ""
    title: str = ""
    thought: str = ""
    observation: str = ""
    tool: str = ""

    @property
    def text(self) -> str:
        """The step as it stands in the solution."""
        return self.lead + self.action

    @property
    def is_turn(self) -> bool:
        """Whether it is a turn with an environment, and not a part of one written solution."""
        return bool(self.observation or self.tool)


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One expert solution, as the policy should have written it; `steps` when it comes cut into actions."""

    text: str
    steps: tuple[Step, ...] = ()
    source: str = ""


@dataclass(frozen=True, slots=True)
class Problem:
    """A prompt with its gold answer and the expert solutions joined to it (there may be none).

    `opening` is what the assistant's turn already holds when the policy begins to write: no token of it is drawn.
    """

    id: str
    messages: tuple[Message, ...]
    answer: str | None = None
    demonstrations: tuple[Demonstration, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    opening: str = ""

    def __post_init__(self) -> None:
        if not self.messages:
            raise ValueError(f"problem {self.id!r} has no message")

    @property
    def prompt(self) -> str:
        """The last user message: what a person would call the question."""
        return self.messages[-1]["content"]


@dataclass(frozen=True, slots=True)
class Score:
    """A reward: `value` trains, `correct` is the accuracy column and what gates read, `parts` are for people."""

    value: float
    correct: bool | None = None
    parts: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, number in (("value", self.value), *self.parts.items()):
            if not math.isfinite(number):
                raise ValueError(f"a score must be made of finite numbers, got {name} = {number}")

    @property
    def valid(self) -> bool:
        """Whether the reward's format gate let the completion pass (part `format`); without a gate everything does."""
        return all(number > 0.0 for name, number in self.parts.items() if name.rpartition("/")[2] == "format")


@dataclass(frozen=True, slots=True)
class Trajectory:
    """Prompt and completion as one token sequence; `loss_mask` is True where the token may be trained.

    `logp_sampler` is 0.0 where nothing was drawn (prompt, expert tokens); `text` is the completion as the reward reads
    it; `entropy` is the sampler's mean per-token entropy in nats over the drawn tokens; `annotations` hold what the
    learner computed without gradient (`demo_logp`, ...), aligned with `tokens`. `prefix` counts the expert's tokens
    between the problem's context and the first drawn one; `hinted`: drawn under other messages than the problem's own.
    """

    tokens: tuple[int, ...]
    loss_mask: tuple[bool, ...]
    logp_sampler: tuple[float, ...]
    text: str
    origin: Origin = "policy"
    version: int = 0
    stop: Stop = "eos"
    temperature: float = 1.0
    entropy: float | None = None
    score: Score | None = None
    annotations: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    prefix: int = 0
    hinted: bool = False

    def __post_init__(self) -> None:
        if not len(self.tokens) == len(self.loss_mask) == len(self.logp_sampler):
            raise ValueError("tokens, loss_mask and logp_sampler must have one entry a token")
        if any(len(values) != len(self.tokens) for values in self.annotations.values()):
            raise ValueError("every annotation must have one entry a token")
        if self.loss_mask and self.loss_mask[0]:
            raise ValueError("the first token has no context, so it cannot be trained")

    @property
    def length(self) -> int:
        """How many tokens may be trained: the completion's length, EOS included."""
        return sum(self.loss_mask)

    @property
    def assisted(self) -> bool:
        """Whether the expert helped: its success is none of the policy's own."""
        return self.prefix > 0 or self.hinted

    @property
    def start(self) -> int:
        """Where the completion begins: the index of its first token, an expert's prefix included."""
        return self.loss_mask.index(True) - self.prefix


@dataclass(frozen=True, slots=True)
class Group:
    """All rollouts of one visit to one problem, with the problem's demonstrations rendered in the same template.

    `key` = (seed, purpose, stage, step, attempt, problem, occurrence) names the visit: it seeds every random choice
    made about the group (`rollout.keyed`).
    """

    problem: Problem
    trajectories: tuple[Trajectory, ...] = ()
    demonstrations: tuple[Trajectory, ...] = ()
    key: tuple[int, ...] = ()

    @property
    def scores(self) -> tuple[Score, ...]:
        """The scores of the rollouts; asking before scoring is a bug of ours."""
        scores = tuple(t.score for t in self.trajectories if t.score is not None)
        assert len(scores) == len(self.trajectories), f"group of {self.problem.id!r} is not scored yet"
        return scores

    @property
    def own(self) -> tuple[Trajectory, ...]:
        """The rollouts that had no help from the expert: what says whether the policy can do it."""
        return tuple(t for t in self.trajectories if not t.assisted)

    @property
    def unassisted(self) -> Group:
        """The group with the policy's own rollouts only."""
        return self if len(self.own) == len(self.trajectories) else replace(self, trajectories=self.own)

    @property
    def solved(self) -> bool:
        """Whether some rollout of the policy's own is correct."""
        return any(t.score is not None and t.score.correct for t in self.own)


@dataclass(frozen=True, slots=True)
class Request:
    """What a method wants rolled out of one group: `n` completions, perhaps under other messages than the problem's, or
    after the first tokens of a demonstration (`prefix`: token ids, never the whole of it)."""

    n: int
    messages: tuple[Message, ...] | None = None
    prefix: tuple[int, ...] = ()
    temperature: float | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One sequence to train: which tokens, in which stream, with which per-token advantage and per-token weight w_t.

    `group` is the index of its group in the step; `weight` is the same for all its tokens (what a reduction gives).
    """

    tokens: tuple[int, ...]
    loss_mask: tuple[bool, ...]
    stream: str
    advantage: tuple[float, ...]
    weight: float
    logp_sampler: tuple[float, ...]
    group: int
    temperature: float = 1.0
    version: int = 0
    origin: Origin = "policy"
    annotations: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not len(self.tokens) == len(self.loss_mask) == len(self.advantage) == len(self.logp_sampler):
            raise ValueError("tokens, loss_mask, advantage and logp_sampler must have one entry a token")
        if not any(self.loss_mask):
            raise ValueError("a sample must have at least one trained token")


@dataclass(frozen=True, slots=True)
class Update:
    """One optimizer step to take: the samples, and what every group adds to the denominator D of every stream.

    `denominators[stream][g]` is the share of group g, also when none of its samples is left: D is counted before any
    row is dropped, and a mini-batch of groups has the sum of its groups' shares. `lr_scale` multiplies the scheduled
    rate. `whole`: taken in one optimizer step, once, whatever passes and mini-batches the stage has (its "groups" may
    then be any rows: a buffer's).
    """

    samples: tuple[Sample, ...]
    denominators: Mapping[str, tuple[float, ...]]
    stream_weights: Mapping[str, float] = field(default_factory=dict)
    optimizer: str = "main"
    lr_scale: float = 1.0
    whole: bool = False

    def __post_init__(self) -> None:
        if missing := {sample.stream for sample in self.samples} - set(self.denominators):
            raise ValueError(f"no denominator for stream {sorted(missing)[0]!r}")


@dataclass(frozen=True, slots=True)
class Decision:
    """What a method decided about one group, and why, in words a person reads in `superrl show`."""

    kind: DecisionKind
    why: str
    demonstration: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A method's answer to a batch: the updates to take, one decision a group, and numbers of its own for the row."""

    updates: tuple[Update, ...]
    decisions: tuple[Decision, ...]
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class View:
    """What a token loss sees of one micro-batch: every trained token, flat. All tensors have shape [N].

    `logp` is differentiable, and so are `entropy` (None unless the method names it in `needs`) and `value` (the
    critic's, before the token was chosen; None without a critic); the rest are constants. `logp_old` is the learner
    before this batch's first update (with one update a batch: `logp` without its gradient; for rollouts of an older
    version: `logp_sampler`). `sequence` and `group` number the tokens' sequences (within the micro-batch) and groups
    (within the step); `stream` indexes `streams`.
    """

    logp: Tensor
    logp_old: Tensor
    logp_sampler: Tensor
    advantage: Tensor
    sequence: Tensor
    group: Tensor
    stream: Tensor
    streams: tuple[str, ...]
    entropy: Tensor | None = None
    value: Tensor | None = None
    annotations: Mapping[str, Tensor] = field(default_factory=dict)

    def sequence_mean(self, values: Tensor) -> Tensor:
        """[N]: the mean of `values` [N] over the tokens of each token's own sequence; differentiable. A sequence never
        spans two packs, so this depends on no micro-batch."""
        n = int(self.sequence.max()) + 1 if len(values) else 0
        total = values.new_zeros(n).index_add(0, self.sequence, values)
        count = values.new_zeros(n).index_add(0, self.sequence, values.new_ones(len(values)))
        return (total / count.clamp(min=1.0)).index_select(0, self.sequence)

    def sequence_max(self, values: Tensor) -> Tensor:
        """[N]: the largest of `values` [N] in each token's own sequence; without gradient."""
        n = int(self.sequence.max()) + 1 if len(values) else 0
        values = values.detach()
        largest = values.new_full((n,), -math.inf).scatter_reduce(0, self.sequence, values, "amax")
        return largest.index_select(0, self.sequence)

    def of(self, stream: str) -> Tensor:
        """[N] bool: the tokens of one stream."""
        return self.stream == (self.streams.index(stream) if stream in self.streams else -1)

    def annotation(self, name: str) -> Tensor:
        """A quantity of the samples' `annotations`; where a sample lacks it, 0.0, or for a `logp_...` the learner's own
        without gradient, so that a difference to it is zero."""
        if name not in self.annotations:
            raise KeyError(f"the method reads {name!r}, which none of its samples carries")
        return self.annotations[name]


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What happened in one step: the numbers of its metrics row, and the decisions."""

    step: int
    metrics: Mapping[str, float | None]
    decisions: tuple[Decision, ...]
