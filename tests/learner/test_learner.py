"""The learner against a slow oracle, the invariances of its gradient, its guard, and its optimizer states."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import flat_gradient, group, sample, tiny_llama, trajectory
from superrl.config import OptimizerConfig
from superrl.errors import RunError
from superrl.learner.learner import MAX_REFUSED, Learner, Schedule, mini_batches
from superrl.learner.optimizer import scheduled_lr
from superrl.methods import build
from superrl.methods.hooks import Limits
from superrl.records import Update

LIMITS = Limits(group_size=4, max_new_tokens=10)
METHODS = {
    "sft": {"name": "sft"},
    "grpo": {"name": "grpo"},
    "dapo": {"name": "grpo", "reduction": "token", "clip_high": 0.28},
    "dr_grpo": {"name": "grpo", "reduction": "constant", "std": "none"},
    "superrl": {"name": "superrl", "demonstration": "all"},
    "superrl-keep": {"name": "superrl", "failed_rollouts": "keep", "sft": {"weight": 0.3}},
    "superrl-sum": {"name": "superrl", "inner": "sum"},
}


def method(name="superrl"):
    return build(METHODS[name], LIMITS)


def learner(model, *, max_tokens=10_000, epochs=1, mini_batches=1, lr=1e-3, **optimizer):
    config = OptimizerConfig(lr=lr, **optimizer)
    return Learner(model, torch.float32, Schedule(config, 10, epochs, mini_batches, max_tokens, seed=0))


def gradient_of(update, recipe, *, max_tokens=10_000):
    """The gradient a learner would apply: caught before the optimizer clips and takes it."""
    model = tiny_llama()
    one = learner(model, max_tokens=max_tokens, max_grad_norm=1e9)
    caught = []

    class Spy:
        def step(self, lr):
            caught.append(flat_gradient(model))
            return 1.0

    one.optimizers["main"] = one.optimizers["sft"] = Spy()
    means = one.step([update], recipe, version=0)
    return caught[0], means


def batch():
    return [
        group([0] * 4, experts=[5, 3], name="a"),
        group([1, 0, 0, 1], lengths=[1, 2, 9, 4], name="b"),
        group([0, 1, 0, 0], lengths=[3, 3, 1, 8], experts=[6], name="c"),
        group([0.2, 0.1, 0.0, 0.3], correct=[False] * 4, experts=[2], name="d"),
        group([1, 1, 1, 1], name="e"),
    ]


def planned(name):
    groups = [g for g in batch() if g.demonstrations] if name == "sft" else batch()
    return method(name).plan(groups, {}).updates[0]


@pytest.mark.parametrize("name", METHODS)
def test_gradient_is_that_of_the_formula_written_out(name):
    """One sequence at a time, no packing, no chunking: (1/D) sum lambda w loss by definition."""
    update = planned(name)
    model = tiny_llama().double()
    for one in update.samples:
        table = model(torch.tensor([one.tokens])).logits[0].log_softmax(-1)
        trained = [t for t, m in enumerate(one.loss_mask) if m]
        logp = torch.stack([table[t - 1, one.tokens[t]] for t in trained])
        advantage = torch.tensor([one.advantage[t] for t in trained], dtype=torch.float64)
        ratio = (logp - logp.detach()).exp()
        losses = -logp if one.stream == "sft" else -ratio * advantage
        share = update.stream_weights.get(one.stream, 1.0) * one.weight / sum(update.denominators[one.stream])
        (losses.sum() * share).backward()
    oracle = flat_gradient(model)
    gradient, _ = gradient_of(update, method(name))
    assert float(oracle.norm()) > 1e-3
    torch.testing.assert_close(gradient.double(), oracle, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=8)
@given(max_tokens=st.integers(1, 120), order=st.randoms(use_true_random=False))
def test_gradient_and_loss_depend_on_neither_pack_size_nor_row_order(name, max_tokens, order):
    update = planned(name)
    whole, means = gradient_of(update, method(name))
    shuffled = list(update.samples)
    order.shuffle(shuffled)
    split, others = gradient_of(replace(update, samples=tuple(shuffled)), method(name), max_tokens=max_tokens)
    torch.testing.assert_close(split, whole, rtol=1e-4, atol=1e-6)
    for key in ("loss", *(f"loss/{stream}" for stream in update.denominators)):
        assert others.value(key) == pytest.approx(means.value(key), rel=1e-4, abs=1e-7)


def test_fallback_only_has_sft_s_gradient_and_fallback_free_grpo_s():
    failed = [group([0] * 4, experts=[5], name="a"), group([0] * 4, experts=[2], name="b")]
    sft = build({"name": "sft", "reduction": "prompt"}, LIMITS)
    mixed, _ = gradient_of(method().plan(failed, {}).updates[0], method())
    alone, _ = gradient_of(sft.plan(failed, {}).updates[0], sft)
    assert torch.equal(mixed, alone)
    solved = [group([1, 0, 0, 1], name="a"), group([0, 1, 0, 0], name="b")]
    mixed, _ = gradient_of(method().plan(solved, {}).updates[0], method())
    alone, _ = gradient_of(method("grpo").plan(solved, {}).updates[0], method("grpo"))
    torch.testing.assert_close(mixed, alone, rtol=1e-5, atol=1e-8)


def test_a_fallback_among_n_prompts_weighs_one_nth_of_sft_alone():
    failed, solved = group([0] * 4, experts=[5], name="a"), [group([1] * 4, name=f"s{i}") for i in range(31)]
    alone, _ = gradient_of(method().plan([failed], {}).updates[0], method())
    among, _ = gradient_of(method().plan([failed, *solved], {}).updates[0], method())
    torch.testing.assert_close(among * 32, alone, rtol=1e-5, atol=1e-8)


def test_failed_rollouts_give_no_gradient():
    rollouts = group([0.9, 0.1, 0.4, 0.0], correct=[False] * 4, experts=[5], name="a")
    others = replace(rollouts, trajectories=tuple(trajectory(4, 7, 0.5, False, seed=i + 50) for i in range(4)))
    first, _ = gradient_of(method().plan([rollouts], {}).updates[0], method())
    second, _ = gradient_of(method().plan([others], {}).updates[0], method())
    assert torch.equal(first, second)


def test_loss_values_by_hand():
    update = Update((sample(6, 2, stream="sft", weight=0.5),), {"sft": (1.0, 1.0), "pg": (1.0, 1.0)}, {"sft": 3.0})
    model = tiny_llama()
    one = learner(model)
    (logp,) = one.logprobs(update.samples)
    means = one.step([update], method(), version=0)
    assert means.value("loss/sft") == pytest.approx(-sum(logp) * 0.5 / 2, rel=1e-5)
    assert means.value("loss") == pytest.approx(3 * means.value("loss/sft"), rel=1e-6)
    assert means.value("loss/pg") == 0.0


def test_old_rollouts_are_weighed_against_their_sampler():
    rollout = replace(sample(8, 4, advantage=-1.0), version=0)
    update = Update((rollout,), {"pg": (1.0,), "sft": (1.0,)})
    model = tiny_llama()
    (logp,) = learner(model).logprobs([rollout])
    fresh = learner(model).step([update], method(), version=0)
    assert fresh.value("loss/pg") == pytest.approx(4.0, rel=1e-5)  # ratio 1, advantage -1, four tokens of weight 1
    stale = learner(tiny_llama()).step([update], method(), version=1)
    ratios = [torch.tensor(a - b).exp() for a, b in zip(logp[4:], rollout.logp_sampler[4:], strict=True)]
    assert stale.value("loss/pg") == pytest.approx(float(sum(r.clamp(min=0.8) for r in ratios)), rel=1e-4)


def test_several_mini_batches_cover_every_group_once_and_see_the_policy_move():
    sets = mini_batches(10, 3, "key")
    assert sorted(g for s in sets for g in s) == list(range(10)) and len(sets) == 3
    one = learner(tiny_llama(), epochs=4, mini_batches=2, lr=3e-2, max_grad_norm=1e9)
    live = [group([1, 0, 0, 0], name=name) for name in "abcd"]
    means = one.step(method("grpo").plan(live, {}).updates, method("grpo"), version=0)
    assert one.progress.updates == 8
    assert means.value("policy/clip_fraction") > 0


def test_mini_batch_denominator_is_its_own_groups():
    update = method("grpo").plan([group([1, 0, 0, 0], name="a")], {}).updates[0]
    doubled = replace(update, denominators={"pg": (4.0, 4.0)})  # a second, dead group
    one = learner(tiny_llama(), mini_batches=2)
    means = one.step([doubled], method("grpo"), version=0)
    alone = learner(tiny_llama()).step([update], method("grpo"), version=0)
    assert one.progress.updates == 1
    assert means.value("grad_norm") == pytest.approx(alone.value("grad_norm"), rel=1e-5)


def test_nothing_to_learn_leaves_the_weights_alone():
    model = tiny_llama()
    one = learner(model, lr=0.1)
    one.step([planned("superrl")], method(), version=0)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    one.step([method().plan([group([0] * 4)], {}).updates[0]], method(), version=1)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert one.progress.updates == 1 and one.progress.step == 2


def test_a_gradient_that_is_not_finite_is_refused_and_three_in_a_row_stop_the_run():
    model = tiny_llama()
    one = learner(model)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    poisoned = Update((replace(sample(6, 2), weight=float("inf")),), {"pg": (1.0,), "sft": (1.0,)})
    for _ in range(MAX_REFUSED - 1):
        one.step([poisoned], method(), version=0)
    assert one.progress.refused == MAX_REFUSED - 1
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    one.step([planned("superrl")], method(), version=0)
    assert one.progress.refused_in_a_row == 0
    with pytest.raises(RunError, match=r"lower optimizer\.lr"):
        for _ in range(MAX_REFUSED):
            one.step([poisoned], method(), version=0)


def test_a_second_optimizer_state_is_its_own():
    separate = build({"name": "superrl", "sft": {"separate_state": True, "lr_scale": 2.0}}, LIMITS)
    one = learner(tiny_llama())
    one.step(separate.plan(batch(), {}).updates, separate, version=0)
    assert sorted(one.optimizers) == ["main", "sft"]
    assert one.optimizers["sft"].adam.param_groups[0]["lr"] == pytest.approx(2e-3)
    main, sft = (one.optimizers[n].state() for n in ("main", "sft"))
    assert main.keys() == sft.keys() and any(not torch.equal(main[k], sft[k]) for k in main)


def test_optimizer_state_round_trip():
    one, other = learner(tiny_llama()), learner(tiny_llama())
    one.step([planned("superrl")], method(), version=0)
    other.model.load_state_dict(one.model.state_dict())
    other.optimizer("main").load_state(one.optimizer("main").state())
    other.progress.step = one.progress.step
    for each in (one, other):
        each.step([planned("superrl")], method(), version=1)
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True))


def test_the_second_update_of_a_step_is_weighed_against_the_policy_before_the_first():
    one = learner(tiny_llama(), lr=3e-2, max_grad_norm=1e9)
    update = method("grpo").plan([group([1, 0, 0, 0], name="a")], {}).updates[0]
    seen = []

    class Listening(type(method("grpo"))):
        def token_loss(self, view):
            seen.append((view.logp.detach().clone(), view.logp_old.clone()))
            return super().token_loss(view)

    grpo = method("grpo")
    grpo.__class__ = Listening
    one.step([update, update], grpo, version=0)
    (first, old_first), (second, old_second) = seen
    torch.testing.assert_close(old_first, first)
    torch.testing.assert_close(old_second, old_first)
    assert float((second - old_second).abs().max()) > 1e-3


def test_annotations_and_drift():
    one = learner(tiny_llama())
    (visit,) = one.annotate([group([0] * 4, experts=[5])], frozenset({"demo_logp"}))
    (expected,) = one.logprobs(visit.demonstrations)
    assert visit.demonstrations[0].annotations["demo_logp"] == expected
    drawn = visit.trajectories[0]
    exact = replace(drawn, logp_sampler=one.logprobs([drawn])[0])
    assert one.drift([exact]) == [pytest.approx((0.0, 0.0), abs=1e-6)] and min(one.drift([drawn])[0]) > 0


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [("constant", 9, 1.0), ("linear", 6, 0.5), ("cosine", 6, 0.5), ("cosine", 9, 0.0380602), ("linear", 1, 1.0)],
)
def test_schedules(schedule, step, expected):
    config = OptimizerConfig(lr=1.0, schedule=schedule, warmup_steps=2)
    assert scheduled_lr(config, step, 10) == pytest.approx(expected, abs=1e-6)


def test_weight_decay_is_for_matrices_only():
    groups = learner(tiny_llama(), weight_decay=0.1).optimizer("main").adam.param_groups
    assert {(g["weight_decay"], g["params"][0].dim()) for g in groups} == {(0.1, 2), (0.0, 1)}
