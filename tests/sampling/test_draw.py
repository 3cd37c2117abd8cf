"""Inverse CDF: every uniform number finds its token, none of probability zero, none past the end."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from superrl.sampling.draw import BLOCK, draw, first_above, uniforms

LAST = float(np.nextafter(1.0, 0.0))


def draw_one(logits: list[float], uniform: float, temperature: float = 1.0) -> tuple[int, float, float]:
    tokens, logp, entropy = draw(
        torch.tensor([logits]), torch.tensor([uniform], dtype=torch.float64), torch.tensor([temperature])
    )
    return int(tokens), float(logp), float(entropy)


def test_by_hand() -> None:
    logits = torch.tensor([0.5, 0.25, 0.25]).log().tolist()
    assert [draw_one(logits, u)[0] for u in (0.0, 0.49, 0.51, 0.74, 0.76, LAST)] == [0, 0, 1, 1, 2, 2]
    _, logp, entropy = draw_one(logits, 0.6)
    assert logp == pytest.approx(np.log(0.25), abs=1e-6)
    assert entropy == pytest.approx(1.5 * np.log(2), abs=1e-6)
    # at temperature 1/2 the probabilities are squared: 4/6, 1/6, 1/6
    assert draw_one(logits, 0.6, 0.5)[:2] == (0, pytest.approx(np.log(4 / 6), abs=1e-6))
    assert draw_one([0.0, 2.0, 1.0], 0.99, 0.0)[:2] == (
        1,
        pytest.approx(-np.log(1 + np.exp(-2) + np.exp(-1)), abs=1e-6),
    )


@settings(max_examples=100)
@given(
    seed=st.integers(0, 10**6),
    vocabulary=st.sampled_from([1, 2, 61, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 3]),
    scale=st.sampled_from([0.0, 1.0, 30.0, 1000.0]),
    uniform=st.one_of(st.sampled_from([0.0, 1e-300, 0.5, LAST]), st.floats(0, LAST)),
)
def test_against_a_plain_cumulated_sum(seed: int, vocabulary: int, scale: float, uniform: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(4, vocabulary, generator=generator)
    logits[:, ::3] = -torch.inf
    logits[:, vocabulary // 2] = 0.5
    tokens, logp, entropy = draw(logits, torch.full((4,), uniform, dtype=torch.float64), torch.ones(4))
    probability = logits.double().softmax(-1)
    cumulated = torch.cat([torch.zeros(4, 1), probability.cumsum(-1)], -1)
    index = tokens.long()[:, None]
    assert (logits.float().softmax(-1).gather(-1, index) > 0).all()
    assert (cumulated.gather(-1, index) <= uniform + 1e-6).all()
    assert (cumulated.gather(-1, index + 1) >= uniform - 1e-6).all()
    torch.testing.assert_close(logp, probability.log().gather(-1, index)[:, 0], rtol=1e-5, atol=1e-5)
    expected = -(probability * probability.clamp_min(1e-300).log()).sum(-1)
    torch.testing.assert_close(entropy, expected, rtol=1e-4, atol=1e-5)


def test_a_goal_rounded_up_to_the_end_does_not_pass_the_last_entry_that_raised_the_sum() -> None:
    cumulated = torch.tensor([[0, 3, 3, 5, 5]])
    goals = (0.0, 2.9, 3.0, 4.9, 5.0, 6.0)
    assert [int(first_above(cumulated, torch.tensor([[goal]]))) for goal in goals] == [1, 1, 3, 3, 3, 3]


def test_a_vocabulary_of_equal_tokens_is_hit_evenly_to_the_last() -> None:
    vocabulary = 150_001
    uniform = torch.tensor([0.0, 0.25, 0.5, LAST], dtype=torch.float64)
    tokens = draw(torch.zeros(4, vocabulary), uniform, torch.ones(4)).tokens
    assert tokens.tolist() == [0, vocabulary // 4, vocabulary // 2, vocabulary - 1]


def test_uniforms_are_a_pure_function_of_key_sample_and_position() -> None:
    numbers = uniforms((1, 2), 3, 10)
    assert (numbers[:4] == uniforms((1, 2), 3, 4)).all()
    assert (numbers == uniforms((np.int64(1), 2), 3, 10)).all()
    others = [uniforms((1, 2), 4, 10), uniforms((2, 1), 3, 10), uniforms((1, 2, 3), 0, 10), uniforms((12,), 3, 10)]
    assert not any((numbers == other).any() for other in others)
    assert ((numbers >= 0) & (numbers < 1)).all()
