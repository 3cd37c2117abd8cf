"""What the learner notes on groups: where every number stands, whose it is, and under which weights."""

import random
from dataclasses import replace

import pytest
import torch

from builders import VOCABULARY, group, tiny_llama, trajectory
from superrl.config import LoraConfig, OptimizerConfig
from superrl.learner.copies import named_weights, plain_copy, standing
from superrl.learner.learner import Learner, Schedule
from superrl.methods.hooks import CriticOptions, Limits, Method
from superrl.models import with_adapters
from superrl.packing import rows
from superrl.records import Group, Sample, Trajectory, Update

SCHEDULE = Schedule(OptimizerConfig(lr=1e-2), 10, 1, 1, 10_000, seed=0)
PACKERS = pytest.mark.parametrize("packer", [None, rows.pack], ids=["forest", "rows"])


def learner(critic=None, reference=False, *, model=None, packer=None, max_tokens=10_000):
    schedule = replace(SCHEDULE, max_tokens_per_pack=max_tokens)
    one = Learner(tiny_llama() if model is None else model, torch.float32, schedule, packer)
    one.begin(schedule, critic, reference)
    if one.critic is not None:
        with torch.no_grad():
            one.critic.head.weight.copy_(torch.linspace(-0.3, 0.4, 32)[None])
            one.critic.head.bias.fill_(0.2)
    return one


def rolled(tokens, mask, *, temperature=1.0, prefix=0):
    return Trajectory(
        tuple(tokens), tuple(mask), (0.0,) * len(tokens), "", temperature=temperature, prefix=prefix
    )  # fmt: skip


def words(n, seed):
    rng = random.Random(f"words/{seed}")
    return tuple(rng.randrange(1, VOCABULARY) for _ in range(n))


def visited() -> list[Group]:
    """A plain group, one with a prefix and a turn of somebody else's in the middle, one at another temperature."""
    odd = (
        rolled(words(9, "prefix"), [False] * 6 + [True] * 3, prefix=2),
        rolled(words(10, "turns"), [False] * 3 + [True] * 2 + [False] * 2 + [True] * 3),
    )
    warm = tuple(rolled(words(8, f"warm{i}"), [False] * 4 + [True] * 4, temperature=0.7) for i in range(2))
    return [
        group([0, 1], lengths=[3, 6], experts=[5, 2], name="a"),
        replace(group([0, 1], experts=[3], name="b"), trajectories=odd),
        replace(group([0, 1], name="c"), trajectories=warm),
    ]


def direct(model, tokens, temperature=1.0):
    """The log-probabilities of every token after the first, by the model's own logits."""
    table = (model(torch.tensor([tokens])).logits[0].detach() / temperature).log_softmax(-1)
    return [float(table[t - 1, tokens[t]]) for t in range(1, len(tokens))]


def meant(one):
    """The positions that must carry a number: drawn, or of the prefix."""
    first = one.loss_mask.index(True) - one.prefix
    return {t for t, drawn in enumerate(one.loss_mask) if drawn or first <= t < first + one.prefix}


def assert_column(found, expected):
    """`expected`: position -> number; 0.0 everywhere else."""
    assert {t for t, v in enumerate(found) if v != 0.0} <= set(expected)
    assert [found[t] for t in sorted(expected)] == pytest.approx([expected[t] for t in sorted(expected)], abs=1e-5)


@PACKERS
@pytest.mark.parametrize("max_tokens", [10_000, 11])
def test_demonstrations_are_measured_by_the_policy_at_temperature_one(packer, max_tokens):
    one, model = learner(packer=packer, max_tokens=max_tokens), tiny_llama()
    groups = [
        replace(g, demonstrations=tuple(replace(d, temperature=0.5) for d in g.demonstrations)) for g in visited()
    ]
    noted = one.annotate(groups, frozenset({"demo_logp", "demo_entropy"}))
    for visit in noted:
        assert not any(t.annotations for t in visit.trajectories)
        for d in visit.demonstrations:
            table = model(torch.tensor([d.tokens])).logits[0].detach().log_softmax(-1)
            entropy = -(table.exp() * table).sum(-1)
            logp = dict(enumerate(direct(model, d.tokens), start=1))
            assert_column(d.annotations["demo_logp"], {t: logp[t] for t in meant(d)})
            assert_column(d.annotations["demo_entropy"], {t: float(entropy[t - 1]) for t in meant(d)})
    only = one.annotate(groups, frozenset({"demo_entropy"}))
    assert only[0].demonstrations[0].annotations.keys() == {"demo_entropy"}


