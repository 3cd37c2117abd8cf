"""Fallback `distill`: the policy that has seen the demonstration teaches the one that has not, on its own failures.

    L = (1/K) sum_k (1/T_k) sum_t -ratio s(log p(y_t | x + demonstration, y_<t) - log p(y_t | x, y_<t))

The reverse KL to the teacher, at the tokens drawn, as a policy gradient (`losses.distillation`). On-policy distillation
from a privileged context: SDFT (arXiv:2601.19897), SDPO (2601.20802), OPSD (2601.18734), read in summaries only.
They also match whole distributions, or their top tokens, and keep a slower or frozen copy as the teacher. Here it is
the sampled token, as in the `sampled_token` variant of SDPO in TRL, and the teacher has the weights before the step.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from pydantic import field_validator
from torch import Tensor

from superrl.config import Frozen
from superrl.errors import UserError
from superrl.losses import distillation
from superrl.methods.demonstrations import choose, describe
from superrl.methods.fallbacks.base import Fallback, Lesson, Surroundings
from superrl.methods.hooks import policy_samples
from superrl.records import Group, Message, State, View

SHOWN = """{prompt}

A correct answer to this is:

{demonstration}

Now answer it yourself."""


class DistillOptions(Frozen):
    """`template` is what the teacher reads in the place of the last user message."""

    template: str = SHOWN

    @field_validator("template")
    @classmethod
    def _shows_both(cls, template: str) -> str:
        if "{prompt}" not in template or "{demonstration}" not in template:
            raise ValueError("the teacher's template must show {prompt} and {demonstration}")
        return template


class Distill(Fallback):
    """Learns which tokens of a failure it would have drawn less readily with the demonstration before its eyes."""

    name: ClassVar[str] = "distill"
    Options: ClassVar[type[Frozen]] = DistillOptions
    for_failures: ClassVar[bool] = True
    streams: ClassVar[tuple[str, ...]] = ("distill",)

    def __init__(self, options: DistillOptions, around: Surroundings) -> None:
        super().__init__(options, around)
        if around.demonstration in ("all", "likeliest"):
            raise UserError("fallback: distill shows one demonstration: set demonstration: first, random or shortest")
        self.template = options.template

    @property
    def needs(self) -> frozenset[str]:
        """The teacher's log-probabilities."""
        return frozenset({"logp_teacher"})

    def teacher(self, group: Group) -> Sequence[Message] | None:
        """The problem's messages, with the demonstration in the last one of the user; None without one."""
        chosen = choose(group, self.around.demonstration)
        messages = list(group.problem.messages)
        last = max((i for i, message in enumerate(messages) if message["role"] == "user"), default=None)
        if not chosen or last is None:
            return None
        told = {"prompt": messages[last]["content"], "demonstration": group.demonstrations[chosen[0]].text}
        shown = re.sub(r"\{(prompt|demonstration)\}", lambda found: told[found[1]], self.template)
        messages[last] = {**messages[last], "content": shown}
        return tuple(messages)

    def lesson(self, group: Group, index: int, memory: State) -> Lesson:
        """The group's own rollouts; their advantage is the teacher's business, so none is noted."""
        rollouts = [t for t in group.own if "logp_teacher" in t.annotations]
        if not rollouts:
            return Lesson((), "no demonstration to show" if not group.demonstrations else "nothing to teach")
        scale = self.around.weights([t.length for t in rollouts])
        samples = policy_samples(rollouts, [0.0] * len(rollouts), scale, index, stream="distill", keep_zero=True)
        chosen = choose(group, self.around.demonstration)
        return Lesson(samples, f"itself, shown {describe(group, chosen)}", chosen[0])

    def token_loss(self, view: View) -> Tensor:
        """The pull towards the teacher."""
        return distillation(view.logp, view.logp_old, view.annotation("logp_teacher"))
