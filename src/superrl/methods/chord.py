"""CHORD (arXiv:2508.11408): RL and SFT side by side on every step, with a scheduled balance mu.

    L = (1 - mu) L_GRPO + mu L_SFT,    L_SFT = -(1/D_sft) sum w log p,    w = 1 (CHORD-mu) or s(p (1 - p)) (CHORD-phi)

mu rises linearly from 0 to `peak`, then falls to `valley` along a cosine. The defaults are CHORD-mu; CHORD-phi is
`peak: 0.1, valley: 0.1, imitation: phi`. Formula read in the paper, schedule in its authors' public code. Each loss has
a D of its own, for rollouts and demonstrations need not share prompts; here the demonstrations are the batch's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import cos, pi
from typing import ClassVar

import torch
from torch import Tensor

from superrl.config import Frozen, NonNegativeInt
from superrl.imitation import IMITATION
from superrl.methods.demonstrations import Choice
from superrl.methods.experts import beside, lessons, needs_of
from superrl.methods.grpo import Grpo, GrpoOptions
from superrl.methods.hooks import Limits
from superrl.methods.options import ImitationName, Unit
from superrl.records import Group, Plan, State, StepRecord, View
from superrl.reduction import Reduction


class ChordOptions(GrpoOptions):
    """GRPO's options, mu's schedule in steps of the stage, and the supervised loss beside it."""

    peak: Unit = 0.9
    valley: Unit = 0.05
    warmup_steps: NonNegativeInt = 0
    decay_steps: NonNegativeInt = 200
    imitation: ImitationName = "nll"
    sft_reduction: Reduction = "token"
    demonstration: Choice = "random"


class Chord(Grpo):
    """GRPO on the rollouts and SFT on the batch's demonstrations, as one convex combination."""

    name: ClassVar[str] = "chord"
    Options: ClassVar[type[Frozen]] = ChordOptions

    def __init__(self, options: ChordOptions, limits: Limits) -> None:
        super().__init__(options, limits)
        self.options = options

    @property
    def needs(self) -> frozenset[str]:
        """The policy gradient's, and `demo_logp` to find the likeliest demonstration."""
        return super().needs | needs_of(self.options.demonstration)

    def initial_state(self) -> State:
        """Steps of the stage so far."""
        return {"step": 0}

    def plan(self, groups: Sequence[Group], state: State) -> Plan:
        """GRPO's update and the demonstrations, each stream over its own D."""
        o, mu, plan = self.options, balance(self.options, state.get("step", 0)), super().plan(groups, state)
        (update,) = plan.updates
        taught = lessons(groups, o.demonstration, o.sft_reduction, self.limits.max_new_tokens)
        streams = {stream: (1.0 - mu) * update.stream_weights.get(stream, 1.0) for stream in update.denominators}
        whole = replace(
            update,
            samples=(*update.samples, *(taught.samples if mu else ())),
            denominators={**update.denominators, "sft": taught.shares},
            stream_weights={**streams, "sft": mu},
        )
        decisions = map(beside, plan.decisions, groups, taught.chosen) if mu else plan.decisions
        return Plan((whole,), tuple(decisions), {"weight/pg": 1.0 - mu, "weight/sft": mu})

    def token_loss(self, view: View) -> Tensor:
        """The supervised loss on demonstrations, GRPO's elsewhere."""
        imitated = IMITATION[self.options.imitation](view.logp, view.logp_old)
        return torch.where(view.of("sft"), imitated, super().token_loss(view))

    def after_step(self, record: StepRecord, groups: Sequence[Group], state: State) -> State:
        """One step more."""
        return {**state, "step": state["step"] + 1}


def balance(options: ChordOptions, step: int) -> float:
    """mu at a step (0-based) of the stage."""
    o, after = options, step - options.warmup_steps
    if after < 0:
        return o.peak * step / o.warmup_steps
    if after >= o.decay_steps:
        return o.valley
    return o.valley + (o.peak - o.valley) * 0.5 * (1.0 + cos(pi * after / o.decay_steps))
