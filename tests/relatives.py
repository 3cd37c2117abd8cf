"""What the tests of methods that mix in demonstrations share: visits of every kind, and losses in float64.

`losses` sums a method's own token losses over a plan; a test writes the published formula beside it, one sequence at a
time, from `Row`s. Policies before the step are random (`old`), so that ratios are not 1 and clips act.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from builders import VOCABULARY, flat_gradient, group, tiny_llama
from superrl.config import OptimizerConfig
from superrl.learner.learner import Learner, Schedule
from superrl.methods import build
from superrl.methods.hooks import Limits, Method
from superrl.records import Group, Plan, Sample, Score, Trajectory, View

LIMITS = Limits(group_size=4, max_new_tokens=10)


def method(name: str, **options) -> Method:
    """A method by its recipe."""
    return build({"name": name, **options}, LIMITS)


def shown(visit: Group, value: float = 1.0, correct: bool = True) -> Group:
    """The visit with its demonstrations scored."""
    score = Score(value, correct)
    return replace(visit, demonstrations=tuple(replace(one, score=score) for one in visit.demonstrations))


WRONG = [False] * 4
CASES = {
    "all fail": shown(group([0, 0, 0, 0], experts=[5])),
    "one right": shown(group([0, 1, 0, 0], experts=[5])),
    "all right": shown(group([1, 1, 1, 1], experts=[5])),
    "all fail, no demonstration": group([0, 0, 0, 0]),
    "rewards in {-1, 1}, all fail": shown(group([-1, -1, -1, -1], experts=[5])),
    "rewards in {-1, 1}, one right": shown(group([-1, 1, -1, -1], experts=[5])),
    "shaping on failures": shown(group([0.2, 0.1, 0.3, 0.2], correct=WRONG, experts=[5])),
    "equal shaping on failures": shown(group([0.3] * 4, correct=WRONG, experts=[5])),
    "two have the mean reward": shown(group([1, 0.5, 0, 0.5], correct=[True, *WRONG[1:]], experts=[5])),
    "all fail, a wrong demonstration": shown(group([0, 0, 0, 0], experts=[5]), 0.0, False),
}
"""The truth table's left side: a visit of each kind."""


def decided(one: Method, case: str, state=None) -> tuple[str, dict[str, int]]:
    """What a method decides about one visit, and how many samples of which stream follow."""
    plan = one.plan([CASES[case]], one.initial_state() if state is None else state)
    streams = [sample.stream for update in plan.updates for sample in update.samples]
    (decision,) = plan.decisions
    return decision.kind, {stream: streams.count(stream) for stream in sorted(set(streams))}


def batch() -> list[Group]:
    """A visit of each kind, of unequal lengths."""
    return [
        shown(group([0] * 4, lengths=[2, 3, 1, 4], experts=[5], name="a")),
        group([1, 0, 0, 1], lengths=[1, 2, 9, 4], name="b"),
        shown(group([0, 1, 0, 0], lengths=[3, 3, 1, 8], experts=[6], name="c")),
        shown(group([0.2, 0.1, 0.0, 0.3], correct=WRONG, experts=[2], name="d")),
        shown(group([1, 1, 1, 1], experts=[4], name="e")),
        group([0] * 4, name="f"),
        shown(group([1, 1, 1, 0], lengths=[2, 2, 2, 7], experts=[3], name="g")),
    ]


@dataclass(frozen=True)
class Row:
    """One sequence under a float64 policy: [n] over its trained tokens."""

    logp: torch.Tensor
    entropy: torch.Tensor
    old: torch.Tensor

    @property
    def ratio(self) -> torch.Tensor:
        return (self.logp - self.old).exp()

    @property
    def p(self) -> torch.Tensor:
        return self.logp.exp()

    def clipped(self, advantage: float, low: float = 0.2, high: float = 0.2) -> torch.Tensor:
        """PPO's loss."""
        return -torch.minimum(self.ratio * advantage, self.ratio.clamp(1 - low, 1 + high) * advantage)


def bigram() -> torch.nn.Parameter:
    """The smallest policy: logits of the next token by the last one, in float64 throughout."""
    torch.manual_seed(0)
    return torch.nn.Parameter(1.5 * torch.randn(VOCABULARY, VOCABULARY, dtype=torch.float64))


