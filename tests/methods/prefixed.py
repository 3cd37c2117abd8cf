"""What the tests of methods that continue an expert's prefix share: rollouts with a prefix, and losses in float64.

`agree` takes a plan's losses through the method's own token loss, with every annotation in the view, and the published
formula from an oracle that sees one `Row` a sequence; both on one float64 table of bigram logits, with random old
log-probabilities, so that ratios are not 1 and clips act.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from builders import VOCABULARY
from superrl.methods import build
from superrl.methods.hooks import Limits, Method
from superrl.records import Group, Plan, Sample, Score, Trajectory, View

LIMITS = Limits(group_size=4, max_new_tokens=10)


def method(name: str, **options) -> Method:
    """A method by its recipe."""
    return build({"name": name, **options}, LIMITS)


@dataclass(frozen=True)
class Row:
    """One sequence: [n] over its trained tokens."""

    logp: torch.Tensor
    entropy: torch.Tensor
    old: torch.Tensor

    @property
    def ratio(self) -> torch.Tensor:
        return (self.logp - self.old).exp()

    def clipped(self, advantage: float | torch.Tensor, low: float = 0.2, high: float = 0.2) -> torch.Tensor:
        """PPO's loss."""
        return -torch.minimum(self.ratio * advantage, self.ratio.clamp(1 - low, 1 + high) * advantage)


def read(table: torch.Tensor, one: Trajectory | Sample) -> Row:
    """A sequence's log-probabilities, entropies and (the same for the same tokens) old log-probabilities."""
    rows = table[torch.tensor(one.tokens)].log_softmax(-1)
    places = [t for t, trained in enumerate(one.loss_mask) if trained]
    logp = torch.stack([rows[t - 1, one.tokens[t]] for t in places])
    entropy = torch.stack([-(rows[t - 1].exp() * rows[t - 1]).sum() for t in places])
    away = [random.Random(f"{one.tokens[: t + 1]}").uniform(-0.4, 0.4) for t in places]
    return Row(logp, entropy, logp.detach() + torch.tensor(away, dtype=torch.float64))


def continued(visit: Group, prefix: int, drawn: int, reward: float, seed: int = 0, expert: int = 0) -> Trajectory:
    """A scored rollout that begins with `prefix` tokens of the visit's demonstration and goes on by itself."""
    demonstration, rng = visit.demonstrations[expert], random.Random(f"continued/{prefix}/{drawn}/{seed}")
    given = demonstration.tokens[: demonstration.start + prefix]
    return Trajectory(
        tokens=given + tuple(rng.randrange(1, 23) for _ in range(drawn)),
        loss_mask=(False,) * len(given) + (True,) * drawn,
        logp_sampler=(0.0,) * len(given) + tuple(-rng.random() for _ in range(drawn)),
        text=f"continued {seed}",
        score=Score(reward, reward == 1.0),
        prefix=prefix,
    )


def hinted(visit: Group, prefix: int, rewards: Sequence[float], lengths: Sequence[int] | None = None) -> Group:
    """The visit with rollouts after a prefix added to it."""
    lengths = lengths or [2] * len(rewards)
    rows = [continued(visit, prefix, n, r, seed=i) for i, (r, n) in enumerate(zip(rewards, lengths, strict=True))]
    return replace(visit, trajectories=(*visit.trajectories, *rows))


def alone(visit: Group) -> Group:
    """The visit before anything is drawn."""
    return replace(visit, trajectories=())


def noted(visit: Group, *names: str, seed: int = 0) -> Group:
    """The visit with numbers of the learner's noted on its rollouts."""
    rng = random.Random(f"noted/{visit.problem.id}/{seed}")
    rows = [
        replace(t, annotations={name: tuple(-3 * rng.random() for _ in t.tokens) for name in names})
        for t in visit.trajectories
    ]
    return replace(visit, trajectories=tuple(rows))


def losses(one: Method, plan: Plan, table: torch.Tensor) -> torch.Tensor:
    """(1/D) sum lambda w token_loss over all samples of the plan's only update, in one view."""
    (update,) = plan.updates
    rows = [read(table, sample) for sample in update.samples]
    sizes = torch.tensor([len(row.logp) for row in rows])
    streams = tuple(sorted(update.denominators))

    def spread(values: Sequence[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64).repeat_interleave(sizes)

    logp = torch.cat([row.logp for row in rows])
    known = {name for sample in update.samples for name in sample.annotations}
    view = View(
        logp=logp,
        logp_old=torch.cat([row.old for row in rows]),
        logp_sampler=logp.detach(),
        advantage=torch.cat([column(sample, sample.advantage) for sample in update.samples]),
        sequence=spread(range(len(rows))).long(),
        group=spread([sample.group for sample in update.samples]).long(),
        stream=spread([streams.index(sample.stream) for sample in update.samples]).long(),
        streams=streams,
        entropy=torch.cat([row.entropy for row in rows]),
        annotations={
            name: torch.cat([column(s, s.annotations.get(name, (0.0,) * len(s.tokens))) for s in update.samples])
            for name in known
        },
    )
    scale = {s: update.stream_weights.get(s, 1.0) / (sum(update.denominators[s]) or 1.0) for s in streams}
    weight = spread([sample.weight * scale[sample.stream] for sample in update.samples])
    return (one.token_loss(view) * weight).sum()


def column(one: Sample | Trajectory, values: Sequence[float]) -> torch.Tensor:
    """The values at the trained tokens, float64."""
    kept = [v for v, trained in zip(values, one.loss_mask, strict=True) if trained]
    return torch.tensor(kept, dtype=torch.float64)


def agree(one: Method, plan: Plan, oracle: Callable[[Callable[[Trajectory | Sample], Row]], torch.Tensor]) -> None:
    """Value and gradient of the plan's loss are the oracle's to 1e-9."""
    torch.manual_seed(0)
    table = torch.randn(VOCABULARY, VOCABULARY, dtype=torch.float64, requires_grad=True)
    mine, theirs = losses(one, plan, table), oracle(lambda trajectory: read(table, trajectory))
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
    (own,) = torch.autograd.grad(mine, table)
    (other,) = torch.autograd.grad(theirs, table)
    assert float(other.norm()) > 1e-4
    torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-9)


def streams(plan: Plan) -> dict[str, int]:
    """How many samples of which stream."""
    names = [sample.stream for update in plan.updates for sample in update.samples]
    return {name: names.count(name) for name in sorted(set(names))}
