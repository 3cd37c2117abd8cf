"""Inverse CDF: every uniform number finds its token, none of probability zero, none past the end."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from superrl.sampling import draw as drawing
from superrl.sampling.draw import BLOCK, draw, first_above, least_mass, uniforms
from superrl.truncation import Truncation

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


# --- truncation


def kept(probabilities: list[float], **rules: float) -> list[int]:
    """The tokens that may be drawn, each of them found by some uniform number."""
    logits = torch.tensor([probabilities]).log().expand(1000, -1)
    uniform = torch.arange(1000, dtype=torch.float64) / 1000
    return sorted(set(draw(logits, uniform, torch.ones(1000), Truncation(**rules)).tokens.long().tolist()))


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"top_k": 1}, [1]),
        ({"top_k": 2}, [1, 4]),
        ({"top_k": 3}, [0, 1, 2, 4]),  # the third is as likely as the fourth
        ({"top_k": 9}, [0, 1, 2, 3, 4]),
        ({"top_p": 0.39}, [1]),
        ({"top_p": 0.41}, [1, 4]),
        ({"top_p": 0.71}, [0, 1, 2, 4]),
        ({"top_p": 0.91}, [0, 1, 2, 3, 4]),
        ({"top_p": 1.0}, [0, 1, 2, 3, 4]),
        ({"min_p": 0.8}, [1]),
        ({"min_p": 0.7}, [1, 4]),
        ({"min_p": 0.249}, [0, 1, 2, 4]),
        ({"top_k": 2, "top_p": 0.5}, [1]),  # 0.4 of 0.7 is more than half
        ({"top_k": 3, "top_p": 0.75}, [1, 4]),  # 0.7 of 0.9
        ({"top_k": 4, "min_p": 0.7}, [1, 4]),
        ({"top_p": 0.95, "min_p": 0.249}, [0, 1, 2, 4]),
    ],
)
def test_truncation_by_hand(rules: dict[str, float], expected: list[int]) -> None:
    assert kept([0.1, 0.4, 0.1, 0.1 - 1e-3, 0.3 + 1e-3], **rules) == expected


def slow_truncation(probability: list[float], rules: Truncation) -> list[float]:
    """Transformers' order of the rules, in plain Python: what may be drawn, and with which probability."""
    order = sorted(range(len(probability)), key=lambda i: -probability[i])
    if rules.top_k is not None:
        last = probability[order[min(rules.top_k, len(order)) - 1]]
        order = [i for i in order if probability[i] >= last]
    if rules.top_p is not None:
        whole, total, last = sum(probability[i] for i in order), 0.0, 0.0
        for i in order:
            if total < rules.top_p * whole:
                last = probability[i]
            total += probability[i]
        order = [i for i in order if probability[i] >= last]
    if rules.min_p is not None:
        order = [i for i in order if probability[i] >= rules.min_p * max(probability)]
    whole = sum(probability[i] for i in order)
    return [probability[i] / whole if i in order else 0.0 for i in range(len(probability))]


rule = st.one_of(st.none(), st.floats(0.05, 0.95))


@settings(max_examples=150)
@given(
    seed=st.integers(0, 10**6),
    vocabulary=st.sampled_from([1, 2, 7, 61, BLOCK + 1]),
    temperature=st.sampled_from([0.3, 1.0, 2.0]),
    top_k=st.one_of(st.none(), st.integers(1, 70)),
    top_p=rule,
    min_p=rule,
    nucleus=st.sampled_from([1, 4, 256]),
)
def test_truncated_draws_against_a_slow_oracle(
    seed: int, vocabulary: int, temperature: float, top_k: int | None, top_p: float | None, min_p: float | None,
    nucleus: int,
) -> None:  # fmt: skip
    rules = Truncation.model_construct(top_k=top_k, top_p=top_p, min_p=min_p)
    logits = 3 * torch.randn(1, vocabulary, generator=torch.Generator().manual_seed(seed))
    grid = (torch.arange(97, dtype=torch.float64) + 0.5) / 97
    before, drawing.NUCLEUS = drawing.NUCLEUS, nucleus  # so that a small vocabulary overruns the first look
    try:
        found = draw(logits.expand(97, -1), grid, torch.full((97,), temperature), rules)
        bound = least_mass((logits / temperature - (logits / temperature).max()).exp(), rules)
    finally:
        drawing.NUCLEUS = before
    probability = (logits[0] / temperature).double().softmax(-1)
    expected = slow_truncation(probability.tolist(), rules)
    cumulated = torch.tensor([0.0, *expected], dtype=torch.float64).cumsum(-1)
    tokens = found.tokens.long()
    assert all(expected[token] > 0 for token in tokens.tolist())
    assert (cumulated[tokens] <= grid + 1e-6).all() and (cumulated[tokens + 1] >= grid - 1e-6).all()
    assert int(((probability / probability.max()) >= float(bound) * (1 - 1e-6)).sum()) == sum(e > 0 for e in expected)
    torch.testing.assert_close(found.logp, probability.log()[tokens], rtol=1e-5, atol=1e-5)


def test_log_probs_and_entropy_are_those_of_the_whole_distribution() -> None:
    logits = torch.randn(4, 300, generator=torch.Generator().manual_seed(0))
    uniform, temperature = torch.full((4,), 0.4, dtype=torch.float64), torch.tensor([0.7, 0.7, 1.0, 0.0])
    cut = draw(logits, uniform, temperature, Truncation(top_k=2, top_p=0.9, min_p=0.1))
    whole = draw(logits, uniform, temperature)
    assert torch.equal(cut.entropy, whole.entropy)
    assert cut.tokens[3] == whole.tokens[3] and cut.logp[3] == whole.logp[3]
    assert (cut.tokens[:3] != whole.tokens[:3]).any()
    scaled = logits / torch.where(temperature > 0, temperature, 1.0)[:, None]
    expected = scaled.double().log_softmax(-1).gather(-1, cut.tokens.long()[:, None])[:, 0]
    torch.testing.assert_close(cut.logp, expected, rtol=1e-5, atol=1e-5)


def test_truncated_draws_have_the_renormalised_frequencies() -> None:
    probability = torch.tensor([0.05, 0.4, 0.2, 0.05, 0.3])
    n = 4000
    uniform = torch.from_numpy(uniforms((3,), 0, n))
    tokens = draw(probability.log().expand(n, -1), uniform, torch.ones(n), Truncation(top_k=3)).tokens.long()
    share = torch.bincount(tokens, minlength=5) / n
    expected = torch.tensor([0.0, 4 / 9, 2 / 9, 0.0, 3 / 9])
    deviation = (expected * (1 - expected) / n).sqrt()
    assert ((share - expected).abs() <= 4 * deviation).all()
    assert share[0] == share[3] == 0


def test_a_row_is_truncated_as_if_it_were_alone() -> None:
    """A flat neighbour, which makes top-p look at the whole vocabulary, changes no bit of another row."""
    sharp = 5 * torch.randn(1, 2000, generator=torch.Generator().manual_seed(1))
    uniform = torch.tensor([0.7], dtype=torch.float64)
    alone = draw(sharp, uniform, torch.ones(1), Truncation(top_p=0.95))
    pair = draw(torch.cat([sharp, torch.zeros(1, 2000)]), uniform.expand(2), torch.ones(2), Truncation(top_p=0.95))
    assert [float(x[0]) for x in pair] == [float(x) for x in alone]
    assert 1300 < int(pair.tokens[1]) < 1500  # equals are kept together: nothing of a flat row is cut
