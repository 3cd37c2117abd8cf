"""ReLIFT (arXiv:2506.07527): RL on every step, and one SFT step of its own whenever enough problems have failed.

    RL:    -(1/D) sum (1/L_max) ratio A,   A = R - mean                    every step, all rollouts
    SFT:   (1/T) sum over a full buffer's T tokens of -log p - 0.001 H     in an optimizer state of its own

A problem whose rollouts all failed puts a demonstration into the buffer, which is state; 128 rows are one SFT step and
leave. Read in the paper; equal rates, the RL's entropy term and no clip are its script's. Leaves out new traces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from superrl.config import Frozen
from superrl.losses import negative_log_likelihood
from superrl.methods.demonstrations import choose, describe
from superrl.methods.experts import One, needs_of
from superrl.methods.grpo import Grpo, GrpoOptions
from superrl.methods.hooks import Limits
from superrl.methods.mixed import solved_of
from superrl.methods.policy import Std, Surrogate
from superrl.records import Decision, Group, Plan, Sample, State, StepRecord, Update, View
from superrl.reduction import Reduction


class ReliftOptions(GrpoOptions):
    """RL as in the released script; the buffer's rows, the SFT loss's entropy term and the factor on its rate."""

    std: Std = "none"
    surrogate: Surrogate = "none"
    entropy_bonus: NonNegativeFloat = 0.001
    reduction: Reduction = "constant"
    buffer: PositiveInt = 128
    sft_entropy: NonNegativeFloat = 0.001
    lr_scale: PositiveFloat = 1.0
    demonstration: One = "random"


class Relift(Grpo):
    """Policy gradient, interleaved with SFT on what it could not solve."""

    name: ClassVar[str] = "relift"
    Options: ClassVar[type[Frozen]] = ReliftOptions
    needs_correct: ClassVar[bool] = True
    refill_keeps: ClassVar[str] = "learnable"

    def __init__(self, options: ReliftOptions, limits: Limits) -> None:
        super().__init__(options, limits)
        self.options = options

    @property
    def needs(self) -> frozenset[str]:
        """The policy gradient's, the SFT loss's entropy, and `demo_logp` to find the likeliest demonstration."""
        entropy = frozenset({"entropy"} if self.options.sft_entropy else ())
        return super().needs | entropy | needs_of(self.options.demonstration)

    def initial_state(self) -> State:
        """An empty buffer."""
        return {"buffer": []}

    def plan(self, groups: Sequence[Group], state: State) -> Plan:
        """RL, and after it, once there are enough, one step on the oldest rows of the buffer."""
        plan, waiting = super().plan(groups, state), self._waiting(groups, state)
        updates, full = list(plan.updates), len(waiting) >= self.options.buffer
        if full:
            rows = tuple(_sample(row, i) for i, row in enumerate(waiting[: self.options.buffer]))
            counts = {"sft": tuple(float(sum(row.loss_mask)) for row in rows)}
            updates.append(Update(rows, counts, optimizer="sft", lr_scale=self.options.lr_scale, whole=True))
        decisions = map(self._decision, groups, plan.decisions)
        return Plan(tuple(updates), tuple(decisions), {"buffer": float(len(waiting)), "sft_step": float(full)})

    def token_loss(self, view: View) -> Tensor:
        """-log p less the entropy term on the buffer's rows, the policy gradient's elsewhere."""
        imitated = negative_log_likelihood(view.logp)
        if view.entropy is not None:
            imitated = imitated - self.options.sft_entropy * view.entropy
        return torch.where(view.of("sft"), imitated, super().token_loss(view))

    def after_step(self, record: StepRecord, groups: Sequence[Group], state: State) -> State:
        """What waits on, without the rows that were learnt."""
        waiting, size = self._waiting(groups, state), self.options.buffer
        return {**state, "buffer": waiting[size:] if len(waiting) >= size else waiting}

    def _waiting(self, groups: Sequence[Group], state: State) -> list[Mapping[str, Any]]:
        """The buffer with this step's failed problems: all tokens of a row from `start` on are trained."""
        failed = [(group, self._lesson(group)) for group in groups]
        experts = [group.demonstrations[at] for group, at in failed if at is not None]
        return [*state.get("buffer", ()), *({"tokens": list(one.tokens), "start": one.start} for one in experts)]

    def _lesson(self, group: Group) -> int | None:
        """Which demonstration of a failed group goes into the buffer."""
        return None if group.solved else next(iter(choose(group, self.options.demonstration)), None)

    def _decision(self, group: Group, decision: Decision) -> Decision:
        at = self._lesson(group)
        if at is None:
            return decision
        why = f"{solved_of(group)}; {describe(group, [at])} goes into the buffer"
        return Decision("both" if decision.kind == "pg" else "sft", why, at)


def _sample(row: Mapping[str, Any], index: int) -> Sample:
    tokens, n = tuple(row["tokens"]), len(row["tokens"])
    mask = tuple(t >= row["start"] for t in range(n))
    return Sample(tokens, mask, "sft", (1.0,) * n, 1.0, (0.0,) * n, index, origin="expert")
