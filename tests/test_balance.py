"""Log-sigma: the closed-form gradient, the optimum it finds, and what a signed loss does to it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from superrl.balance import descend, gradient, stream_weight


@given(s=st.floats(-2, 2), loss=st.floats(-50, 50))
def test_the_gradient_is_autograd_s(s, loss):
    free = torch.tensor(s, dtype=torch.float64, requires_grad=True)
    (torch.exp(-2 * free) * loss + free).backward()
    assert gradient(s, loss) == pytest.approx(float(free.grad), rel=1e-12, abs=1e-12)


def test_it_finds_the_optimum_of_a_two_loss_toy():
    """min over s of exp(-2s) L + s is at weight 1/(2L); both lie inside the clamp."""
    s, losses = {"pg": 0.0, "sft": 1.0}, {"pg": 0.2, "sft": 3.0}
    for _ in range(4000):
        s = descend(s, losses, lr=1e-2, decay=1.0, bound=2.0)
    assert {k: stream_weight(v) for k, v in s.items()} == pytest.approx({"pg": 2.5, "sft": 1 / 6}, rel=1e-6)


def test_a_negative_policy_loss_stays_in_the_clamp_for_1000_steps():
    s = {"pg": 0.0, "sft": 1.0}
    for step in range(1000):
        s = descend(s, {"pg": -0.3, "sft": 2.0 / (1 + step)}, lr=1e-2, decay=0.99, bound=2.0)
        assert all(-2.0 <= value <= 2.0 for value in s.values())
    assert s["pg"] == -2.0  # weight e^4, whatever was learnt


def test_an_unknown_loss_moves_nothing_and_0_is_not_unknown():
    s = {"pg": 0.5, "sft": 1.0}
    assert descend(s, {"pg": None, "sft": None}, lr=1e-2, decay=0.9, bound=2.0) == s
    assert descend(s, {"pg": 0.0, "sft": None}, lr=1e-2, decay=1.0, bound=2.0) == {"pg": 0.49, "sft": 1.0}
