"""What a method does with a prompt whose rollouts all failed: the hooks of a fallback, each with its default.

A fallback is a small class in a file of its own, named by `name`; `superrl` asks the one that its recipe names, on the
groups whose gate is closed. It has hooks like a method's, and memory only as JSON that it gets and returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor

from superrl.config import Frozen
from superrl.imitation import Imitation
from superrl.methods.demonstrations import Choice
from superrl.methods.hooks import Limits
from superrl.methods.policy import PolicyGradient
from superrl.records import Group, Message, Request, Sample, State, View
from superrl.reduction import Inner, prompt_weights


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a fallback shares with its method: which demonstration to take, how hard to imitate it, how a prompt's
    tokens are averaged, the policy gradient beside it, and the stage's limits."""

    demonstration: Choice
    imitation: Imitation
    inner: Inner
    policy: PolicyGradient
    limits: Limits

    def weights(self, lengths: Sequence[int]) -> tuple[float, ...]:
        """The per-token weight of each of a prompt's sequences."""
        return prompt_weights(self.inner, lengths, max_length=self.limits.max_new_tokens)


class Lesson(NamedTuple):
    """What is learnt from a group: the samples, in words, and the demonstration's index if it is one."""

    samples: Sequence[Sample]
    why: str
    demonstration: int | None = None


class Fallback:
    """Base: learns nothing."""

    name: ClassVar[str]
    Options: ClassVar[type[Frozen]] = Frozen
    streams: ClassVar[tuple[str, ...]] = ()
    """Streams of its own, besides the policy gradient's."""
    for_failures: ClassVar[bool] = False
    """True if it only knows what to do with groups on which nothing was earned, so that the gate must be `reward`."""

    def __init__(self, options: Frozen, around: Surroundings) -> None:
        self.around = around

    @property
    def needs(self) -> frozenset[str]:
        """What the learner computes for it (`hooks.NEEDS`)."""
        return frozenset()

    def retry(self, group: Group) -> Sequence[Request]:
        """A further round for a failed group; its rollouts come back in it."""
        return ()

    def teacher(self, group: Group) -> Sequence[Message] | None:
        """The messages under which the policy teaches a failed group's rollouts (`logp_teacher`)."""
        return None

    def lesson(self, group: Group, index: int, memory: State) -> Lesson:
        """What is learnt from a failed group, which is number `index` of its step."""
        return Lesson((), "no fallback")

    def token_loss(self, view: View) -> Tensor:
        """The loss of the tokens of its streams, [N] (other tokens' values are not read)."""
        raise NotImplementedError

    def remember(self, groups: Sequence[Group], memory: State) -> State:
        """Its memory after a step."""
        return memory
