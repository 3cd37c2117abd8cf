"""The only owner of gradients: takes a method's plan and turns it into optimizer steps.

    loss = (1 / D) * sum over streams s of lambda_s * sum over tokens t in s of w_t * token_loss_t

D is known before the first backward, so loss and gradient depend on neither the size nor the order of the packs. Master
weights are float32 whatever the compute dtype. A stage may have a critic, and a reference policy that stands still.
Leaves out rewards, sampling and every choice of a method.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from superrl.config import OptimizerConfig
from superrl.errors import Diverged
from superrl.learner.annotate import Column, Models, Teachers, aligned, annotate
from superrl.learner.copies import named_weights, plain_copy
from superrl.learner.critic import Critic, reached
from superrl.learner.forward import from_hidden, hidden_states, token_logprobs, trunk
from superrl.learner.optimizer import Optimizer, scheduled_lr
from superrl.learner.serving import check_served, choose_packer
from superrl.learner.streams import describe_streams
from superrl.learner.view import observe, view_of
from superrl.losses import kl_estimate
from superrl.methods.hooks import CriticOptions, Method
from superrl.metrics import Means
from superrl.packing import forest
from superrl.packing.pack import Pack, Packer, Tokens
from superrl.records import Group, Sample, Trajectory, Update

MAX_REFUSED = 3
"""Steps in a row that may be refused for a gradient that is not finite, before the run stops."""
WITHOUT_RATIO = frozenset({"value"})
"""Streams whose loss has no ratio to an older policy, whatever the method."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """What a stage fixes for its learner: passes, mini-batches, pack size, optimizer, and how many steps there are.
    Every `streams_every` steps (0: never) the streams' gradients are also taken one by one and compared."""

    optimizer: OptimizerConfig
    steps: int
    epochs: int
    mini_batches: int
    max_tokens_per_pack: int
    seed: int
    streams_every: int = 0


@dataclass(slots=True)
class Progress:
    """The learner's counters; they are checkpointed."""

    step: int = 0
    updates: int = 0
    refused: int = 0
    refused_in_a_row: int = 0


