"""The only owner of gradients: takes a method's plan and turns it into optimizer steps.

    loss = (1 / D) * sum over streams s of lambda_s * sum over tokens t in s of w_t * token_loss_t

D is known before the first backward, so loss and gradient depend on neither the size nor the order of the packs. Master
weights are float32 whatever the compute dtype. Leaves out rewards, sampling and every choice of a method.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from typing import Any

import torch
from torch import Tensor, nn

from superrl.config import OptimizerConfig
from superrl.errors import Diverged
from superrl.learner.forward import bare, token_logprobs
from superrl.learner.optimizer import Optimizer, scheduled_lr
from superrl.learner.serving import check_served, choose_packer
from superrl.learner.streams import describe_streams
from superrl.losses import kl_estimate
from superrl.methods.hooks import Method
from superrl.metrics import Means
from superrl.packing import forest
from superrl.packing.pack import Pack, Packer, Tokens
from superrl.records import Group, Sample, Trajectory, Update, View

MAX_REFUSED = 3
"""Steps in a row that may be refused for a gradient that is not finite, before the run stops."""


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

    def begin(self, schedule: Schedule) -> None:
        """Start a stage: a fresh optimizer, step 0 of its schedule. Weights stay."""
        self.schedule = schedule
        self.progress = Progress()
        self.optimizers: dict[str, Optimizer] = {}

    def step(self, updates: Sequence[Update], method: Method, version: int) -> Means:
        """Take one step's optimizer updates; what happened, as means. `version` is the weights' age the rollouts should
        have: the log-probabilities of older ones are taken from their sampler."""
        means = Means()
        taken = [update for update in updates if update.samples]  # nothing to learn: momentum alone moves no weight
        several = len(taken) * self.schedule.epochs * self.schedule.mini_batches > 1
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

    @torch.no_grad()
    def logprobs(self, sequences: Sequence[Tokens]) -> list[tuple[float, ...]]:
        """Each token's log-probability under the current weights (0.0 where `loss_mask` is False), without gradient."""
        out = [[0.0] * len(sequence.tokens) for sequence in sequences]
        for batch in self._packs(sequences):
            logp, _ = token_logprobs(self.model, batch, self.compute_dtype)
            places = zip(batch.sequence.tolist(), batch.position.tolist(), logp.tolist(), strict=True)
            for sequence, position, value in places:
                out[batch.items[sequence]][position] = value
        return list(map(tuple, out))

    def annotate(self, groups: Sequence[Group], needs: frozenset[str]) -> list[Group]:
        """The groups with what the method reads and only the learner can compute: `demo_logp`."""
        if "demo_logp" not in needs:
            return list(groups)
        values = iter(self.logprobs([d for group in groups for d in group.demonstrations]))
        return [
            replace(group, demonstrations=tuple(_noted(d, next(values)) for d in group.demonstrations))
            for group in groups
        ]

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

    def _packs(self, sequences: Sequence[Tokens]) -> Iterator[Pack]:
        for batch in self.pack(sequences, self.schedule.max_tokens_per_pack):
            moved = batch.to(self.device)
            yield moved
            if moved.forest is not None:
                moved.forest.cache.clear()  # its masks are as large as its activations

    def _update(self, update: Update, method: Method, version: int, means: Means) -> None:
        schedule = self.schedule
        n_groups = max(len(shares) for shares in update.denominators.values())
        for epoch in range(schedule.epochs):
            sets = mini_batches(n_groups, schedule.mini_batches, f"{schedule.seed}/{version}/{epoch}")
            for index, chosen in enumerate(sets):
                denominators = {s: sum(shares[g] for g in chosen) for s, shares in update.denominators.items()}
                part = [sample for sample in update.samples if sample.group in chosen]
                if part:
                    self._backward(part, denominators, update, method, means)
                    compared = self._compares_streams() and epoch == index == 0
                    by_stream = self._by_stream(part, denominators, update, method) if compared else {}
                    self._apply(update, means)
                    self._describe(by_stream, update, means)

    def _with_logp_old(self, update: Update, version: int, several: bool) -> Update:
        """`logp_old` where it is not simply `logp` without its gradient: later updates of a step, older rollouts."""
        samples = list(update.samples)
        rollouts = [i for i, sample in enumerate(samples) if sample.origin == "policy"]
        current = [i for i in rollouts if samples[i].version >= version] if several else []
        values = dict(zip(current, self.logprobs([samples[i] for i in current]), strict=True))
        values |= {i: samples[i].logp_sampler for i in rollouts if samples[i].version < version}
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
            logp, entropy = token_logprobs(
                self.model, batch, self.compute_dtype, with_entropy="entropy" in method.needs
            )
            rows = [samples[i] for i in batch.items]
            view = _view(rows, batch, logp, entropy, streams)
            weight = torch.tensor([row.weight for row in rows], device=self.device)[view.sequence]
            parts = method.token_loss(view) * weight * scale[view.stream]
            (parts * balance[view.stream]).sum().backward()
            for index, stream in enumerate(streams):
                totals[stream] += float(parts.detach()[view.stream == index].double().sum())
            _observe(view, batch, method, means)
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
        whole = [p.grad for p in parameters]
        found = {}
        for stream in sorted({sample.stream for sample in part}):
            self.model.zero_grad(set_to_none=True)
            self._backward([s for s in part if s.stream == stream], denominators, update, method, Means())
            found[stream] = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        for parameter, gradient in zip(parameters, whole, strict=True):
            parameter.grad = gradient
        return found

    def _describe(self, by_stream: Mapping[str, Sequence[Tensor]], update: Update, means: Means) -> None:
        """The streams beside each other, after the optimizer's step that they made."""
        if by_stream and not self.progress.refused_in_a_row:
            scales = self.optimizer(update.optimizer).scales()
            for name, value in describe_streams(by_stream, scales).items():
                means.add(f"streams/{name}", value)

    def _apply(self, update: Update, means: Means) -> None:
        lr = scheduled_lr(self.schedule.optimizer, self.progress.step, self.schedule.steps) * update.lr_scale
        norm = self.optimizer(update.optimizer).step(lr)
        if norm is None:
            self.progress.refused += 1
            self.progress.refused_in_a_row += 1
            if self.progress.refused_in_a_row >= MAX_REFUSED:
                raise Diverged(
                    f"the gradient was not finite {MAX_REFUSED} times in a row at step {self.progress.step + 1} of the "
                    "stage: lower optimizer.lr, or use model.dtype: float32"
                )
            return
        self.busy = True
        self.progress.refused_in_a_row = 0
        self.progress.updates += 1
        means.add("grad_norm", norm)


