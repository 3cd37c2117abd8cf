"""Products by oneDNN against torch's own, forward and backward, in every layout that training meets."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from builders import flat_gradient, sample, tiny_llama
from superrl.learner import forward, linear
from superrl.packing.rows import pack

needs_onednn = pytest.mark.skipif(not linear.available(), reason="this torch has no oneDNN")


@pytest.fixture(autouse=True)
def nothing_is_small(monkeypatch):
    monkeypatch.setattr(linear, "SMALL", 0)


@pytest.mark.parametrize(("n", "k", "m"), [(1, 1, 1), (3, 7, 5), (130, 65, 33), (400, 128, 512)])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_product_is_torch_s_own_to_rounding(n, k, m, transposed):
    draw = torch.Generator().manual_seed(n)
    x, w = torch.randn(n, k, generator=draw), torch.randn(m, k, generator=draw)
    if transposed:
        x, w = x.t().contiguous().t(), w.t().contiguous().t()
    exact = (x.double() @ w.double().t()).float()
    found = linear.product(x, w)
    assert float((found - exact).norm()) <= 1e-6 * float(exact.norm())
    assert torch.equal(found, linear.product(x, w))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(6,), (2, 5), (2, 3, 4)])
def test_values_and_gradients_are_those_of_nn_linear(bias, shape):
    torch.manual_seed(0)
    own = nn.Linear(16, 24, bias=bias)
    fast = nn.Sequential(deepcopy(own))
    linear.by_onednn(fast)
    assert type(fast[0]) is linear.Linear
    found = []
    for layer in (own, fast[0]):
        x = torch.randn(*shape, 16, generator=torch.Generator().manual_seed(1), requires_grad=True)
        y = layer(x)
        (y * torch.arange(24.0)).sum().backward()
        found.append([y.detach(), x.grad, *(p.grad for p in layer.parameters())])
    for a, b in zip(*found, strict=True):
        assert a.shape == b.shape and float((a - b).norm()) <= 1e-6 * float(b.norm())


@needs_onednn
def test_it_is_onednn_that_is_asked(monkeypatch):
    """Wherever it may be: float32 on a CPU, above the size that pays; bfloat16 and small products stay torch's own."""
    asked = []
    monkeypatch.setattr(linear, "product", lambda x, w, own=linear.product: asked.append(x.dtype) or own(x, w))
    layer = linear.Linear(8, 8)
    layer(torch.randn(4, 8)).sum().backward()
    assert asked == [torch.float32] * 2  # nobody asks for the input's gradient
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(torch.randn(4, 8)).dtype == torch.bfloat16
    assert len(asked) == 2


@pytest.mark.parametrize("recompute", [False, True])
def test_a_model_s_gradient_is_the_same_to_rounding(recompute):
    (batch,) = pack([sample(30, 25, seed=i) for i in range(3)], 1000)
    found = []
    for fast in (False, True):
        model = tiny_llama()
        if fast:
            linear.by_onednn(model)
            assert forward.one_matrix(model) is model.lm_head
        if recompute:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.train()
        forward.token_logprobs(model, batch, torch.float32)[0].sum().backward()
        found.append(flat_gradient(model))
    assert float((found[0] - found[1]).norm()) <= 1e-5 * float(found[0].norm())


@needs_onednn
def test_activation_checkpointing_changes_no_bit():
    (batch,) = pack([sample(30, 25, seed=i) for i in range(3)], 1000)
    found = []
    for recompute in (False, True):
        model = tiny_llama()
        linear.by_onednn(model)
        if recompute:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.train()
        forward.token_logprobs(model, batch, torch.float32)[0].sum().backward()
        found.append(flat_gradient(model))
    assert torch.equal(*found)
