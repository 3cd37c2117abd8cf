"""What a token loss sees of a pack, and what telemetry is read off it.

Leaves out the forward that gives the log-probabilities.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, chain

import torch
from torch import Tensor

from superrl.losses import kl_estimate
from superrl.methods.hooks import Method
from superrl.metrics import Means
from superrl.packing.pack import Pack
from superrl.records import Sample, View


def view_of(
    rows: Sequence[Sample],
    pack: Pack,
    streams: tuple[str, ...],
    logp: Tensor,
    entropy: Tensor | None = None,
    value: Tensor | None = None,
) -> View:
    """The view of a pack of `rows`, in the order of its items; all tensors [N]."""
    starts = torch.tensor([0, *accumulate(len(row.tokens) for row in rows)], device=logp.device)
    place = starts[pack.sequence] + pack.position

    def gathered(columns: Iterable[Sequence[float]]) -> Tensor:
        return torch.tensor(list(chain.from_iterable(columns)), dtype=torch.float32, device=logp.device)[place]

    def annotation(name: str) -> Tensor:
        """Where a row has none: of a log-probability the learner's own, so that a difference to it is zero; of anything
        else 0.0."""
        known = torch.tensor([name in row.annotations for row in rows], device=logp.device)[pack.sequence]
        given = gathered([row.annotations.get(name, row.logp_sampler) for row in rows])
        return torch.where(known, given, logp.detach() if name.startswith("logp_") else torch.zeros_like(given))

    names = sorted({name for row in rows for name in row.annotations} - {"logp_old"})
    return View(
        logp=logp,
        logp_old=annotation("logp_old"),
        logp_sampler=gathered([row.logp_sampler for row in rows]),
        advantage=gathered([row.advantage for row in rows]),
        sequence=pack.sequence,
        group=torch.tensor([row.group for row in rows], device=logp.device)[pack.sequence],
        stream=torch.tensor([streams.index(row.stream) for row in rows], device=logp.device)[pack.sequence],
        streams=streams,
        entropy=entropy,
        value=value,
        annotations={name: annotation(name) for name in names},
    )


@torch.no_grad()
def observe(view: View, pack: Pack, method: Method, means: Means) -> None:
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
    means.add("tokens/trained", float((~view.of("value")).sum()))  # the critic's rows are the rollouts once more
    means.add("tokens/logical", float(pack.logical))
    means.add("tokens/computed", float(pack.computed))
