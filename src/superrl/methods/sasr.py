"""SASR (arXiv:2505.13026): after a warm-up of SFT, each step is one of SFT or of GRPO, by lot.

    P(SFT) = |g_sft| / (|g_sft| + gamma |g_0|)

g_sft is the gradient of the last SFT step, g_0 that of the warm-up's last step (`against: warm-up`) or of the last
GRPO step (`against: policy`): as imitation has less to teach, RL gets more of the steps. All of it second-hand (the
paper's summary, a public pseudocode); the values of gamma and of the warm-up are ours, and so is `against: policy`. On
an SFT step nothing is rolled out. Norms are those before clipping. Leaves out the divergence from the first policy,
which the paper also names.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from superrl.config import Frozen
from superrl.losses import negative_log_likelihood
from superrl.methods.demonstrations import Choice, describe
from superrl.methods.experts import lessons, needs_of
from superrl.methods.grpo import Grpo, GrpoOptions
from superrl.methods.hooks import Limits
from superrl.records import Decision, Group, Plan, Request, State, StepRecord, Update, View
from superrl.reduction import Reduction


class SasrOptions(GrpoOptions):
    """GRPO's options; the warm-up in steps, what an SFT step's gradient is held against, and the SFT loss."""

    warmup_steps: PositiveInt = 20
    against: Literal["warm-up", "policy"] = "warm-up"
    norm_weight: PositiveFloat = 1.0
    sft_reduction: Reduction = "token"
    demonstration: Choice = "random"


class Sasr(Grpo):
    """SFT or GRPO, one a step."""

    name: ClassVar[str] = "sasr"
    Options: ClassVar[type[Frozen]] = SasrOptions
    takes_staleness = False  # on SFT steps it asks for no rollouts
    takes_refill: bool = False  # on SFT steps there is nothing to keep groups by

    def __init__(self, options: SasrOptions, limits: Limits) -> None:
        super().__init__(options, limits)
        self.options = options

    @property
    def needs(self) -> frozenset[str]:
        """The policy gradient's, and `demo_logp` to find the likeliest demonstration."""
        return super().needs | needs_of(self.options.demonstration)

    def initial_state(self) -> State:
        """Steps so far, what the next one is and how likely SFT was, and the last gradient norm of each kind."""
        norms = {"warm-up": None, "sft": None, "pg": None}
        return {"step": 0, "next": "sft", "probability": 1.0, "norms": norms}

    def requests(self, groups: Sequence[Group], state: State) -> list[Sequence[Request]]:
        """Nothing on an SFT step."""
        return [() for _ in groups] if state["next"] == "sft" else super().requests(groups, state)

    def plan(self, groups: Sequence[Group], state: State) -> Plan:
        """One kind of update or the other."""
        told = {"sft_step": float(state["next"] == "sft"), "sft_probability": state["probability"]}
        if state["next"] == "pg":
            plan = super().plan(groups, state)
            return Plan(plan.updates, plan.decisions, told)
        o = self.options
        taught = lessons(groups, o.demonstration, o.sft_reduction, self.limits.max_new_tokens)
        decisions = map(_decision, groups, taught.chosen)
        return Plan((Update(tuple(taught.samples), {"sft": taught.shares}),), tuple(decisions), told)

    def token_loss(self, view: View) -> Tensor:
        """-log p on demonstrations, GRPO's on rollouts."""
        return torch.where(view.of("sft"), negative_log_likelihood(view.logp), super().token_loss(view))

    def after_step(self, record: StepRecord, groups: Sequence[Group], state: State) -> State:
        """The norm of this step, and the lot for the next one, drawn with the key of this step's first group."""
        norms, step = dict(state["norms"]), state["step"] + 1
        if (norm := record.metrics.get("grad_norm")) is not None:
            norms[state["next"]] = norm
            if step <= self.options.warmup_steps:
                norms["warm-up"] = norm
        probability = 1.0 if step < self.options.warmup_steps else self._probability(norms)
        lot = random.Random(f"sasr/{groups[0].key if groups else step}").random()
        after = {"next": "sft" if lot < probability else "pg", "probability": probability, "norms": norms}
        return {**state, **after, "step": step}

    def _probability(self, norms: dict[str, Any]) -> float:
        """P(SFT); 0 where a norm is missing."""
        other = norms["warm-up" if self.options.against == "warm-up" else "pg"]
        if norms["sft"] is None or other is None:  # no demonstration in the whole warm-up, or no RL step yet
            return 0.0
        weighed = self.options.norm_weight * other
        return float(norms["sft"] / (norms["sft"] + weighed)) if norms["sft"] + weighed else 0.0


def _decision(group: Group, chosen: Sequence[int]) -> Decision:
    if not chosen:
        return Decision("none", "an SFT step; no demonstration")
    why, one = f"an SFT step; learns from {describe(group, chosen)}", chosen[0] if len(chosen) == 1 else None
    return Decision("sft", why, one)
