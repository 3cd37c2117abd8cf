"""The loss of a plan in float64, with every log-probability a leaf: what a formula of a paper is compared with.

What the learner does with a model stands here without one: `Tokens` holds what it would compute of each rollout.
"""

import random
from dataclasses import dataclass, field, replace

import torch

from builders import group, trajectory
from superrl.records import Group, Score, View


@dataclass
class Tokens:
    """Of every rollout, by its tokens: float64 tensors over the drawn tokens; `logp`, `entropy`, `value` are leaves."""

    logp: dict = field(default_factory=dict)
    old: dict = field(default_factory=dict)
    ref: dict = field(default_factory=dict)
    entropy: dict = field(default_factory=dict)
    value: dict = field(default_factory=dict)

    def leaves(self):
        return [leaf for column in (self.logp, self.entropy, self.value) for leaf in column.values()]


def visit(rewards, lengths, name, *, stops=None, limit=None):
    """A group whose rollouts are cut off where `stops` says so (or where they are `limit` long)."""
    one = group(rewards, lengths=lengths, name=name)
    stops = stops or ["length" if limit is not None and n >= limit else "eos" for n in lengths]
    return replace(one, trajectories=tuple(replace(t, stop=s) for t, s in zip(one.trajectories, stops, strict=True)))


def random_batch(seed, *, groups=3, size=4, longest=6, binary=False):
    """Groups with random rewards and lengths, and random numbers for all that a model would say of them."""
    rng = random.Random(seed)
    tokens = Tokens()
    batch = []
    for g in range(groups):
        rewards = [float(rng.random() < 0.5) if binary else rng.uniform(0.0, 2.0) for _ in range(size)]
        lengths = [rng.randint(1, longest) for _ in range(size)]
        batch.append(noted(visit(rewards, lengths, f"g{g}", limit=longest), tokens, rng))
    return batch, tokens


def noted(one, tokens, rng):
    """A group annotated as the learner would, the same numbers as tensors in `tokens`."""
    rollouts = []
    for rollout in one.trajectories:
        n, prompt = rollout.length, len(rollout.tokens) - rollout.length

        def column(low, high, n=n):
            return [rng.uniform(low, high) for _ in range(n)]

        old, ref, value, after = column(-2, -0.2), column(-2, -0.2), column(-1, 1), column(-1, 1)
        now = [o + rng.uniform(-0.5, 0.5) for o in old]
        for kind, numbers in (("logp", now), ("old", old), ("ref", ref), ("entropy", column(0, 2)), ("value", value)):
            leaf = kind in ("logp", "entropy", "value")
            getattr(tokens, kind)[rollout.tokens] = torch.tensor(numbers, dtype=torch.float64, requires_grad=leaf)
        aligned = {"logp_ref": ref, "value": value, "value_next": [*value[1:], after[-1]], "logp_old": old}
        notes = {key: (0.0,) * prompt + tuple(numbers) for key, numbers in aligned.items()}
        rollouts.append(replace(rollout, logp_sampler=notes["logp_old"], annotations=notes))
    return replace(one, trajectories=tuple(rollouts))


def view(samples, streams, tokens):
    """All samples as one micro-batch."""

    def gather(columns):
        return torch.cat(list(columns)) if samples else torch.zeros(0, dtype=torch.float64)

    def drawn(sample, column):
        return torch.tensor([v for v, own in zip(column, sample.loss_mask, strict=True) if own], dtype=torch.float64)

    def numbers(each):
        return torch.tensor([each(i, s) for i, s in enumerate(samples) for _ in range(sum(s.loss_mask))])

    names = sorted({name for s in samples for name in s.annotations} - {"logp_old"})
    return View(
        logp=gather(tokens.logp[s.tokens] for s in samples),
        logp_old=gather(tokens.old[s.tokens] for s in samples),
        logp_sampler=gather(drawn(s, s.logp_sampler) for s in samples),
        advantage=gather(drawn(s, s.advantage) for s in samples),
        sequence=numbers(lambda i, s: i),
        group=numbers(lambda i, s: s.group),
        stream=numbers(lambda i, s: streams.index(s.stream)),
        streams=streams,
        entropy=gather(tokens.entropy[s.tokens] for s in samples),
        value=gather(tokens.value[s.tokens] for s in samples),
        annotations={
            name: gather(drawn(s, s.annotations.get(name, (0.0,) * len(s.tokens))) for s in samples) for name in names
        },
    )


def loss_of(method, batch, tokens):
    """(1/D) sum over streams of weight x sum over tokens of w_t x token loss: the loss of the method's one update."""
    (update,) = method.plan(batch, {}).updates
    streams = tuple(sorted(update.denominators))
    seen = view(update.samples, streams, tokens)
    scale = [update.stream_weights.get(s, 1.0) / sum(update.denominators[s]) for s in streams]
    weights = [torch.full((sum(s.loss_mask),), s.weight, dtype=torch.float64) for s in update.samples]
    return (method.token_loss(seen) * torch.cat(weights) * torch.tensor(scale, dtype=torch.float64)[seen.stream]).sum()


def gradients(loss, tokens):
    """The loss's gradient in all leaves, in one vector."""
    found = torch.autograd.grad(loss, tokens.leaves(), allow_unused=True, retain_graph=True)
    zeros = [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(found, tokens.leaves(), strict=True)]
    return torch.cat(zeros)


def assert_same(ours, theirs, tokens, tolerance=1e-9):
    """Equal in value and in every gradient, relative to the largest."""
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    mine, other = gradients(ours, tokens), gradients(theirs, tokens)
    assert other.abs().max() > 1e-6
    torch.testing.assert_close(mine, other, rtol=tolerance, atol=tolerance * float(other.abs().max()))


def scored(rollout, value):
    return replace(rollout, score=Score(value, value > 0.5))


def alone(rollout) -> Group:
    """A group of one rollout."""
    return replace(group([1.0]), trajectories=(rollout,))


__all__ = [
    "Tokens", "alone", "assert_same", "gradients", "group", "loss_of", "noted", "random_batch", "scored", "trajectory",
    "view", "visit",
]  # fmt: skip