def read(model: torch.nn.Parameter, one: Trajectory | Sample) -> Row:
    """A sequence's log-probabilities, entropies and (random, the same for the same tokens) old log-probabilities."""
    table = model[torch.tensor(one.tokens)].log_softmax(-1)
    places = [t for t, trained in enumerate(one.loss_mask) if trained]
    logp = torch.stack([table[t - 1, one.tokens[t]] for t in places])
    entropy = torch.stack([-(table[t - 1].exp() * table[t - 1]).sum() for t in places])
    rng = random.Random(f"{one.tokens}")
    return Row(
        logp, entropy, logp.detach() + torch.tensor([rng.uniform(-0.4, 0.4) for _ in places], dtype=torch.float64)
    )


def losses(one: Method, plan: Plan, model: torch.nn.Parameter) -> list[torch.Tensor]:
    """The loss of every update of a plan: (1/D) sum lambda w token_loss, all samples in one view."""
    found = []
    for update in plan.updates:
        rows = [read(model, sample) for sample in update.samples]
        sizes = torch.tensor([len(row.logp) for row in rows])
        streams = tuple(sorted(update.denominators))

        def spread(values: Sequence[float], sizes=sizes) -> torch.Tensor:
            return torch.tensor(values, dtype=torch.float64).repeat_interleave(sizes)

        logp = torch.cat([row.logp for row in rows])
        view = View(
            logp=logp,
            logp_old=torch.cat([row.old for row in rows]),
            logp_sampler=logp.detach(),
            advantage=spread([sample.advantage[-1] for sample in update.samples]),
            sequence=spread(range(len(rows))).long(),
            group=spread([sample.group for sample in update.samples]).long(),
            stream=spread([streams.index(sample.stream) for sample in update.samples]).long(),
            streams=streams,
            entropy=torch.cat([row.entropy for row in rows]),
        )
        scale = {s: update.stream_weights.get(s, 1.0) / (sum(update.denominators[s]) or 1.0) for s in streams}
        weight = spread([sample.weight * scale[sample.stream] for sample in update.samples])
        found.append((one.token_loss(view) * weight).sum())
    return found


def agree(one: Method, plan: Plan, oracle) -> None:
    """The plan's losses have the values and gradients of `oracle(read)`, a list of losses, to 1e-9."""
    model = bigram()
    mine, theirs = losses(one, plan, model), oracle(lambda trajectory: read(model, trajectory))
    assert len(mine) == len(theirs) and len(mine) > 0
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
        (own,), (other,) = (torch.autograd.grad(loss, model, retain_graph=True) for loss in (a, b))
        assert float(other.norm()) > 1e-3
        torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-9)


def gradients(one: Method, plan: Plan, *, max_tokens: int = 10_000) -> tuple[list[torch.Tensor], dict, list[set[str]]]:
    """What the real learner would hand its optimizers: the gradients, the means, and the streams of every pack."""
    model, caught, packs = tiny_llama(), [], []
    learner = Learner(model, torch.float32, Schedule(OptimizerConfig(lr=1e-9), 10, 1, 1, max_tokens, seed=0))

    class Spy:
        def step(self, lr):
            caught.append(flat_gradient(model))
            return 1.0

    class Listening(type(one)):
        def token_loss(self, view):
            packs.append({view.streams[i] for i in set(view.stream.tolist())})
            return super().token_loss(view)

    learner.optimizers["main"] = learner.optimizers["sft"] = Spy()
    heard = build({"name": one.name}, LIMITS)
    heard.__dict__.update(one.__dict__)
    heard.__class__ = Listening
    means = learner.step(plan.updates, heard, version=0)
    return caught, {name: mean.value for name, mean in means.means.items()}, packs


def check_any_split(one: Method, plan: Plan) -> None:
    """Loss and gradients do not depend on micro-batches; some are without a demonstration, some without a rollout."""
    whole, told, (*_,) = gradients(one, plan)
    split, others, packs = gradients(one, plan, max_tokens=1)
    rollouts, experts = {"pg"} in packs, any("pg" not in pack for pack in packs)
    assert rollouts and experts, packs
    assert len(whole) == len(split) == len(plan.updates)
    for a, b in zip(whole, split, strict=True):
        assert torch.isfinite(b).all() and float(a.norm()) > 1e-4
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-6)
    for name in (n for n in told if n == "loss" or n.startswith(("loss/", "demo/"))):
        assert abs(others[name] - told[name]) < 1e-5 * max(1.0, abs(told[name])), name
