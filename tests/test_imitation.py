"""How hard every supervised loss pulls: coefficients by hand and in closed form, values by oracles, edges."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from superrl.imitation import IMITATION, coefficient
from superrl.methods import build
from superrl.methods.hooks import Limits

CLOSED = {
    "nll": lambda p: 1.0,
    "dft": lambda p: p,
    "phi": lambda p: p * (1 - p),
    "luffy": lambda p: 0.1 * p / (p + 0.1) ** 2,
    "trsft": lambda p: min(1.0, p / 0.1),
    "rl-plus": lambda p: 4 * p * (1 - p) ** 0.5 / (3 * p + 1),
}
"""c(p) as the papers' formulas differentiate, for p_old = p."""
BY_HAND = [
    ("nll", 1e-4, 1.0),
    ("dft", 0.25, 0.25),
    ("phi", 0.25, 0.1875),
    ("luffy", 0.1, 0.25),
    ("luffy", 1e-4, 0.000998),
    ("trsft", 0.05, 0.5),
    ("trsft", 0.7, 1.0),
    ("rl-plus", 0.75, 1.5 / 3.25),
]


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_every_loss_has_a_closed_form_here_and_the_recipe_s_names():
    assert IMITATION.keys() == CLOSED.keys()
    for name in IMITATION:
        assert build({"name": "sft", "imitation": name}, Limits(4, 8)).options.imitation == name


@pytest.mark.parametrize(("name", "p", "c"), BY_HAND)
def test_coefficients_by_hand(name, p, c):
    assert float(coefficient(name, tensor(p))) == pytest.approx(c, rel=1e-3)


@given(st.sampled_from(sorted(CLOSED)), st.lists(st.floats(1e-6, 1 - 1e-6), min_size=1, max_size=5))
def test_coefficients_are_the_closed_forms(name, ps):
    found = coefficient(name, tensor(*ps))
    torch.testing.assert_close(found, tensor(*(CLOSED[name](p) for p in ps)), rtol=1e-9, atol=1e-12)


@given(st.sampled_from(sorted(CLOSED)), st.floats(1e-6, 1 - 1e-6))
def test_nothing_pulls_harder_than_sft_and_nothing_pushes_away(name, p):
    assert 0.0 <= float(coefficient(name, tensor(p))) <= 1.0 + 1e-12


VALUES = {
    "nll": lambda p, old: -math.log(p),
    "dft": lambda p, old: -p * math.log(p),
    "phi": lambda p, old: -p * (1 - p) * math.log(p),
    "luffy": lambda p, old: -p / (p + 0.1),
    "trsft": lambda p, old: -min(1.0, p / 0.1) * math.log(p),
    "rl-plus": lambda p, old: -math.sqrt(1 - p) * 2 * p / (old + 0.5 * (old + 1)),
}


@given(st.sampled_from(sorted(VALUES)), st.floats(1e-6, 1 - 1e-6), st.floats(1e-6, 1.0))
def test_values_and_gradients_with_an_older_policy(name, p, old):
    """The gradient in log p is that of the formula with what s( ) encloses held constant."""
    logp = tensor(math.log(p)).requires_grad_(True)
    loss = IMITATION[name](logp, tensor(math.log(old)))
    assert float(loss.detach()) == pytest.approx(VALUES[name](p, old), rel=1e-9, abs=1e-12)
    (gradient,) = torch.autograd.grad(loss.sum(), logp)
    held = {"nll": 1.0, "dft": p, "phi": p * (1 - p), "trsft": min(1.0, p / 0.1)}
    if name in held:
        assert float(gradient) == pytest.approx(-held[name], rel=1e-9, abs=1e-12)
    elif name == "luffy":
        assert float(gradient) == pytest.approx(-0.1 * p / (p + 0.1) ** 2, rel=1e-9)
    else:  # linear in p at a constant weight: d/dlogp is the value itself
        assert float(gradient) == pytest.approx(VALUES[name](p, old), rel=1e-9)


def test_only_rl_plus_reads_the_older_policy():
    logp, one, other = tensor(-0.5, -2.0), tensor(-0.1, -3.0), tensor(-1.0, -1.0)
    differs = {name for name, loss in IMITATION.items() if not torch.equal(loss(logp, one), loss(logp, other))}
    assert differs == {"rl-plus"}


@pytest.mark.parametrize("name", sorted(IMITATION))
@pytest.mark.parametrize("logp", [1e-7, 0.0, -1e-12, -80.0, -1e4])
def test_certain_and_lost_tokens_give_finite_losses_and_gradients(name, logp):
    at = torch.tensor([logp], requires_grad=True)
    loss = IMITATION[name](at, at.detach())
    (gradient,) = torch.autograd.grad(loss.sum(), at)
    assert torch.isfinite(loss).all() and torch.isfinite(gradient).all()


def test_the_trust_region_lets_go_of_lost_tokens_in_proportion():
    """The other reading, 1 / max(p, 0.1) on grad log p, would pull at them with up to 10: the collapse it prevents."""
    assert float(coefficient("trsft", tensor(1e-3))) == pytest.approx(1e-2)
    assert float(coefficient("trsft", tensor(0.1))) == pytest.approx(1.0)


def test_the_figure_of_the_docs_draws_every_loss_as_it_trains(tmp_path):
    path = Path(__file__).parents[1] / "examples" / "imitation_figure.py"
    spec = importlib.util.spec_from_file_location("imitation_figure", path)
    drawing = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(drawing)
    assert drawing.LOSSES.keys() == IMITATION.keys()
    lost, whole = drawing.draw().axes
    for line, name in zip(whole.lines, drawing.LOSSES, strict=True):
        middle = dict(zip(line.get_xdata().tolist(), line.get_ydata().tolist(), strict=True))[0.5]
        assert middle == pytest.approx(CLOSED[name](0.5), rel=1e-6)
    assert len(lost.lines) == 6 and lost.get_yscale() == "log"
    drawing.main(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"imitation.png", "imitation.svg"}
