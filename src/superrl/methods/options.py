"""The options of SuperRL in its published forms, which its relatives take over with other defaults."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from superrl.config import Frozen
from superrl.methods.demonstrations import Choice
from superrl.methods.gates import GateOptions
from superrl.methods.policy import PolicyOptions
from superrl.reduction import Inner

ImitationName = Literal["nll", "dft", "phi", "luffy", "trsft", "rl-plus"]
"""The losses of `superrl.imitation`."""


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


class SuperRLOptions(GateOptions):
    """`fallback`: what a failed prompt is learnt from, by name or as a mapping with its own options.
    `failed_rollouts`: None drops them under a group's baseline, and keeps them where they have an advantage of their
    own (critic, batch baseline), so that dropping would be selection. With `policy_gradient: false` solved groups teach
    nothing, and N counts them all the same: the control that only imitates."""

    fallback: str | dict[str, Any] = "sft"
    failed_rollouts: Literal["drop", "keep"] | None = None
    policy_gradient: bool = True
    inner: Inner = "mean"
    demonstration: Choice = "random"
    imitation: ImitationName = "nll"
    sft: SupervisedOptions = SupervisedOptions()
    policy: PolicyOptions = PolicyOptions()

    @model_validator(mode="after")
    def _something_is_learnt(self) -> SuperRLOptions:
        if not self.policy_gradient and self.failed_rollouts == "keep":
            raise ValueError("failed_rollouts: keep trains failed rollouts by policy gradient, so leave that on")
        if not self.policy_gradient and self.fallback == "none":
            raise ValueError("policy_gradient: false with fallback: none leaves nothing to learn from")
        return self


Unit = Annotated[float, Field(ge=0.0, le=1.0)]


class ProbeOptions(Frozen):
    """`prompts` are rolled out before anything is trained; rewards are sparse if a share below `threshold` of them has
    a success. With `every`, each n-th batch begins a new probe (its rollouts train as well)."""

    prompts: PositiveInt = 32
    threshold: Unit = 0.5
    every: PositiveInt | None = None


class BalanceOptions(Frozen):
    """`learned` s by SGD at `lr`, multiplied by `decay` a step, within +-`bound`; or `fixed` weights `pg` and `sft`."""

    kind: Literal["learned", "fixed"] = "learned"
    signal: Literal["magnitude", "raw"] = "magnitude"
    lr: PositiveFloat = 1e-2
    decay: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    bound: Annotated[float, Field(gt=0.0, le=2.0)] = 2.0
    pg: NonNegativeFloat = 1.0
    sft: NonNegativeFloat = 0.1

    @model_validator(mode="after")
    def _options_belong_to_their_kind(self) -> BalanceOptions:
        others = {"signal", "lr", "decay", "bound"} if self.kind == "fixed" else {"pg", "sft"}
        if unread := sorted(others & self.model_fields_set):
            other = "learned" if self.kind == "fixed" else "fixed"
            raise ValueError(f"{unread[0]} is read by kind: {other} alone")
        return self


class HybridOptions(Frozen):
    """`probe: null` mixes from the first step on, without asking."""

    probe: ProbeOptions | None = ProbeOptions()
    balance: BalanceOptions = BalanceOptions()
    inner: Inner = "mean"
    demonstration: Choice = "random"
    imitation: ImitationName = "nll"
    policy: PolicyOptions = PolicyOptions()
