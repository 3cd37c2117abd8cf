"""The gap between sampler and learner: measured on the right tokens, mended by the weight of the formula, a stop."""

from dataclasses import replace

import pytest
import torch

from builders import flat_gradient, group, tiny_llama
from superrl.config import OptimizerConfig
from superrl.errors import RunError
from superrl.learner.learner import Learner
from superrl.learner.offset import GAP, check_gap
from superrl.learner.schedule import Schedule
from superrl.methods import build
from superrl.methods.hooks import Limits
from superrl.metrics import Means

LIMITS = Limits(group_size=4, max_new_tokens=10)
METHOD = build({"name": "superrl"}, LIMITS)


def learner(cap=None, model=None, **schedule):
    fixed = {"epochs": 1, "mini_batches": 1, "max_tokens_per_pack": 60, "seed": 0, **schedule}
    config = OptimizerConfig(lr=1e-3, max_grad_norm=1e9)
    return Learner(model or tiny_llama(), torch.float32, Schedule(config, 10, **fixed, importance_cap=cap))


def visits(shift=0.0):
    """Groups as a sampler would draw them whose log-probabilities are `shift` above the learner's."""
    one = learner()
    drawn = [group([1, 0, 0, 1], lengths=[2, 3, 5, 4], name="a"), group([0] * 4, experts=[5], name="b")]
    found = []
    for visit in drawn:
        logps = one.logprobs(visit.trajectories)
        shifted = [
            replace(t, logp_sampler=tuple(p + shift * m for p, m in zip(logp, t.loss_mask, strict=True)))
            for t, logp in zip(visit.trajectories, logps, strict=True)
        ]
        found.append(replace(visit, trajectories=tuple(shifted)))
    return found


def gradient(cap, groups, version=0, **schedule):
    """The gradient before the optimizer takes it, and the step's means."""
    model = tiny_llama()
    one, caught = learner(cap, model, **schedule), []

    class Spy:
        def step(self, lr):
            caught.append(flat_gradient(model))
            return 1.0

    one.optimizers["main"] = Spy()
    means = one.step(METHOD.plan(groups, {}).updates, METHOD, version=version)
    return caught[0], means


def only(groups, index):
    return [groups[index]]


@pytest.mark.parametrize(("shift", "cap", "weight"), [(0.5, 2.0, 0.6065307), (-0.5, 2.0, 1.6487213), (-1.5, 2.0, 2.0)])
def test_policy_tokens_get_the_truncated_weight_and_demonstrations_none(shift, cap, weight):
    groups = visits(shift)
    plain, _ = gradient(None, only(groups, 0))
    weighed, means = gradient(cap, only(groups, 0))
    assert float(plain.norm()) > 1e-3
    torch.testing.assert_close(weighed, plain * weight, rtol=1e-4, atol=1e-7)
    assert means.value(GAP) == pytest.approx(abs(shift), abs=1e-4)
    demonstration, _ = gradient(None, only(groups, 1))
    still, _ = gradient(cap, only(groups, 1))
    assert float(demonstration.norm()) > 1e-3 and torch.equal(still, demonstration)


@pytest.mark.parametrize("passes", [{}, {"epochs": 2}])
def test_without_a_gap_the_weight_changes_nothing(passes):
    plain, means = gradient(None, visits(), **passes)
    weighed, _ = gradient(2.0, visits(), **passes)
    torch.testing.assert_close(weighed, plain, rtol=1e-5, atol=1e-7)
    assert means.value(GAP) == pytest.approx(0.0, abs=1e-5)


def test_in_later_updates_the_gap_is_that_of_the_weights_that_drew():
    """The second pass has moved on; what is compared are the weights of before the first."""
    _, means = gradient(2.0, only(visits(0.25), 0), epochs=2)
    assert means.value(GAP) == pytest.approx(0.25, abs=1e-4)


def test_older_rollouts_are_the_ratios_affair():
    groups = only(visits(0.5), 0)
    plain, means = gradient(None, groups, version=1)
    weighed, _ = gradient(2.0, groups, version=1)
    assert torch.equal(weighed, plain)
    assert means.value(GAP) is None
    fresh, _ = gradient(2.0, groups)
    assert not torch.allclose(fresh, plain, rtol=1e-3)  # p / p_sampler is then part of PPO's ratio, which is clipped


def test_the_gap_of_what_is_not_trained_is_summed_over_its_drawn_tokens():
    (visit,) = only(visits(0.5), 0)
    (found,) = learner().drift(visit.trajectories[:1])
    assert found[1] == pytest.approx(0.5 * visit.trajectories[0].length, rel=1e-4)


def test_an_excess_stops_the_run_in_a_sentence():
    means = Means()
    check_gap(means, 0.1, 3)
    means.add(GAP, 0.3, 2)
    check_gap(means, None, 3)
    check_gap(means, 0.2, 3)
    with pytest.raises(RunError, match=r"step 3: .* 0\.15 nats .*max_gap: 0\.1\)"):
        check_gap(means, 0.1, 3)
    lost = Means()
    lost.add(GAP, float("nan"), 2)
    with pytest.raises(RunError, match="nan nats"):
        check_gap(lost, 0.1, 3)
