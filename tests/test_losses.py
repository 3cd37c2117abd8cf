"""Token losses against values worked out by hand, and the identities they must have."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from superrl.losses import clipped_surrogate, importance_ratio, is_clipped, kl_estimate, negative_log_likelihood


def test_clip_by_hand():
    old = torch.log(torch.tensor([0.5, 0.5, 0.5, 0.5]))
    new = torch.log(torch.tensor([0.9, 0.1, 0.55, 0.1]))  # ratios 1.8, 0.2, 1.1, 0.2
    advantage = torch.tensor([1.0, -1.0, 2.0, 1.0])
    loss = clipped_surrogate(new, old, advantage, clip_low=0.2, clip_high=0.28)
    torch.testing.assert_close(loss, torch.tensor([-1.28, 0.8, -2.2, -0.2]), rtol=1e-6, atol=1e-6)
    clipped = is_clipped(new, old, advantage, clip_low=0.2, clip_high=0.28)
    assert clipped.tolist() == [True, True, False, False]


@given(st.lists(st.tuples(st.floats(-3, 0), st.floats(-3, 0), st.floats(-2, 2)), min_size=1, max_size=20))
def test_clipped_tokens_are_exactly_those_without_gradient(rows):
    logp, old, advantage = (torch.tensor(c, dtype=torch.float64) for c in zip(*rows, strict=True))
    logp.requires_grad_()
    loss = clipped_surrogate(logp, old, advantage, clip_low=0.2, clip_high=0.2)
    (gradient,) = torch.autograd.grad(loss.sum(), logp)
    clipped = is_clipped(logp, old, advantage, clip_low=0.2, clip_high=0.2)
    assert torch.equal(gradient == 0, clipped | (advantage == 0))


def test_supervised_gradient_is_the_policy_gradient_with_ratio_one_and_advantage_one():
    logp = torch.randn(9, dtype=torch.float64, requires_grad=True)
    (sft,) = torch.autograd.grad(negative_log_likelihood(logp).sum(), logp)
    surrogate = clipped_surrogate(logp, logp.detach(), torch.ones_like(logp), clip_low=0.2, clip_high=0.2)
    (pg,) = torch.autograd.grad(surrogate.sum(), logp)
    torch.testing.assert_close(sft, pg)


def test_a_lost_token_gives_a_finite_ratio():
    assert importance_ratio(torch.tensor([0.0]), torch.tensor([-1e4])).isfinite().all()


@given(st.lists(st.floats(-4, 4), min_size=1, max_size=20))
def test_kl_estimate_is_never_negative_and_zero_at_equality(differences):
    d = torch.tensor(differences, dtype=torch.float64)
    assert (kl_estimate(d, torch.zeros_like(d)) >= 0).all()
    assert torch.equal(kl_estimate(d, d), torch.zeros_like(d))


def test_wrong_shapes_are_refused():
    with pytest.raises(Exception, match="advantage"):
        clipped_surrogate(torch.zeros(3), torch.zeros(3), torch.zeros(2), clip_low=0.2, clip_high=0.2)