@PACKERS
def test_a_value_stands_before_and_after_every_token(packer):
    """After the last drawn token it is the value of the whole sequence, which nothing was predicted from."""
    for kind in ("head", "model"):
        one, body = learner(CriticOptions(kind=kind), packer=packer), tiny_llama().model
        head = one.critic.head
        for visit in one.annotate(visited(), frozenset({"value"})):
            assert not any(d.annotations for d in visit.demonstrations)
            for t in visit.trajectories:
                hidden = body(torch.tensor([t.tokens])).last_hidden_state[0]
                after = (hidden @ head.weight[0] + head.bias).tolist()
                assert t.annotations.keys() == {"value", "value_next"}
                assert_column(t.annotations["value"], {i: after[i - 1] for i in meant(t)})
                assert_column(t.annotations["value_next"], {i: after[i] for i in meant(t)})
                for i in meant(t) & {i - 1 for i in meant(t)}:
                    assert t.annotations["value_next"][i] == t.annotations["value"][i + 1]


@PACKERS
def test_a_teacher_is_the_policy_after_another_context(packer):
    one, model, groups = learner(packer=packer), tiny_llama(), visited()
    contexts = [None, words(7, "hint"), words(2, "short")]
    noted = one.annotate(groups, frozenset({"logp_teacher", "demo_logp"}), contexts)
    for visit, context in zip(noted, contexts, strict=True):
        for t in visit.trajectories:
            if context is None:
                assert not t.annotations
                continue
            completion = t.tokens[t.start :]
            taught = direct(model, context + completion, t.temperature)[len(context) - 1 :]
            assert_column(t.annotations["logp_teacher"], {t.start + i: v for i, v in enumerate(taught)
                                                          if t.start + i in meant(t)})  # fmt: skip
    (expected,) = one.logprobs([groups[0].demonstrations[0]])
    assert noted[0].demonstrations[0].annotations["demo_logp"] == pytest.approx(expected, abs=1e-6)


class Surrogate(Method):
    """-ratio A."""

    def __init__(self):
        super().__init__(Method.Options(), Limits(group_size=2, max_new_tokens=10))

    def token_loss(self, view):
        return -(view.logp - view.logp_old).exp() * view.advantage


def lesson():
    one = trajectory(4, 6, seed=5)
    return Update((Sample(one.tokens, one.loss_mask, "pg", (1.0,) * 10, 1.0, one.logp_sampler, 0),), {"pg": (1.0,)})


@pytest.mark.parametrize("lora", [False, True])
def test_the_reference_stays_what_the_stage_began_with(lora):
    model = with_adapters(tiny_llama(), LoraConfig(rank=2)) if lora else tiny_llama()
    with torch.no_grad():
        for _, parameter in [(n, p) for n, p in model.named_parameters() if p.requires_grad]:
            parameter.add_(0.01)
    one = learner(reference=True, model=model)
    began = {name: w.clone() for name, w in one.weights().items()}
    first = one.annotate(visited(), frozenset({"logp_ref"}))
    for version in range(3):
        one.step([lesson()], Surrogate(), version)
    assert any(not torch.equal(began[name], w) for name, w in one.weights().items()), "the policy has moved"
    assert not any(p.requires_grad for p in one.reference.parameters())
    with standing(one.reference) as policy:
        reference = {name: w.clone() for name, w in named_weights(policy)}
    assert reference.keys() == began.keys() and all(torch.equal(reference[n], began[n]) for n in began)
    assert one.annotate(visited(), frozenset({"logp_ref"})) == first
    own = tiny_llama()
    own.load_state_dict(began)
    for visit in first:
        for t in visit.trajectories:
            logp = dict(enumerate(direct(own, t.tokens, t.temperature), start=1))
            assert_column(t.annotations["logp_ref"], {i: logp[i] for i in meant(t)})
    one.begin(one.schedule, reference=True)
    with standing(one.reference) as policy:
        later = {name: w.clone() for name, w in named_weights(policy)}
    assert all(torch.equal(later[name], w) for name, w in one.weights().items()), "the next stage has its own"
    one.begin(one.schedule)
    assert one.reference is None


def adapted(moved=0.0):
    """A policy with adapters, on which they were moved already."""
    model = with_adapters(tiny_llama(), LoraConfig(rank=2))
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.add_(moved * torch.randn(parameter.shape, generator=draw))
    return model


