"""The critic: its values and gradient against a slow oracle, its invariances, its own step, and its warm-up."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import flat_gradient, sample, tiny_llama
from superrl.config import LoraConfig, OptimizerConfig
from superrl.learner.copies import named_weights
from superrl.learner.critic import reached
from superrl.learner.learner import Learner, Schedule
from superrl.methods.hooks import CriticOptions, Limits, Method
from superrl.models import with_adapters
from superrl.packing import rows
from superrl.records import Update

KINDS = ["head", "model"]
SHARED = sample(9, 4, seed=7).tokens


class PolicyAndValue(Method):
    """-ratio A on the stream pg, (V - return)^2 / 2 on the stream value."""

    def __init__(self):
        super().__init__(Method.Options(), Limits(group_size=2, max_new_tokens=10))

    def token_loss(self, view):
        policy = -(view.logp - view.logp_old).exp() * view.advantage
        if view.value is None or not view.of("value").any():
            return policy
        return torch.where(view.of("value"), 0.5 * (view.value - view.annotation("return")) ** 2, policy)


class Wherever(PolicyAndValue):
    """The same with both terms in the graph of every token: gradients of zero instead of none."""

    def token_loss(self, view):
        policy = -(view.logp - view.logp_old).exp() * view.advantage
        target = view.annotations.get("return", torch.zeros_like(view.logp))
        return torch.where(view.of("value"), 0.5 * (view.value - target) ** 2, policy)


METHOD, WHEREVER = PolicyAndValue(), Wherever()


def sequences():
    """Rows of different lengths, two with a prefix in common."""
    one, two = sample(8, 3, group=0, seed=1), sample(14, 9, group=1, advantage=-0.5, seed=2)
    longer = replace(sample(12, 5, group=2, seed=3), tokens=SHARED + sample(3, 1, seed=4).tokens)
    return [one, two, replace(sample(9, 4, group=0, seed=7), weight=0.5), longer]


def valued(one):
    """The same tokens in the stream of the critic, with a return for every token."""
    returns = tuple(math.sin(3.0 * i + len(one.tokens)) for i in range(len(one.tokens)))
    return replace(one, stream="value", annotations={"return": returns}, weight=one.weight * 2)


def update(**changes):
    policy = sequences()
    shares = {"pg": (1.0, 2.0, 1.5), "value": (1.0, 1.0, 1.0)}
    return Update((*policy, *map(valued, policy)), shares, {"value": 0.7}, **changes)


def learner(kind="head", *, max_tokens=10_000, packer=None, model=None, lr=1e-3, critic_lr=1e-2, warmup=0, **optimizer):
    config = OptimizerConfig(lr=lr, **optimizer)
    schedule = Schedule(config, 10, 1, 1, max_tokens, seed=0)
    one = Learner(tiny_llama() if model is None else model, torch.float32, schedule, packer)
    if kind:
        one.begin(schedule, CriticOptions(kind=kind, lr=critic_lr, warmup_steps=warmup))
        opinionated(one.critic.head)
    return one


def opinionated(head):
    """A head that is not zero: of zero weights no gradient would reach a trunk."""
    with torch.no_grad():
        head.weight.copy_(torch.linspace(-0.3, 0.4, head.weight.numel())[None])
        head.bias.fill_(0.2)


def weights(one):
    return torch.cat([p.detach().flatten() for p in one.model.parameters()])


def critic_weights(one):
    return torch.cat([p.detach().flatten() for _, p in one.critic.parameters()])


def gradients(one, taken):
    """What one step would give the policy's optimizer and the critic's: caught before clipping."""
    caught = {}

    class Policy:
        def step(self, lr):
            caught["policy"] = torch.cat([p.grad.flatten() for p in one.model.parameters()])
            return 1.0

    class Critic:
        def step(self, lr):
            caught["critic"] = torch.cat([p.grad.flatten() for _, p in one.critic.parameters()])
            return 1.0

    one.optimizers["main"] = Policy()
    one.critic.optimizer = Critic()
    caught["means"] = one.step([taken], METHOD, version=0)
    return caught


def test_a_fresh_critic_is_zero_everywhere_and_has_float32_weights():
    for kind in KINDS:
        one = learner(kind="")
        one.begin(one.schedule, CriticOptions(kind=kind))
        assert {v for (column,) in one._values(sequences()) for v in column} == {0.0}
        assert {p.dtype for _, p in one.critic.parameters()} == {torch.float32}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("packer", [None, rows.pack])
def test_values_by_hand(kind, packer):
    """V before token t is read off the hidden state of token t - 1, of the critic's own trunk if it has one."""
    one = learner(kind, packer=packer)
    body = tiny_llama().model
    if kind == "model":
        with torch.no_grad():
            for (_, own), other in zip(one.critic.trunk.named_parameters(), body.parameters(), strict=True):
                own.mul_(1.5)
                other.mul_(1.5)
    head = one.critic.head
    for single, (found,) in zip(sequences(), one._values(sequences()), strict=True):
        hidden = body(torch.tensor([single.tokens])).last_hidden_state[0].detach()
        for t, trained in enumerate(single.loss_mask):
            expected = float(hidden[t - 1] @ head.weight[0].detach() + head.bias.detach()) if trained else 0.0
            assert found[t] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_formula_written_out(kind):
    """One row at a time, in float64, by autograd: the policy's gradient and the critic's."""
    taken = update()
    model, own = tiny_llama().double(), tiny_llama().model.double()
    head = torch.nn.Linear(32, 1).double()
    opinionated(head)
    body = model.model if kind == "head" else own
    for one in taken.samples:
        trained = [t for t, m in enumerate(one.loss_mask) if m]
        tokens = torch.tensor([one.tokens])
        if one.stream == "pg":
            table = model(tokens).logits[0].log_softmax(-1)
            logp = torch.stack([table[t - 1, one.tokens[t]] for t in trained])
            losses = -(logp - logp.detach()).exp() * one.advantage[0]
        else:
            values = head(body(tokens).last_hidden_state[0])[[t - 1 for t in trained], 0]
            returns = torch.tensor([one.annotations["return"][t] for t in trained], dtype=torch.float64)
            losses = 0.5 * (values - returns) ** 2
        share = taken.stream_weights.get(one.stream, 1.0) * one.weight / sum(taken.denominators[one.stream])
        (losses.sum() * share).backward()
    found = gradients(learner(kind), taken)
    critic = [*own.parameters(), *head.parameters()] if kind == "model" else list(head.parameters())
    expected = torch.cat([p.grad.flatten() for p in critic])
    policy = flat_gradient(model)
    assert float(policy.norm()) > 1e-2 and float(expected.norm()) > 1e-2
    torch.testing.assert_close(found["policy"].double(), policy, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found["critic"].double(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8, deadline=None)
@given(max_tokens=st.integers(1, 60), order=st.randoms(use_true_random=False))
def test_the_critic_s_gradient_depends_on_neither_pack_size_nor_row_order(kind, max_tokens, order):
    whole = gradients(learner(kind), update())
    shuffled = list(update().samples)
    order.shuffle(shuffled)
    split = gradients(learner(kind, max_tokens=max_tokens), replace(update(), samples=tuple(shuffled)))
    for name in ("policy", "critic"):
        torch.testing.assert_close(split[name], whole[name], rtol=1e-4, atol=1e-6)
    for name in ("loss", "loss/pg", "loss/value"):
        assert split["means"].value(name) == pytest.approx(whole["means"].value(name), rel=1e-4, abs=1e-7)


def test_bfloat16_compute_leaves_the_critic_in_float32():
    for kind in KINDS:
        one = learner(kind)
        exact = one._values(sequences())
        one.compute_dtype = torch.bfloat16
        rounded = one._values(sequences())
        off = [abs(a - b) for (x,), (y,) in zip(exact, rounded, strict=True) for a, b in zip(x, y, strict=True)]
        assert 0.0 < max(off) < 0.1
        one.step([update()], METHOD, version=0)
        assert {p.dtype for _, p in one.critic.parameters()} == {torch.float32}


def test_the_stream_of_the_critic_costs_the_policy_no_token():
    taken = update()
    alone = replace(taken, samples=tuple(s for s in taken.samples if s.stream == "pg"))
    both, policy = (learner("head").step([one], METHOD, version=0) for one in (taken, alone))
    assert both.means["tokens/computed"].total == policy.means["tokens/computed"].total > 0
    assert both.means["tokens/logical"].total == 2 * policy.means["tokens/logical"].total


def test_a_policy_beside_a_critic_of_its_own_trunk_is_the_policy_without():
    """To the bit: own parameters, own norm, own moments."""
    taken = update()
    alone = replace(taken, samples=tuple(s for s in taken.samples if s.stream == "pg"), stream_weights={})
    with_critic, without = learner("model", max_grad_norm=0.1), learner("", max_grad_norm=0.1)
    for version in range(3):
        norms = [
            with_critic.step([taken], METHOD, version).value("grad_norm"),
            without.step([alone], METHOD, version).value("grad_norm"),
        ]
        assert norms[0] == norms[1] > 0.1
    assert torch.equal(weights(with_critic), weights(without))


def test_each_is_clipped_by_its_own_norm_and_moves_at_its_own_rate():
    config = {"schedule": "linear", "warmup_steps": 2, "max_grad_norm": 0.01}
    one = learner("head", lr=1e-3, critic_lr=1e-1, **config)
    before, policy = critic_weights(one), weights(one)
    means = one.step([update(lr_scale=0.5)], METHOD, version=0)
    # Adam's first step moves every weight by its rate, whatever the gradient; half of it in warm-up, half by lr_scale
    assert float((critic_weights(one) - before).abs().max()) == pytest.approx(1e-1 / 4, rel=1e-3)
    assert float((weights(one) - policy).abs().max()) == pytest.approx(1e-3 / 4, rel=1e-3)
    assert means.value("method/critic_grad_norm") == pytest.approx(
        float(gradients(learner("head"), update())["critic"].norm()), rel=1e-5
    )
    moment = one.critic.optimizer.state()["head.weight/exp_avg"]
    assert float(moment.norm()) <= 0.1 * 0.01, "(1 - beta_1) times a gradient of at most max_grad_norm"


@pytest.mark.parametrize("kind", KINDS)
def test_while_it_learns_alone_no_bit_of_the_policy_moves(kind):
    one = learner(kind, warmup=2, weight_decay=0.1)
    start, critics = weights(one), [critic_weights(one)]
    for version in range(2):
        means = one.step([update()], METHOD, version)
        assert torch.equal(weights(one), start) and means.value("grad_norm") is None
        critics.append(critic_weights(one))
        assert not torch.equal(critics[-1], critics[-2])
    assert one.progress.updates == 2 and not one.optimizers, "no moments either"
    one.step([update()], METHOD, version=2)
    fresh = learner(kind, weight_decay=0.1)
    assert not torch.equal(weights(one), start)
    assert one.optimizers["main"].state().keys() == fresh_state(fresh).keys()


def fresh_state(one):
    one.step([update()], METHOD, version=0)
    return one.optimizers["main"].state()


def test_an_update_that_says_nothing_to_a_critic_in_warm_up_moves_nothing():
    one = learner("model", warmup=1)
    policy = replace(update(), samples=tuple(s for s in update().samples if s.stream == "pg"))
    before = weights(one), critic_weights(one)
    one.step([policy], METHOD, version=0)
    assert torch.equal(weights(one), before[0]) and torch.equal(critic_weights(one), before[1])
    assert one.progress.updates == 0 and one.progress.step == 1


@pytest.mark.parametrize("stream", ["pg", "value"])
def test_momentum_alone_moves_neither(stream):
    """An update without a sample for one of them leaves it where it is, whatever its moments; the other one moves."""
    one = learner("model", warmup=0)
    one.step([update()], METHOD, version=0)
    before = weights(one), critic_weights(one)
    only = replace(update(), samples=tuple(s for s in update().samples if s.stream == stream))
    means = one.step([only], WHEREVER, version=1)
    assert torch.equal(weights(one), before[0]) is (stream == "value") is (means.value("grad_norm") is None)
    assert torch.equal(critic_weights(one), before[1]) is (stream == "pg")
    assert (means.value("method/critic_grad_norm") is None) is (stream == "pg")


@pytest.mark.parametrize("stream", ["pg", "value"])
def test_a_gradient_that_is_not_finite_is_refused_by_both(stream):
    one = learner("model")
    before = weights(one), critic_weights(one)
    bad = tuple(replace(s, weight=math.inf) if s.stream == stream else s for s in update().samples)
    one.step([replace(update(), samples=bad)], METHOD, version=0)
    assert one.progress.refused == 1 and one.progress.updates == 0
    assert torch.equal(weights(one), before[0]) and torch.equal(critic_weights(one), before[1])
    assert not reached(one.critic.parameters()) and not reached(one.trainable()), "nothing is left for the next step"
    one.step([update()], METHOD, version=1)
    other = learner("model")
    other.progress.step = 1
    other.step([update()], METHOD, version=1)
    assert torch.equal(weights(one), weights(other)) and torch.equal(critic_weights(one), critic_weights(other))


@pytest.mark.parametrize("kind", KINDS)
def test_looking_at_the_streams_changes_no_bit_of_policy_or_critic(kind):
    policy, *others = update().samples
    shares = {**update().denominators, "zeal": (1.0,) * 3}  # a stream that is looked at after the critic's
    taken = replace(update(), samples=(replace(policy, stream="zeal"), *others), denominators=shares)
    outcomes = []
    for every in (0, 1):
        one = learner(kind)
        one.schedule = replace(one.schedule, streams_every=every)
        means = one.step([taken], METHOD, version=0)
        outcomes.append((weights(one), critic_weights(one)))
    assert all(torch.equal(a, b) for a, b in zip(*outcomes, strict=True))
    assert means.value("streams/grad_norm/pg") > 0
    assert (means.value("streams/grad_norm/value") > 0) is (kind == "head"), "into the policy's trunk"


@pytest.mark.parametrize("kind", KINDS)
def test_state_round_trip(kind):
    one, other = learner(kind), learner(kind)
    one.step([update()], METHOD, version=0)
    other.model.load_state_dict(one.model.state_dict())
    other.optimizer("main").load_state(one.optimizer("main").state())
    other.critic.load_state(one.critic.state())
    other.progress.step = 1
    for each in (one, other):
        each.step([update()], METHOD, version=1)
    assert torch.equal(weights(one), weights(other)) and torch.equal(critic_weights(one), critic_weights(other))


def test_a_critic_beside_adapters_starts_from_the_merged_weights_and_learns_them_all():
    model = with_adapters(tiny_llama(), LoraConfig(rank=2))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(0.1)
    one = learner("model", model=model)
    merged = {name.removeprefix("model."): w for name, w in named_weights(model) if name.startswith("model.")}
    own = dict(one.critic.trunk.named_parameters())
    assert own.keys() == merged.keys() and all(torch.equal(own[name], merged[name]) for name in own)
    before = {name: p.clone() for name, p in own.items()}
    base = {n: p.clone() for n, p in model.named_parameters() if "lora_" not in n}
    one.step([update()], METHOD, version=0)
    assert all(not torch.equal(before[name], p) for name, p in own.items() if "embed" not in name)
    assert all(torch.equal(base[n], p) for n, p in model.named_parameters() if n in base)


def test_a_new_stage_has_a_new_critic_or_none():
    one = learner("model")
    one.step([update()], METHOD, version=0)
    learnt = critic_weights(one)
    one.begin(one.schedule, CriticOptions(kind="model", lr=1e-2))
    assert not torch.equal(critic_weights(one), learnt) and not one.critic.head.weight.any()
    trunk, policy = one.critic.trunk.parameters(), one.model.model.parameters()
    assert all(torch.equal(a, b) for a, b in zip(trunk, policy, strict=True)), "of the policy as it is now"
    one.begin(one.schedule)
    assert one.critic is None