def _noted(trajectory: Trajectory, logp: tuple[float, ...]) -> Trajectory:
    return replace(trajectory, annotations={**trajectory.annotations, "demo_logp": logp})


def mini_batches(n_groups: int, parts: int, key: str) -> list[set[int]]:
    """The groups of a batch in `parts` sets of (nearly) equal size, shuffled by `key` when there are several."""
    order = list(range(n_groups))
    if parts > 1:
        random.Random(f"mini-batch/{key}").shuffle(order)
    return [set(order[i::parts]) for i in range(parts) if order[i::parts]]


def named_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of the plain model's parameters, tied ones under each of their names; LoRA's product is added."""
    plain = bare(model)
    for name, parameter in plain.named_parameters(remove_duplicate=False):
        if ".lora_" in name:
            continue
        weight = parameter.detach()
        if ".base_layer." in name:
            layer: Any = plain.get_submodule(name.rpartition(".base_layer.")[0])
            if name.endswith(".weight"):
                weight = weight + layer.get_delta_weight("default").detach()
        yield name.replace(".base_layer", ""), weight


def _view(rows: Sequence[Sample], batch: Pack, logp: Tensor, entropy: Tensor | None, streams: tuple[str, ...]) -> View:
    starts = torch.tensor([0, *accumulate(len(row.tokens) for row in rows)], device=logp.device)
    place = starts[batch.sequence] + batch.position

    def gathered(columns: Iterable[Sequence[float]]) -> Tensor:
        return torch.tensor(list(chain.from_iterable(columns)), device=logp.device)[place]

    def annotation(name: str) -> Tensor:
        """Where a row has none, the learner's own log-probability: a difference to it is then zero, not a made-up
        number.
        """
        known = torch.tensor([name in row.annotations for row in rows], device=logp.device)[batch.sequence]
        given = gathered([row.annotations.get(name, row.logp_sampler) for row in rows])
        return torch.where(known, given, logp.detach())

    names = {name for row in rows for name in row.annotations} - {"logp_old", "demo_logp"}
    return View(
        logp=logp,
        logp_old=annotation("logp_old"),
        logp_sampler=gathered([row.logp_sampler for row in rows]),
        advantage=gathered([row.advantage for row in rows]),
        sequence=batch.sequence,
        group=torch.tensor([row.group for row in rows], device=logp.device)[batch.sequence],
        stream=torch.tensor([streams.index(row.stream) for row in rows], device=logp.device)[batch.sequence],
        streams=streams,
        entropy=entropy,
        annotations={name: annotation(name) for name in names},
    )


@torch.no_grad()
def _observe(view: View, batch: Pack, method: Method, means: Means) -> None:
    """Telemetry that needs the learner's log-probabilities."""
    rollouts, experts = view.of("pg"), view.of("sft")
    if n := int(rollouts.sum()):
        means.add("policy/kl", float(kl_estimate(view.logp, view.logp_sampler)[rollouts].double().sum()), n)
    if n := int(experts.sum()):
        means.add("demo/nll", float(-view.logp[experts].double().sum()), n)
        means.add("demo/probability", float(view.logp[experts].exp().double().sum()), n)
    for name, (total, count) in method.telemetry(view).items():
        if count:
            means.add(name, total, count)
    means.add("tokens/trained", float(len(view.logp)))
    means.add("tokens/logical", float(batch.logical))
    means.add("tokens/computed", float(batch.computed))
