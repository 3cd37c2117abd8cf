"""The only owner of gradients: takes a method's plan and turns it into optimizer steps.

    loss = (1 / D) * sum over streams s of lambda_s * sum over tokens t in s of w_t * token_loss_t

D is known before the first backward, so loss and gradient depend on neither the size nor the order of the packs. Master
weights are float32 whatever the compute dtype. A stage may have a critic, and a reference policy that stands still.
With several ranks each has every sequence and puts its share through the model; gradients and means are summed over
ranks before anyone reads them. Leaves out rewards, sampling and every choice of a method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from superrl.errors import Diverged
from superrl.learner.annotate import Column, Models, Teachers, aligned, annotate
from superrl.learner.copies import kept_policy, named_weights, standing
from superrl.learner.critic import Critic, reached
from superrl.learner.forward import from_hidden, head, hidden_states, token_logprobs, trunk
from superrl.learner.fused import refit
from superrl.learner.offset import correction, gap_of, observe_gap
from superrl.learner.optimizer import Optimizer, scheduled_lr
from superrl.learner.probe import check_served, choose_packer
from superrl.learner.schedule import MAX_REFUSED, Progress, Schedule, mini_batches
from superrl.learner.sharding import Root, skeleton, split, twin, whole
from superrl.learner.shares import divided
from superrl.learner.streams import describe_streams
from superrl.learner.view import observe, view_of
from superrl.losses import kl_estimate
from superrl.methods.hooks import CriticOptions, Method
from superrl.metrics import Means
from superrl.packing import forest
from superrl.packing.pack import Pack, Packer, Tokens
from superrl.parallel import ALONE, World
from superrl.records import Group, Sample, Trajectory, Update

__all__ = ["MAX_REFUSED", "Learner", "Progress", "Schedule", "mini_batches"]

T = TypeVar("T")

WITHOUT_RATIO = frozenset({"value"})
"""Streams whose loss has no ratio to an older policy, whatever the method."""


class Learner:
    """Model, optimizer states and the arithmetic between them; without a `packer`, the one that fits the model. In a
    `world` of several ranks all call the same methods with the same arguments and get the same results."""

    def __init__(
        self,
        model: nn.Module,
        compute_dtype: torch.dtype,
        schedule: Schedule,
        packer: Packer | None = None,
        world: World = ALONE,
    ) -> None:
        check_served(model)
        refit(model, compute_dtype)
        self.model = model
        self.world = world
        self.pack = packer or choose_packer(model)
        self.compute_dtype = compute_dtype
        self.device = next(model.parameters()).device
        self.busy = False  # True between the first and the last update of a step: the weights belong to neither
        self._roots: dict[nn.Module, Root] = {}
        self._bones: nn.Module | None = None
        self.begin(schedule)

    def split(self) -> None:
        """Keep only this rank's part of the weights from here on (FSDP2); optimizers must be made after it."""
        assert not self.optimizers and self.critic is None and self.reference is None, "split comes first"
        self._bones = skeleton(self.model)
        self._roots[self.model] = split(self.model, self.world.size)

    @property
    def is_split(self) -> bool:
        """Whether every rank has only a part of the weights."""
        return self._bones is not None

    def begin(self, schedule: Schedule, critic: CriticOptions | None = None, reference: bool = False) -> None:
        """Start a stage: a fresh optimizer, step 0 of its schedule; if asked for, a fresh critic, and the policy
        that stands now kept as reference. Weights stay."""
        self.schedule = schedule
        self.progress = Progress()
        self.optimizers: dict[str, Optimizer] = {}
        self.critic: Critic | None = None  # the last stage's gives its memory back first
        self.reference: nn.Module | None = None
        self._roots = {model: root for model, root in self._roots.items() if model is self.model}
        if critic is not None:
            self.critic = Critic(self.model, critic, schedule.optimizer)
        if reference and self._bones is not None:
            self.reference, self._roots[self.reference] = twin(self._bones, self.model, self.world.size)
        elif reference:
            self.reference = kept_policy(self.model)

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

    def drift(self, trajectories: Sequence[Trajectory]) -> list[tuple[float, float]]:
        """The k3 estimate of KL(sampler || learner) of each trajectory, and its |logp_sampler - logp|, both summed over
        its drawn tokens, in nats."""
        estimates = []
        for trajectory, logp in zip(trajectories, self.logprobs(trajectories), strict=True):
            drawn = torch.tensor(trajectory.loss_mask)
            estimate = kl_estimate(torch.tensor(logp)[drawn], torch.tensor(trajectory.logp_sampler)[drawn])
            estimates.append((float(estimate.double().sum()), gap_of(trajectory, logp)))
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

    def weights(self, device: str | None = None, keep: bool = True) -> dict[str, Tensor]:
        """The float32 weights by the plain model's parameter names, adapters merged in; all ranks must ask for those of
        a split model. On a `device` they lie one after the other (None: where they are); `keep` False: none is kept."""
        found = {}
        for name, weight in named_weights(self.model):
            one = whole(weight)
            if keep:
                found[name] = one if device is None else one.to(device).contiguous()
        return found

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
            found = self._within(model, lambda: token_logprobs(model, pack, self.compute_dtype, with_entropy=entropy))
            return [one for one in found if one is not None]

        return self._columns(sequences, compute, 2 if entropy else 1)

    def _referred(self, sequences: Sequence[Tokens]) -> list[tuple[Column, ...]]:
        assert self.reference is not None, "the stage was begun without a reference policy"
        with standing(self.reference) as policy:
            return self._logprobs(policy, sequences)

    def _values(self, sequences: Sequence[Tokens]) -> list[tuple[Column, ...]]:
        assert self.critic is not None, "the stage was begun without a critic"
        critic = self.critic
        return self._columns(sequences, lambda pack: [critic.values(self.model, pack, self.compute_dtype)])

    def _columns(
        self, sequences: Sequence[Tokens], compute: Callable[[Pack], Sequence[Tensor]], quantities: int = 1
    ) -> list[tuple[Column, ...]]:
        """`aligned` over all ranks."""

        def work(mine: Sequence[Tokens]) -> list[tuple[Column, ...]]:
            with torch.no_grad():
                idle = self._idle(mine, sequences)
                found = aligned(mine, self._packs(mine), compute, quantities)
                for pack in idle:
                    compute(pack)
            return found

        return self.world.spread(sequences, self._shares(sequences), work, joint=self.is_split)

    def _shares(self, sequences: Sequence[Tokens]) -> list[list[int]]:
        """The sequences that each rank puts through the model; alone: none is asked."""
        if self.world.alone:
            return []
        return divided(sequences, self.world.size, int(cast(Tensor, head(self.model).weight).shape[1]))

    def _within(self, model: nn.Module, compute: Callable[[], T]) -> T:
        """What `compute` gives where the model's weights are whole."""
        root = self._roots.get(model)
        return compute() if root is None else cast(T, root(compute))

    def _idle(self, mine: Sequence[Tokens], all_of_them: Sequence[Tokens]) -> list[Pack]:
        """Packs that this rank goes through for nothing after its own, because a forward of split weights takes all
        ranks, and another rank has more packs."""
        if not self.is_split:
            return []
        size = self.schedule.max_tokens_per_pack
        counts = self.world.each(lambda: len(self.pack(mine, size)))
        spare = max(counts) - counts[self.world.rank]
        least = min((one for one in all_of_them if any(one.loss_mask)), key=lambda one: len(one.tokens), default=None)
        return [] if least is None or not spare else [self.pack([least], size)[0].to(self.device)] * spare

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
        """The whole gradient of some samples, on every rank, and what there is to tell of their losses."""
        if self.world.alone:
            totals = self._over_packs(samples, denominators, update, method, means)
        else:
            totals = self._over_ranks(samples, denominators, update, method, means)
        for stream, total in totals.items():
            means.add(f"loss/{stream}", total)
            means.add(f"weighted/{stream}", total * update.stream_weights.get(stream, 1.0))

    def _over_ranks(
        self, samples: Sequence[Sample], denominators: Mapping[str, float], update: Update, method: Method, means: Means
    ) -> dict[str, float]:
        """`_over_packs` of every rank's share, summed. A rank without samples has a gradient of zero."""
        parameters = self._parameters()
        mine = [samples[i] for i in self._shares(samples)[self.world.rank]]

        def work() -> tuple[Means, dict[str, float], list[bool]]:
            own = Means()
            idle = self._idle(mine, samples)
            totals = self._over_packs(mine, denominators, update, method, own)
            for pack in idle:
                (0.0 * self._read(pack, method)[0].sum()).backward()
            return own, totals, [p.grad is not None for p in parameters]

        found = self.world.each(work, joint=self.is_split)
        if not self.is_split:
            reached = [any(column) for column in zip(*(flags for *_, flags in found), strict=True)]
            for parameter, somewhere in zip(parameters, reached, strict=True):
                if somewhere and parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            self.world.sum_([p.grad for p in parameters if p.grad is not None])
        for own, *_ in found:
            means.merge(own)
        return {stream: sum(totals[stream] for _, totals, _ in found) for stream in update.denominators}

    def _over_packs(
        self, samples: Sequence[Sample], denominators: Mapping[str, float], update: Update, method: Method, means: Means
    ) -> dict[str, float]:
        """Forward and backward, pack by pack; the streams' losses, before their weights."""
        streams = tuple(sorted(update.denominators))
        stream_weights = {s: update.stream_weights.get(s, 1.0) for s in streams}
        scale = torch.tensor([1.0 / denominators[s] if denominators[s] else 0.0 for s in streams], device=self.device)
        balance = torch.tensor([stream_weights[s] for s in streams], device=self.device)
        totals = dict.fromkeys(streams, 0.0)
        for batch in self._packs(samples):
            rows = [samples[i] for i in batch.items]
            logp, entropy, value = self._read(batch, method)
            view = view_of(rows, batch, streams, logp, entropy, value)
            weight = torch.tensor([row.weight for row in rows], device=self.device)[view.sequence]
            if self.schedule.importance_cap is not None:
                weight = weight * correction(view, rows, self.schedule.importance_cap)
            parts = method.token_loss(view) * weight * scale[view.stream]
            loss = (parts * balance[view.stream]).sum()
            (loss * self.world.size if self.is_split else loss).backward()  # split gradients are averaged
            for index, stream in enumerate(streams):
                totals[stream] += float(parts.detach()[view.stream == index].double().sum())
            observe(view, batch, method, means)
            observe_gap(view, rows, means)
        return totals

    def _read(self, pack: Pack, method: Method) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """(logp, entropy, value) of a pack's trained tokens, those that the method reads; differentiable."""

        def compute() -> tuple[Tensor, Tensor | None, Tensor | None]:
            hidden = hidden_states(trunk(self.model), pack, self.compute_dtype)
            logp, entropy = from_hidden(self.model, hidden, pack, self.compute_dtype, "entropy" in method.needs)
            return logp, entropy, None if self.critic is None else self.critic.of(hidden, pack, self.compute_dtype)

        return self._within(self.model, compute)

    def _compares_streams(self) -> bool:
        every = self.schedule.streams_every
        return bool(every) and self.progress.step % every == 0

    def _by_stream(
        self, part: Sequence[Sample], denominators: Mapping[str, float], update: Update, method: Method
    ) -> dict[str, list[Tensor]]:
        """The gradient of every stream that has samples, each sample once more; the whole gradient is put back."""
        parameters = [p for _, p in self.trainable()]
        held = [p.grad for p in self._parameters()]
        found = {}
        for stream in sorted({sample.stream for sample in part}):
            self._clear()
            self._backward([s for s in part if s.stream == stream], denominators, update, method, Means())
            found[stream] = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        for parameter, gradient in zip(self._parameters(), held, strict=True):
            parameter.grad = gradient
        return found

    def _parameters(self) -> list[nn.Parameter]:
        """All that may get a gradient, the critic's included."""
        critic = [] if self.critic is None else self.critic.parameters()
        return [p for _, p in [*self.trainable(), *critic]]

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
