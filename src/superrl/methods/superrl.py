"""SuperRL with a per-prompt hard switch (arXiv:2506.01096, second version).

    L = (1/N) sum_x { c(x) L_PG(x) + (1 - c(x)) lambda L_SFT(x) },     N = all groups of the optimizer step

c(x) = 1 iff the gate is open: some rollout of the group is correct. A prompt that earns nothing is learnt from its own
demonstration, every other one by policy gradient; one fallback among N prompts weighs exactly 1/N. The gate reads
`Score.correct`, never the shaped value, on whole groups and before anything is re-ordered. Leaves out the advantage
switch, the probe and the learned balance of the other published versions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from superrl.config import Frozen
from superrl.losses import negative_log_likelihood
from superrl.methods.demonstrations import Choice, choose, describe
from superrl.methods.gates import GATES, remember
from superrl.methods.grpo import ClipOptions, ClippedPolicyGradient, decide, solved_of
from superrl.methods.hooks import Credit, Limits, Method, expert_samples, policy_samples
from superrl.records import Decision, Group, Plan, Sample, State, StepRecord, Update, View
from superrl.reduction import Inner, prompt_weights


class SupervisedOptions(Frozen):
    """`weight` is lambda. With `separate_state` the fallbacks take an optimizer step of their own, with their own
    Adam moments and `lr_scale` times the rate: large supervised gradients then do not slow the policy gradient
    afterwards."""

    weight: Annotated[float, Field(gt=0.0)] = 1.0
    separate_state: bool = False
    lr_scale: Annotated[float, Field(gt=0.0)] = 1.0

    @model_validator(mode="after")
    def _a_scale_needs_its_own_state(self) -> SupervisedOptions:
        if self.lr_scale != 1.0 and not self.separate_state:
            raise ValueError(
                "sft.lr_scale needs sft.separate_state: true, for Adam undoes a scale inside a shared step"
            )
        return self


class SuperRLOptions(Frozen):
    """`gate: history` opens when a success within `group_size` draws is likelier than not, over all visits so far.
    With `policy_gradient: false` solved groups teach nothing, and N counts them all the same: the control that only
    imitates."""

    gate: Literal["reward", "history"] = "reward"
    fallback: Literal["sft", "none"] = "sft"
    failed_rollouts: Literal["drop", "keep"] = "drop"
    policy_gradient: bool = True
    inner: Inner = "mean"
    demonstration: Choice = "random"
    sft: SupervisedOptions = SupervisedOptions()
    policy: ClipOptions = ClipOptions()

    @model_validator(mode="after")
    def _something_is_learnt(self) -> SuperRLOptions:
        if not self.policy_gradient and self.failed_rollouts == "keep":
            raise ValueError("failed_rollouts: keep trains failed rollouts by policy gradient, so leave that on")
        if not self.policy_gradient and self.fallback == "none":
            raise ValueError("policy_gradient: false with fallback: none leaves nothing to learn from")
        return self


class SuperRL(Method):
    """Policy gradient where something was earned, the expert's trajectory where nothing was."""

    Options: ClassVar[type[Frozen]] = SuperRLOptions
    refill_keeps: ClassVar[str] = "learnable"
    needs_correct: ClassVar[bool] = True

    def __init__(self, options: SuperRLOptions, limits: Limits) -> None:
        super().__init__(options, limits)
        self.options = options
        self.gate = GATES[options.gate]
        self.policy = ClippedPolicyGradient(options.policy, limits)

    @property
    def needs(self) -> frozenset[str]:
        """`demo_logp` when it must find the likeliest demonstration."""
        return frozenset({"demo_logp"} if self.options.demonstration == "likeliest" else ())

    def plan(self, groups: Sequence[Group], state: State) -> Plan:
        """The switch: one decision a group, and the samples that follow from it."""
        is_open = self.opened(groups, state)
        keep = self.options.failed_rollouts == "keep"
        trained = [index for index, ok in enumerate(is_open) if self.options.policy_gradient and (ok or keep)]
        credits = dict(zip(trained, self.policy.credit([groups[i] for i in trained]), strict=True))
        samples: list[Sample] = []
        decisions = []
        for index, group in enumerate(groups):
            rollouts = self._rollouts(group, credits[index], index) if index in credits else []
            chosen = (
                [] if is_open[index] or self.options.fallback == "none" else choose(group, self.options.demonstration)
            )
            samples += rollouts + self._demonstrations(group, chosen, index)
            decisions.append(self._decision(group, is_open[index], bool(rollouts), chosen))
        return Plan(self._updates(samples, len(groups)), tuple(decisions))

    def opened(self, groups: Sequence[Group], state: State) -> list[bool]:
        """c(x) of every group: True for the policy gradient, False for its demonstration."""
        return [self.gate(group, state) for group in groups]

    def token_loss(self, view: View) -> Tensor:
        """-log p on demonstrations, the clipped surrogate on rollouts."""
        return torch.where(view.of("sft"), negative_log_likelihood(view.logp), self.policy.token_loss(view))

    def telemetry(self, view: View) -> Mapping[str, tuple[float, float]]:
        """The policy gradient's own."""
        return self.policy.telemetry(view)

    def after_step(self, record: StepRecord, groups: Sequence[Group], state: State) -> State:
        """With `gate: history`, successes and draws of every problem seen."""
        return remember(groups, state) if self.options.gate == "history" else state

    def _rollouts(self, group: Group, credits: Sequence[Credit], index: int) -> list[Sample]:
        lengths = [trajectory.length for trajectory in group.trajectories]
        scale = prompt_weights(self.options.inner, lengths, max_length=self.limits.max_new_tokens)
        return policy_samples(group.trajectories, credits, scale, index)

    def _demonstrations(self, group: Group, chosen: Sequence[int], index: int) -> list[Sample]:
        experts = [group.demonstrations[i] for i in chosen]
        lengths = [expert.length for expert in experts]
        return expert_samples(
            experts, prompt_weights(self.options.inner, lengths, max_length=self.limits.max_new_tokens), index
        )

    def _updates(self, samples: Sequence[Sample], n_groups: int) -> tuple[Update, ...]:
        every_group = (1.0,) * n_groups
        sft = self.options.sft
        if not sft.separate_state:
            return (Update(tuple(samples), {"pg": every_group, "sft": every_group}, {"sft": sft.weight}),)
        rollouts = tuple(sample for sample in samples if sample.stream == "pg")
        experts = tuple(sample for sample in samples if sample.stream == "sft")
        return (
            Update(rollouts, {"pg": every_group}),
            Update(experts, {"sft": every_group}, {"sft": sft.weight}, optimizer="sft", lr_scale=sft.lr_scale),
        )

    def _decision(self, group: Group, is_open: bool, trained: bool, chosen: Sequence[int]) -> Decision:
        counted = solved_of(group)
        if is_open and not self.options.policy_gradient:
            return Decision("none", f"{counted}; the policy gradient is off")
        if is_open:
            return decide(group, trained)
        if not chosen:
            why = f"{counted}; {'no fallback' if group.demonstrations else 'no demonstration'}"
            return Decision("pg", why) if trained else Decision("none", f"{why}, nothing is learnt")
        only = chosen[0] if len(chosen) == 1 else None
        return Decision("both" if trained else "sft", f"{counted}; learns from {describe(group, chosen)}", only)