class Learner:
    """Model, optimizer states and the arithmetic between them; without a `packer`, the one that fits the model."""

    def __init__(
        self, model: nn.Module, compute_dtype: torch.dtype, schedule: Schedule, packer: Packer | None = None
    ) -> None:
        check_served(model)
        self.model = model
        self.pack = packer or choose_packer(model)
        self.compute_dtype = compute_dtype
        self.device = next(model.parameters()).device
        self.busy = False  # True between the first and the last update of a step: the weights belong to neither
        self.begin(schedule)

    def begin(self, schedule: Schedule, critic: CriticOptions | None = None, reference: bool = False) -> None:
        """Start a stage: a fresh optimizer, step 0 of its schedule; if asked for, a fresh critic, and a copy of the
        weights that stand now as reference policy. Weights stay."""
        self.schedule = schedule
        self.progress = Progress()
        self.optimizers: dict[str, Optimizer] = {}
        self.critic: Critic | None = None  # the last stage's gives its memory back first
        self.reference: nn.Module | None = None
        if critic is not None:
            self.critic = Critic(self.model, critic, schedule.optimizer)
        if reference:
            self.reference = plain_copy(self.model)

    def step(self, updates: Sequence[Update], method: Method, version: int) -> Means:
        """Take one step's optimizer updates; what happened, as means. `version` is the weights' age the rollouts should
        have: the log-probabilities of older ones are taken from their sampler."""
        means = Means()
        taken = [update for update in updates if update.samples]  # nothing to learn: momentum alone moves no weight
        passes = self.schedule.epochs * self.schedule.mini_batches
        several = sum(1 if update.whole else passes for update in taken) > 1
        for update in [self._with_logp_old(update, version, several) for update in taken]:
            self._update(update, method, version, means)
        if weighted := [means.value(name) for name in means.means if name.startswith("weighted/")]:
            means.add("loss", sum(value for value in weighted if value is not None))
        self.progress.step += 1
        self.busy = False
        return means

    @property
    def shares(self) -> bool:
        """Whether tokens that sequences have in common are computed once."""
        return self.pack is forest.pack

    def drift(self, trajectories: Sequence[Trajectory]) -> list[float]:
        """The k3 estimate of KL(sampler || learner) of each trajectory, summed over its drawn tokens, in nats."""
        estimates = []
        for trajectory, logp in zip(trajectories, self.logprobs(trajectories), strict=True):
            drawn = torch.tensor(trajectory.loss_mask)
            estimate = kl_estimate(torch.tensor(logp)[drawn], torch.tensor(trajectory.logp_sampler)[drawn])
            estimates.append(float(estimate.double().sum()))
        return estimates

    def logprobs(self, sequences: Sequence[Tokens]) -> list[Column]:
        """Each token's log-probability under the current weights (0.0 where `loss_mask` is False), without gradient."""
        return [logp for (logp,) in self._logprobs(self.model, sequences)]

    def annotate(self, groups: Sequence[Group], needs: frozenset[str], teachers: Teachers = ()) -> list[Group]:
        """The groups with what the method reads and only the learner can compute (`methods.hooks.NEEDS`). `teachers`:
        for every group the token ids of another context, under which `logp_teacher` is taken, or None."""
        entropy = "demo_entropy" in needs
        models = Models(lambda rows: self._logprobs(self.model, rows, entropy), self._referred, self._values)
        return annotate(groups, needs, teachers, models)

    def weights(self) -> dict[str, Tensor]:
        """The float32 weights by the plain model's parameter names, adapters merged in."""
        return dict(named_weights(self.model))

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        """The parameters that get gradients, by name."""
        return [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]

    def optimizer(self, name: str) -> Optimizer:
        """The optimizer state called `name`, made when first asked for."""
        if name not in self.optimizers:
            self.optimizers[name] = Optimizer(self.trainable(), self.schedule.optimizer)
        return self.optimizers[name]

    def _logprobs(
        self, model: nn.Module, sequences: Sequence[Tokens], entropy: bool = False
    ) -> list[tuple[Column, ...]]:
        """(logp,) of every sequence, or (logp, entropy)."""

        def compute(pack: Pack) -> list[Tensor]:
            found = token_logprobs(model, pack, self.compute_dtype, with_entropy=entropy)
            return [one for one in found if one is not None]

        return aligned(sequences, self._packs(sequences), compute, 2 if entropy else 1)

    def _referred(self, sequences: Sequence[Tokens]) -> list[tuple[Column, ...]]:
        assert self.reference is not None, "the stage was begun without a reference policy"
        return self._logprobs(self.reference, sequences)

    def _values(self, sequences: Sequence[Tokens]) -> list[tuple[Column, ...]]:
        assert self.critic is not None, "the stage was begun without a critic"
        critic = self.critic
        return aligned(
            sequences, self._packs(sequences), lambda pack: [critic.values(self.model, pack, self.compute_dtype)]
        )

    def _packs(self, sequences: Sequence[Tokens]) -> Iterator[Pack]:
        for batch in self.pack(sequences, self.schedule.max_tokens_per_pack):
            moved = batch.to(self.device)
            yield moved
            if moved.forest is not None:
                moved.forest.cache.clear()  # its masks are as large as its activations

    def _update(self, update: Update, method: Method, version: int, means: Means) -> None:
        for number, chosen in enumerate(self._sets(update, version)):
            denominators = {s: sum(shares[g] for g in chosen) for s, shares in update.denominators.items()}
            part = [sample for sample in update.samples if sample.group in chosen]
            if part:
                self._backward(part, denominators, update, method, means)
                compared = self._compares_streams() and number == 0
                by_stream = self._by_stream(part, denominators, update, method) if compared else {}
                self._apply(update, means)
                self._describe(by_stream, update, means)

    def _sets(self, update: Update, version: int) -> Iterator[set[int]]:
        """The groups of every optimizer step that an update makes."""
        schedule, n_groups = self.schedule, max(len(shares) for shares in update.denominators.values())
        if update.whole:
            yield set(range(n_groups))
            return
        for epoch in range(schedule.epochs):
            yield from mini_batches(n_groups, schedule.mini_batches, f"{schedule.seed}/{version}/{epoch}")

    def _with_logp_old(self, update: Update, version: int, several: bool) -> Update:
        """`logp_old` where it is not simply `logp` without its gradient: later updates of a step, older rollouts. No
        ratio is ever taken of the streams WITHOUT_RATIO."""
        samples = list(update.samples)
        weighed = [i for i, sample in enumerate(samples) if sample.stream not in WITHOUT_RATIO]
        stale = {i for i in weighed if samples[i].origin == "policy" and samples[i].version < version}
        current = [i for i in weighed if i not in stale] if several else []
        values = dict(zip(current, self.logprobs([samples[i] for i in current]), strict=True))
        values |= {i: samples[i].logp_sampler for i in stale}
        for i, logp in values.items():
            samples[i] = replace(samples[i], annotations={**samples[i].annotations, "logp_old": logp})
        return replace(update, samples=tuple(samples))

    def _backward(
        self, samples: Sequence[Sample], denominators: Mapping[str, float], update: Update, method: Method, means: Means
    ) -> None:
        streams = tuple(sorted(update.denominators))
        stream_weights = {s: update.stream_weights.get(s, 1.0) for s in streams}
        scale = torch.tensor([1.0 / denominators[s] if denominators[s] else 0.0 for s in streams], device=self.device)
        balance = torch.tensor([stream_weights[s] for s in streams], device=self.device)
        totals = dict.fromkeys(streams, 0.0)
        for batch in self._packs(samples):
            rows = [samples[i] for i in batch.items]
            hidden = hidden_states(trunk(self.model), batch, self.compute_dtype)
            logp, entropy = from_hidden(self.model, hidden, batch, self.compute_dtype, "entropy" in method.needs)
            value = None if self.critic is None else self.critic.of(hidden, batch, self.compute_dtype)
            view = view_of(rows, batch, streams, logp, entropy, value)
            weight = torch.tensor([row.weight for row in rows], device=self.device)[view.sequence]
            parts = method.token_loss(view) * weight * scale[view.stream]
            (parts * balance[view.stream]).sum().backward()
            for index, stream in enumerate(streams):
                totals[stream] += float(parts.detach()[view.stream == index].double().sum())
            observe(view, batch, method, means)
        for stream, total in totals.items():
            means.add(f"loss/{stream}", total)
            means.add(f"weighted/{stream}", total * stream_weights[stream])

    def _compares_streams(self) -> bool:
        every = self.schedule.streams_every
        return bool(every) and self.progress.step % every == 0

    def _by_stream(
        self, part: Sequence[Sample], denominators: Mapping[str, float], update: Update, method: Method
    ) -> dict[str, list[Tensor]]:
        """The gradient of every stream that has samples, each sample once more; the whole gradient is put back."""
        parameters = [p for _, p in self.trainable()]
        critic = [] if self.critic is None else [p for _, p in self.critic.parameters()]
        whole = [p.grad for p in [*parameters, *critic]]
        found = {}
        for stream in sorted({sample.stream for sample in part}):
            self._clear()
            self._backward([s for s in part if s.stream == stream], denominators, update, method, Means())
            found[stream] = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        for parameter, gradient in zip([*parameters, *critic], whole, strict=True):
            parameter.grad = gradient
        return found

    def _clear(self) -> None:
        """No gradient anywhere."""
        self.model.zero_grad(set_to_none=True)
        if self.critic is not None:
            self.critic.clear()

    def _describe(self, by_stream: Mapping[str, Sequence[Tensor]], update: Update, means: Means) -> None:
        """The streams beside each other, after the optimizer's step that they made."""
        if by_stream and not self.progress.refused_in_a_row:
            scales = self.optimizer(update.optimizer).scales()
            for name, value in describe_streams(by_stream, scales).items():
                means.add(f"streams/{name}", value)

    def _apply(self, update: Update, means: Means) -> None:
        """One optimizer step of policy and critic, or of neither if a gradient is not finite. A critic, and a policy
        beside one, rests where only momentum would move it."""
        step, steps = self.progress.step, self.schedule.steps
        critic = self.critic if self.critic is not None and reached(self.critic.parameters()) else None
        rests = self.critic is not None and (self.critic.learns_alone(step) or not reached(self.trainable()))
        norm: float | None = None
        if critic is None or critic.finite:
            lr = scheduled_lr(self.schedule.optimizer, step, steps) * update.lr_scale
            norm = 0.0 if rests else self.optimizer(update.optimizer).step(lr)
        if norm is None:
            self._refuse()
        elif critic is not None or not rests:
            self.busy = True
            self.progress.refused_in_a_row = 0
            self.progress.updates += 1
            if not rests:
                means.add("grad_norm", norm)
            if critic is not None:
                means.add("method/critic_grad_norm", critic.step(step, steps, update.lr_scale))
        self._clear()

    def _refuse(self) -> None:
        self.progress.refused += 1
        self.progress.refused_in_a_row += 1
        if self.progress.refused_in_a_row >= MAX_REFUSED:
            raise Diverged(
                f"the gradient was not finite {MAX_REFUSED} times in a row at step {self.progress.step + 1} of the "
                "stage: lower optimizer.lr, or use model.dtype: float32"
            )


def mini_batches(n_groups: int, parts: int, key: str) -> list[set[int]]:
    """The groups of a batch in `parts` sets of (nearly) equal size, shuffled by `key` when there are several."""
    order = list(range(n_groups))
    if parts > 1:
        random.Random(f"mini-batch/{key}").shuffle(order)
    return [set(order[i::parts]) for i in range(parts) if order[i::parts]]
