"""Weights and denominators: together they must give the mean each reduction is named after."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superrl.reduction import denominator, prompt_weights, weights

groups = st.lists(st.lists(st.integers(1, 9), min_size=2, max_size=2), min_size=1, max_size=4)


def reduced(reduction, lengths_by_group, losses):
    """(1/D) sum w_t loss_t with a loss that is constant within a sequence."""
    total = sum(
        w * length * losses[g][k]
        for g, lengths in enumerate(lengths_by_group)
        for k, (length, w) in enumerate(zip(lengths, weights(reduction, lengths, max_length=10), strict=True))
    )
    return total / sum(denominator(reduction, lengths) for lengths in lengths_by_group)


@given(groups, st.randoms(use_true_random=False))
def test_each_reduction_is_the_mean_it_is_named_after(lengths, rng):
    losses = [[rng.uniform(-1, 1) for _ in group] for group in lengths]
    pairs = [(n, x) for group, row in zip(lengths, losses, strict=True) for n, x in zip(group, row, strict=True)]
    token = sum(n * x for n, x in pairs) / sum(n for n, _ in pairs)
    sequence = sum(x for _, x in pairs) / len(pairs)
    prompt = sum(sum(row) / len(row) for row in losses) / len(losses)
    constant = sum(n * x / 10 for n, x in pairs) / len(pairs)
    for name, expected in {"token": token, "sequence": sequence, "prompt": prompt, "constant": constant}.items():
        assert reduced(name, lengths, losses) == pytest.approx(expected, abs=1e-12), name


def test_prompt_weights_by_hand():
    assert prompt_weights("mean", [2, 4], max_length=8) == (0.25, 0.125)
    assert prompt_weights("sum", [2, 4], max_length=8) == (0.5, 0.5)
    assert prompt_weights("constant", [2, 4], max_length=8) == (1 / 16, 1 / 16)


def test_an_empty_group_adds_nothing():
    assert weights("prompt", [], max_length=8) == ()
    for inner in ("mean", "sum", "constant"):
        assert prompt_weights(inner, [], max_length=8) == ()
