"""Token losses against values worked out by hand, and the identities they must have."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from superrl.losses import (
    clipped_surrogate,
    clipped_value_loss,
    clipped_weight,
    distillation,
    importance_ratio,
    is_clipped,
    kl_estimate,
    kl_squared,
    negative_log_likelihood,
    truncated_importance,
)


def gradient(loss, at):
    return torch.autograd.grad(loss.sum(), at, retain_graph=True)[0]


def double(*values, grad=False):
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


def policy(*logits):
    """log p of a small vocabulary, and the logits that it comes from."""
    leaf = double(*logits, grad=True)
    return torch.log_softmax(leaf, 0), leaf


def test_clip_by_hand():
    log_ratio = torch.log(torch.tensor([1.8, 0.2, 1.1, 0.2]))
    advantage = torch.tensor([1.0, -1.0, 2.0, 1.0])
    loss = clipped_surrogate(log_ratio, advantage, clip_low=0.2, clip_high=0.28)
    torch.testing.assert_close(loss, torch.tensor([-1.28, 0.8, -2.2, -0.2]), rtol=1e-6, atol=1e-6)
    assert is_clipped(log_ratio, advantage, clip_low=0.2, clip_high=0.28).tolist() == [True, True, False, False]


@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(-2, 2)), min_size=1, max_size=20))
def test_clipped_tokens_are_exactly_those_without_gradient(rows):
    log_ratio, advantage = (torch.tensor(c, dtype=torch.float64) for c in zip(*rows, strict=True))
    log_ratio.requires_grad_()
    loss = clipped_surrogate(log_ratio, advantage, clip_low=0.2, clip_high=0.3)
    clipped = is_clipped(log_ratio, advantage, clip_low=0.2, clip_high=0.3)
    assert torch.equal(gradient(loss, log_ratio) == 0, clipped | (advantage == 0))


def test_supervised_gradient_is_the_policy_gradient_with_ratio_one_and_advantage_one():
    logp = torch.randn(9, dtype=torch.float64, requires_grad=True)
    sft = gradient(negative_log_likelihood(logp), logp)
    surrogate = clipped_surrogate(logp - logp.detach(), torch.ones_like(logp), clip_low=0.2, clip_high=0.2)
    torch.testing.assert_close(sft, gradient(surrogate, logp))


def test_a_lost_token_gives_a_finite_ratio():
    assert importance_ratio(torch.tensor([1e4, -1e4])).isfinite().all()


def test_a_capped_weight_by_hand_and_no_token_loses_its_gradient():
    logp, old = double(-0.1, -3.0, -1.0, grad=True), double(-2.1, -1.0, -1.0)
    advantage = double(1.0, 1.0, -2.0)
    loss = clipped_weight(logp, old, advantage, clip_high=0.5)
    weight = double(1.5, math.exp(-2.0), 1.0)  # e^2 = 7.4 is capped, e^-2 is not: there is no lower bound
    torch.testing.assert_close(loss, -weight * advantage * logp, rtol=1e-12, atol=0.0)
    torch.testing.assert_close(gradient(loss, logp), -weight * advantage, rtol=1e-12, atol=0.0)


@given(st.lists(st.floats(-4, 4), min_size=1, max_size=20))
def test_kl_estimates_are_never_negative_and_zero_at_equality(differences):
    d = torch.tensor(differences, dtype=torch.float64)
    for estimate in (kl_estimate, kl_squared):
        assert (estimate(d, torch.zeros_like(d)) >= 0).all()
        assert torch.equal(estimate(d, d), torch.zeros_like(d))


def test_kl_estimates_by_hand():
    logp, other = double(-1.0), double(-1.5)
    torch.testing.assert_close(kl_squared(logp, other), double(0.125), rtol=1e-12, atol=0.0)
    torch.testing.assert_close(kl_estimate(logp, other), double(math.exp(0.5) - 1.5), rtol=1e-12, atol=0.0)


def expected(per_token, logp, leaf):
    """E[gradient of a token loss], the token drawn from the policy itself: what many samples would average to."""
    chances = logp.detach().exp()
    rows = [torch.autograd.grad(per_token(logp)[i], leaf, retain_graph=True)[0] for i in range(len(logp))]
    return sum(p * row for p, row in zip(chances, rows, strict=True))


def reference():
    return torch.log_softmax(double(0.3, -1.0, 0.9), 0)


def test_k2_in_the_loss_has_the_gradient_of_the_reverse_kl():
    logp, leaf = policy(1.0, 0.2, -0.7)
    reverse = gradient(logp.exp() * (logp - reference()), leaf)
    torch.testing.assert_close(expected(lambda p: kl_squared(p, reference()), logp, leaf), reverse, rtol=1e-12, atol=0)


def test_k1_in_the_loss_has_none():
    logp, leaf = policy(1.0, 0.2, -0.7)
    assert expected(lambda p: p - reference(), logp, leaf).abs().max() < 1e-15


def test_k3_in_the_loss_has_the_gradient_of_the_forward_kl():
    logp, leaf = policy(1.0, 0.2, -0.7)
    forward = gradient(reference().exp() * (reference() - logp), leaf)
    reverse = gradient(logp.exp() * (logp - reference()), leaf)
    found = expected(lambda p: kl_estimate(reference(), p), logp, leaf)
    torch.testing.assert_close(found, forward, rtol=1e-12, atol=1e-15)
    assert not torch.allclose(found, reverse, rtol=0.1)


@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(-3, 3), st.sampled_from([None, 0.05, 0.2, 1.0]))
def test_value_loss_is_its_definition(value, old, target, clip):
    near = min(max(value, old - clip), old + clip) if clip is not None else value
    wanted = 0.5 * max((value - target) ** 2, (near - target) ** 2)
    found = clipped_value_loss(double(value), double(old), double(target), clip=clip)
    assert float(found) == pytest.approx(wanted, rel=1e-12, abs=1e-15)


def test_a_value_past_its_clip_moves_only_if_that_is_away_from_the_target():
    value, old, target = double(0.5, 0.5, 0.1, grad=True), double(0.0, 0.0, 0.0), double(1.0, 0.3, 1.0)
    moved = gradient(clipped_value_loss(value, old, target, clip=0.2), value)
    torch.testing.assert_close(moved, double(0.0, 0.2, -0.9), rtol=1e-12, atol=1e-15)


def test_distillation_is_the_policy_gradient_with_the_teacher_s_log_ratio():
    logp, leaf = policy(1.0, 0.2, -0.7)
    found = expected(lambda p: distillation(p, p.detach(), reference()), logp, leaf)
    reverse = gradient(logp.exp() * (logp - reference()), leaf)
    torch.testing.assert_close(found, reverse, rtol=1e-12, atol=1e-15)
    here = double(-1.0, grad=True)
    at_twice_the_chance = distillation(here, double(-1.0 - math.log(2.0)), double(-0.4))
    torch.testing.assert_close(gradient(at_twice_the_chance, here), double(-2.0 * 0.6), rtol=1e-12, atol=0.0)


def test_wrong_shapes_are_refused():
    with pytest.raises(Exception, match="advantage"):
        clipped_surrogate(torch.zeros(3), torch.zeros(2), clip_low=0.2, clip_high=0.2)


def test_importance_weights_are_cut_above_and_carry_no_gradient():
    logp, sampler = double(-1.0, -1.0, -3.0, -9.0, grad=True), double(-1.0, -1.5, -1.0, -1.0)
    weight = truncated_importance(logp, sampler, cap=1.5)
    torch.testing.assert_close(weight, double(1.0, 1.5, math.exp(-2.0), math.exp(-8.0)))
    assert not weight.requires_grad


def test_importance_weights_make_means_over_one_policy_those_of_another():
    """Uncut, E over the sampler of w f is E over the policy of f."""
    p, q, f = double(0.5, 0.3, 0.2), double(0.2, 0.3, 0.5), double(1.0, -2.0, 5.0)
    weight = truncated_importance(p.log(), q.log(), cap=100.0)
    torch.testing.assert_close((q * weight * f).sum(), (p * f).sum())
