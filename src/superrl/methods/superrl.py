"""SuperRL with a per-prompt hard switch (arXiv:2506.01096: second version; both triggers of the conference version).

    L = (1/N) sum_x { c(x) L_PG(x) + (1 - c(x)) lambda L_SFT(x) },     N = all groups of the optimizer step

c(x) = 1 iff the gate is open. A prompt that earns nothing is learnt from by its fallback, the expert's demonstration by
default, every other one by policy gradient: one fallback among N prompts weighs 1/N. The switch decides on whole groups
before anything is re-ordered. The first version (probe, learned balance) is `hybrid`; the options are in `options`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from superrl.config import Frozen
from superrl.imitation import IMITATION
from superrl.methods.fallbacks import Lesson, Surroundings, find_fallback
from superrl.methods.gates import GATES, remember
from superrl.methods.hooks import Limits
from superrl.methods.mixed import WithPolicy, apart, decide, solved_of
from superrl.methods.options import SuperRLOptions
from superrl.records import Decision, Group, Message, Plan, Request, Sample, State, StepRecord, Update, View


class SuperRL(WithPolicy):
    """Policy gradient where something was earned, the fallback where nothing was."""

    name: ClassVar[str] = "superrl"
    Options: ClassVar[type[Frozen]] = SuperRLOptions
    refill_keeps: ClassVar[str] = "learnable"
    needs_correct: ClassVar[bool] = True

    def __init__(self, options: SuperRLOptions, limits: Limits) -> None:
        super().__init__(options, limits, options.policy)
        self.options = o = options
        self.around = Surroundings(o.demonstration, IMITATION[o.imitation], o.inner, self.policy, limits)
        self.fallback = find_fallback(o.fallback, self.around, o.gate)
        keeps = self.policy.keeps_failed if o.failed_rollouts is None else o.failed_rollouts == "keep"
        self.keeps_failed = keeps and o.policy_gradient

    @property
    def needs(self) -> frozenset[str]:
        """What policy gradient and fallback need."""
        return super().needs | self.fallback.needs

    def initial_state(self) -> State:
        """`visits` is the gate's memory, `memory` the fallback's."""
        return {"visits": {}, "memory": {}}

    def retry(self, groups: Sequence[Group], state: State) -> Mapping[int, Sequence[Request]]:
        """What the fallback still wants drawn of the groups on which nothing was earned."""
        asked = {i: self.fallback.retry(group) for i, group in enumerate(groups) if not group.solved}
        return {i: requests for i, requests in asked.items() if requests}

    def teacher(self, group: Group, state: State) -> Sequence[Message] | None:
        """The fallback's, for a group on which nothing was earned."""
        return None if group.solved else self.fallback.teacher(group)

    def plan(self, groups: Sequence[Group], state: State) -> Plan:
        """The switch: one decision a group, and the samples that follow from it."""
        own, is_open = [group.unassisted for group in groups], self.opened(groups, state)
        trained = [i for i, ok in enumerate(is_open) if self.options.policy_gradient and (ok or self.keeps_failed)]
        credits = dict(zip(trained, self.policy.credit([own[i] for i in trained]), strict=True))
        samples: list[Sample] = []
        decisions = []
        for i, group in enumerate(groups):
            scale = self.around.weights([trajectory.length for trajectory in own[i].trajectories])
            rollouts = self.policy.samples(own[i], credits[i], scale, i) if i in credits else []
            lesson = None if is_open[i] else self.fallback.lesson(group, i, state.get("memory", {}))
            samples += [*rollouts, *(lesson.samples if lesson else ())]
            decisions.append(self._decision(group, bool(rollouts), lesson))
        return Plan(self._updates(samples, (1.0,) * len(groups)), tuple(decisions))

    def opened(self, groups: Sequence[Group], state: State) -> list[bool]:
        """c(x) of every group: True for the policy gradient, False for its fallback."""
        o, own, visits = self.options, [group.unassisted for group in groups], state.get("visits", {})
        credits = self.policy.credit(own) if o.gate == "advantage" else [[] for _ in own]
        return [GATES[o.gate](group, credit, o, visits) for group, credit in zip(own, credits, strict=True)]

    def token_loss(self, view: View) -> Tensor:
        """The fallback's loss on its streams, the policy gradient's elsewhere."""
        loss = super().token_loss(view)
        for rows in map(view.of, self.fallback.streams):
            if bool(rows.any()):  # what a fallback reads is noted on its own rows
                loss = torch.where(rows, self.fallback.token_loss(view), loss)
        return loss

    def after_step(self, record: StepRecord, groups: Sequence[Group], state: State) -> State:
        """With `gate: history` every problem's successes; what the fallback remembers."""
        visits = remember(groups, state["visits"]) if self.options.gate == "history" else state["visits"]
        return {**state, "visits": visits, "memory": self.fallback.remember(groups, state["memory"])}

    def _updates(self, samples: Sequence[Sample], every_group: tuple[float, ...]) -> tuple[Update, ...]:
        sft, taught = self.options.sft, dict.fromkeys(self.fallback.streams, every_group)
        stream_weights = {**self.policy.stream_weights, **dict.fromkeys(taught, sft.weight)}
        update = Update(tuple(samples), self.policy.streams(every_group) | taught, stream_weights)
        return apart(update, tuple(taught), "sft", sft.lr_scale) if sft.separate_state and taught else (update,)

    def _decision(self, group: Group, trained: bool, lesson: Lesson | None) -> Decision:
        if lesson is None:
            off = Decision("none", f"{solved_of(group)}; the policy gradient is off")
            return decide(group, trained) if self.options.policy_gradient else off
        why = f"{solved_of(group)}; {'learns from ' if lesson.samples else ''}{lesson.why}"
        if lesson.samples:
            return Decision("both" if trained else "sft", why, lesson.demonstration)
        return Decision("pg", why) if trained else Decision("none", f"{why}, nothing is learnt")
