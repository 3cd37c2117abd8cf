"""SuperRL's first version (arXiv:2506.01096v1): Adaptive Switch and Hybrid Actor.

    L = w_pg L_PG + w_sft L_SFT,   w = exp(-2 s) with s learned on L + s_pg + s_sft        (`balance.descend`)

A probe of rollouts at the start tells sparse rewards from dense by the share of prompts with a success. Dense: policy
gradient alone. Sparse: both losses, over N, on rollouts and demonstrations of all prompts. Its statistic and threshold
are unpublished; decay, floor and first s are second-hand. L_PG is signed and about 0 on-policy, so its s runs to the
floor whatever is learnt: `signal: magnitude` balances by (1/D) sum w_t |A_t| instead; `raw` is the authors'.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from superrl.balance import START, descend, stream_weight
from superrl.config import Frozen
from superrl.imitation import IMITATION
from superrl.methods.fallbacks import Surroundings, find_fallback
from superrl.methods.gates import successes
from superrl.methods.hooks import Limits
from superrl.methods.mixed import WithPolicy, kind_of, solved_of
from superrl.methods.options import HybridOptions
from superrl.records import Decision, Group, Plan, Sample, State, StepRecord, Update, View


class Hybrid(WithPolicy):
    """Both objectives at the loss level, with learned weights, where rewards are sparse."""

    name: ClassVar[str] = "hybrid"
    Options: ClassVar[type[Frozen]] = HybridOptions
    needs_correct: ClassVar[bool] = True

    def __init__(self, options: HybridOptions, limits: Limits) -> None:
        super().__init__(options, limits, options.policy)
        self.options = o = options
        self.takes_refill = o.probe is None  # a probe counts groups that failed
        self.around = Surroundings(o.demonstration, IMITATION[o.imitation], o.inner, self.policy, limits)
        self.expert = find_fallback("sft", self.around)

    @property
    def needs(self) -> frozenset[str]:
        """What the policy gradient and the choice of a demonstration need."""
        return super().needs | self.expert.needs

    def initial_state(self) -> State:
        """s of both streams, and what it would be without data; [solved, seen] of the probe, and its verdict."""
        s, verdict = {"s": dict(START), "idle": dict(START)}, None if self.options.probe else True
        return {**s, "step": 0, "probed": [0, 0], "sparse": verdict}

    def plan(self, groups: Sequence[Group], state: State) -> Plan:
        """All rollouts, and where rewards are sparse all demonstrations; nothing while the first probe is on."""
        probe = self._probe(groups, state)
        if probe["sparse"] is None:
            return Plan((), tuple(Decision("none", f"{solved_of(group)}; probing") for group in groups))
        samples, decisions = list[Sample](), list[Decision]()
        for i, (group, credits) in enumerate(zip(groups, self.policy.credit(groups), strict=True)):
            scale = self.around.weights([trajectory.length for trajectory in group.trajectories])
            rollouts, lesson = self.policy.samples(group, credits, scale, i), self.expert.lesson(group, i, {})
            taught = lesson.samples if probe["sparse"] else ()
            samples += [*rollouts, *taught]
            kind, used = kind_of(rollouts, taught), lesson.demonstration if taught else None
            decisions.append(Decision(kind, solved_of(group), used))
        shares, weights = (1.0,) * len(groups), self._weights(state, probe["sparse"])
        streams = {**self.policy.stream_weights, **weights}
        update = Update(tuple(samples), self.policy.streams(shares) | {"sft": shares}, streams)
        told = {"sparse": float(probe["sparse"]), "magnitude": _magnitude(samples) / len(groups)}
        told |= {f"weight/{s}": w for s, w in weights.items()}
        told |= {f"weight/{s}_without_data": stream_weight(value) for s, value in state["idle"].items()}
        return Plan((update,), tuple(decisions), told)

    def token_loss(self, view: View) -> Tensor:
        """The supervised loss on demonstrations, the policy gradient's elsewhere."""
        return torch.where(view.of("sft"), self.expert.token_loss(view), super().token_loss(view))

    def after_step(self, record: StepRecord, groups: Sequence[Group], state: State) -> State:
        """One step of s by the step's global stream losses, where both objectives were on."""
        b, told = self.options.balance, record.metrics
        after = {**state, **self._probe(groups, state), "step": state["step"] + 1}
        if b.kind == "fixed" or not after["sparse"]:
            return after
        signal = {"pg": told["method/magnitude" if b.signal == "magnitude" else "loss/pg"]}
        signal["sft"] = told["loss/sft"] if told["demo/nll"] is not None else None  # None: no demonstration, no signal
        idle = descend(state["idle"], dict.fromkeys(signal, 0.0), lr=b.lr, decay=b.decay, bound=b.bound)
        return {**after, "s": descend(state["s"], signal, lr=b.lr, decay=b.decay, bound=b.bound), "idle": idle}

    def _weights(self, state: State, sparse: bool) -> dict[str, float]:
        b = self.options.balance
        learned = {stream: stream_weight(s) for stream, s in state["s"].items()}
        return {"pg": 1.0, "sft": 0.0} if not sparse else {"pg": b.pg, "sft": b.sft} if b.kind == "fixed" else learned

    def _probe(self, groups: Sequence[Group], state: State) -> dict[str, Any]:
        """The verdict with this batch counted, if the probe still wants prompts or is due again."""
        probe, (solved, seen) = self.options.probe, state["probed"]
        if probe is not None and probe.every and state["step"] % probe.every == 0 and seen >= probe.prompts:
            solved = seen = 0
        if probe is None or seen >= probe.prompts:
            return {"sparse": state["sparse"], "probed": [solved, seen]}
        solved, seen = solved + sum(successes(group) > 0 for group in groups), seen + len(groups)
        verdict = solved < probe.threshold * seen if seen >= probe.prompts else state["sparse"]
        return {"sparse": verdict, "probed": [solved, seen]}


def _magnitude(samples: Sequence[Sample]) -> float:
    """sum w_t |A_t| over the rollouts' tokens: the policy gradient's size before anything cancels."""
    rows = [(one, zip(one.advantage, one.loss_mask, strict=True)) for one in samples if one.stream == "pg"]
    return sum(one.weight * abs(a) for one, tokens in rows for a, trained in tokens if trained)