def columns(groups, name):
    return [t.annotations[name] for visit in groups for t in visit.trajectories]


@PACKERS
@pytest.mark.parametrize("moved", [0.0, 0.3])
def test_a_policy_with_adapters_is_at_no_distance_from_its_reference_when_a_stage_begins(packer, moved):
    """To the bit, whether or not the adapters had learnt something before the stage."""
    one = learner(reference=True, model=adapted(moved), packer=packer)
    groups = [visited()[0], visited()[2]]  # of the other one the reference measures an expert's prefix too
    drawn = [t for visit in groups for t in visit.trajectories]
    own = [list(column) for column in one.logprobs(drawn)]
    found = columns(one.annotate(groups, frozenset({"logp_ref"})), "logp_ref")
    assert [list(column) for column in found] == own
    one.step([lesson()], Surrogate(), 0)
    assert columns(one.annotate(groups, frozenset({"logp_ref"})), "logp_ref") == found
    assert list(one.logprobs(drawn)[0]) != own[0], "the policy has moved, and is back after its reference was asked"


@PACKERS
def test_adapters_kept_are_a_reference_as_a_whole_copy_is(packer):
    one = learner(reference=True, model=adapted(0.3), packer=packer)
    whole = plain_copy(one.model)
    kept = one.annotate(visited(), frozenset({"logp_ref"}))
    one.reference = whole
    copied = one.annotate(visited(), frozenset({"logp_ref"}))
    for a, b in zip(columns(kept, "logp_ref"), columns(copied, "logp_ref"), strict=True):
        assert a == pytest.approx(b, abs=1e-5)


def test_a_reference_of_adapters_holds_no_second_base():
    one = learner(reference=True, model=adapted())
    own = {p.data_ptr() for p in one.model.parameters()}
    learnt = sum(p.numel() for _, p in one.trainable())
    assert sum(p.numel() for p in one.reference.parameters()) == learnt
    assert learnt < 0.5 * sum(p.numel() for p in one.model.parameters())
    assert not own & {p.data_ptr() for p in one.reference.parameters()}


def test_a_reference_that_fails_leaves_the_policy_as_it_was():
    one = learner(reference=True, model=adapted(0.3))
    one.step([lesson()], Surrogate(), 0)
    before = {name: p.clone() for name, p in one.trainable()}
    with pytest.raises(ZeroDivisionError), standing(one.reference) as policy:
        assert any(not torch.equal(p, before[n]) for n, p in policy.named_parameters() if p.requires_grad)
        raise ZeroDivisionError
    assert all(torch.equal(p, before[name]) for name, p in one.trainable())


def test_annotations_are_of_the_weights_before_the_step():
    one = learner(CriticOptions(kind="head"))
    needs = frozenset({"value", "demo_logp"})
    before = one.annotate(visited(), needs)
    one.step([lesson()], Surrogate(), version=0)
    after = one.annotate(visited(), needs)
    assert before[0].demonstrations[0].annotations != after[0].demonstrations[0].annotations
    assert before[0].trajectories[0].annotations != after[0].trajectories[0].annotations


def test_what_is_noted_already_stays_and_nothing_asked_is_nothing_done():
    one = learner()
    groups = [replace(g, trajectories=tuple(replace(t, annotations={"mine": (1.0,) * len(t.tokens)})
                                            for t in g.trajectories)) for g in visited()]  # fmt: skip
    assert one.annotate(groups, frozenset()) == groups
    noted = one.annotate(groups, frozenset({"logp_teacher"}), [words(3, "hint")] * 3)
    assert noted[0].trajectories[0].annotations.keys() == {"mine", "logp_teacher"}


def test_a_rollout_without_a_drawn_token_has_columns_of_zeros():
    empty = Trajectory(words(4, "empty"), (False,) * 4, (0.0,) * 4, "")
    one = learner(CriticOptions(kind="head"), True)
    visit = replace(visited()[0], trajectories=(empty, *visited()[0].trajectories))
    needs = frozenset({"logp_ref", "logp_teacher", "value"})
    (noted,) = one.annotate([visit], needs, [words(3, "hint")])
    assert noted.trajectories[0].annotations == dict.fromkeys(
        ("logp_ref", "logp_teacher", "value", "value_next"), (0.0,) * 4
    )
    assert any(noted.trajectories[1].annotations["logp_teacher"])
