"""The fused head against the slow path: logits, log-softmax, gather, by autograd."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from builders import flat_gradient, sample, tiny_llama
from superrl.learner import forward, head
from superrl.packing.rows import pack


def slow(rows, weight, bias, target, divisor, dtype):
    """[E] and [E]: log-probabilities and entropies by their definition."""
    logits = torch.nn.functional.linear(rows.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))
    table = (logits.float() / divisor[:, None]).log_softmax(-1)
    return table.gather(1, target[:, None])[:, 0], -(table.exp() * table).sum(-1)


def problem(seed, rows, vocabulary, width, biased, hot):
    draw = torch.Generator().manual_seed(seed)
    made = [torch.randn(shape, generator=draw) * 2 for shape in ((rows, width), (vocabulary, width), (vocabulary,))]
    target = torch.randint(vocabulary, (rows,), generator=draw)
    divisor = torch.rand(rows, generator=draw) + 0.5 if hot else torch.ones(rows)
    leaves = [one.requires_grad_() for one in (made if biased else made[:2])]
    return leaves, target, divisor, torch.randn(2, rows, generator=draw)


def results(score, leaves, target, divisor, upstream, with_entropy, dtype):
    """(logp, entropy) and the gradients of their sum with signs and sizes of its own."""
    rows, weight, bias = (*leaves, None)[:3]
    logp, entropy = score(rows, weight, bias, target, divisor, dtype)
    total = (upstream[0] * logp).sum() + ((upstream[1] * entropy).sum() if with_entropy else 0.0)
    gradients = torch.autograd.grad(total, leaves)
    return [logp.detach(), *([entropy.detach()] if with_entropy else []), *gradients]


def drawn(leaves, divisor, seed):
    """[E]: targets by their probability."""
    rows, weight, *bias = (one.detach() for one in leaves)
    table = (rows @ weight.T + (bias[0] if bias else 0.0)) / divisor[:, None]
    return torch.multinomial(table.softmax(-1), 1, generator=torch.Generator().manual_seed(seed))[:, 0]


def close(one, other, tolerance):
    for a, b in zip(one, other, strict=True):
        assert a.dtype == b.dtype == torch.float32
        assert float((a - b).norm()) <= tolerance * float(b.norm())


@given(
    seed=st.integers(0, 99), rows=st.integers(1, 40), vocabulary=st.integers(2, 60), chunk=st.integers(1, 800),
    piece=st.integers(1, 400), held=st.sampled_from([0, 1000, 3000, 2**29]), biased=st.booleans(), hot=st.booleans(),
    with_entropy=st.booleans(),
)  # fmt: skip
def test_values_and_gradients_are_those_of_the_definition(
    seed, rows, vocabulary, chunk, piece, held, biased, hot, with_entropy
):
    made = problem(seed, rows, vocabulary, 8, biased, hot)

    def fused(*arguments):
        return head.score(*arguments, with_entropy=with_entropy, held=held)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head, "CHUNK_LOGITS", chunk)
        patch.setattr(head, "PIECE_LOGITS", piece)
        found = results(fused, *made, with_entropy, torch.float32)
    # entropies of few tokens may be almost 0, where only the absolute error says something
    expected = results(slow, *made, with_entropy, torch.float32)
    for a, b in zip(found, expected, strict=True):
        assert float((a - b).norm()) <= 1e-5 * float(b.norm()) + 1e-5


def test_the_gradient_is_that_of_finite_differences():
    leaves, target, divisor, upstream = problem(3, 5, 7, 4, True, True)
    double = [leaf.detach().double().requires_grad_() for leaf in leaves]

    def total(rows, weight, bias):
        table = ((rows @ weight.T + bias) / divisor[:, None]).log_softmax(-1)
        return (upstream[0] * table[range(5), target]).sum() - (upstream[1][:, None] * table.exp() * table).sum()

    step = 1e-5
    found = results(
        lambda *a: head.score(*a, with_entropy=True), leaves, target, divisor, upstream, True, torch.float32
    )
    for position, gradient in enumerate(found[2:]):
        direction = torch.randn_like(double[position])
        ahead, behind = list(double), list(double)
        ahead[position] = double[position] + step * direction
        behind[position] = double[position] - step * direction
        numeric = float((total(*ahead) - total(*behind)).detach() / (2 * step))
        assert float((gradient * direction).sum()) == pytest.approx(numeric, rel=1e-4, abs=1e-4)


def test_what_is_kept_changes_no_bit(monkeypatch):
    monkeypatch.setattr(head, "CHUNK_LOGITS", 200)
    made = problem(1, 40, 50, 8, True, True)
    found = [
        results(lambda *a, held=held: head.score(*a, held=held), *made, False, torch.float32)
        for held in (0, 2000, 2**29)
    ]
    assert all(torch.equal(a, b) for one in found[1:] for a, b in zip(one, found[0], strict=True))


@pytest.mark.parametrize("biased", [False, True])
def test_bfloat16_is_as_close_to_float32_as_the_slow_path(biased, monkeypatch):
    monkeypatch.setattr(head, "CHUNK_LOGITS", 300 * 25)
    leaves, _, divisor, upstream = problem(2, 60, 300, 32, biased, True)
    made = leaves, drawn(leaves, divisor, 2), divisor, upstream
    exact = results(slow, *made, False, torch.float32)
    rough = results(slow, *made, False, torch.bfloat16)
    found = results(head.score, *made, False, torch.bfloat16)
    for one, other, true in zip(found, rough, exact, strict=True):
        assert one.dtype == torch.float32
        assert 0 < float((one - true).norm()) <= 1.1 * float((other - true).norm())


@pytest.mark.parametrize("held", [0, 2**29])
def test_large_logits_are_not_rounded_where_they_matter(held, monkeypatch):
    """Logits around 24, of which bfloat16 keeps steps of 0.125: the log-probabilities of tokens that are drawn, their
    entropies and gradients are far closer to the truth than a product that is rounded as it is."""
    monkeypatch.setattr(head, "CHUNK_LOGITS", 300 * 50)
    draw = torch.Generator().manual_seed(0)
    rows, weight = torch.randn(200, 64, generator=draw), torch.randn(300, 64, generator=draw) / 4
    rows[:, 0], weight[:, 0] = 24.0, 1.0
    leaves = [one.bfloat16().float().requires_grad_() for one in (rows, weight)]
    divisor = torch.ones(200)
    made = leaves, drawn(leaves, divisor, 0), divisor, torch.randn(2, 200, generator=draw)
    exact = results(slow, *made, True, torch.float32)
    rough = results(slow, *made, True, torch.bfloat16)
    found = results(lambda *a: head.score(*a, with_entropy=True, held=held), *made, True, torch.bfloat16)
    for i, (one, other, true) in enumerate(zip(found, rough, exact, strict=True)):
        share = 0.2 if i < 2 else 0.8  # products of the gradients are rounded as ever
        assert 0 < float((one - true).abs().mean()) < share * float((other - true).abs().mean())


@pytest.mark.parametrize("held", [0, 2**29])
def test_an_unlikely_target_costs_the_likely_tokens_no_precision(held):
    """All logits but the target's are about 20 above it: its own log-probability is rounded little either way, entropy
    and gradients are those of the tokens far above it."""
    draw = torch.Generator().manual_seed(0)
    rows, weight = torch.randn(64, 32, generator=draw), torch.randn(50, 32, generator=draw) / 4
    rows[:, 0], weight[:, 0], weight[7, 0] = 20.0, 1.0, 0.0
    leaves = [one.bfloat16().float().requires_grad_() for one in (rows, weight)]
    target, divisor = torch.full((64,), 7), torch.ones(64)
    made = leaves, target, divisor, torch.stack([torch.zeros(64), torch.ones(64)])
    exact = results(slow, *made, True, torch.float32)
    rough = results(slow, *made, True, torch.bfloat16)
    found = results(lambda *a: head.score(*a, with_entropy=True, held=held), *made, True, torch.bfloat16)
    assert float((found[0] - exact[0]).abs().max()) < 0.1
    for one, other, true in list(zip(found, rough, exact, strict=True))[1:]:
        assert 0 < float((one - true).abs().mean()) < 0.5 * float((other - true).abs().mean())


@given(seed=st.integers(0, 99), offset=st.sampled_from([-50.0, 0.0, 20.0]), biased=st.booleans())
def test_no_log_probability_is_wrong_by_more_than_its_hundredth(seed, offset, biased):
    """Also of tokens that nobody would draw, from logits that are all far from 0."""
    leaves, target, divisor, _ = problem(seed, 20, 60, 8, biased, True)
    made = [one.detach().bfloat16().float() for one in leaves]
    made[0][:, 0], made[1][:, 0] = offset, 1.0
    rows, weight, bias = (*made, None)[:3]
    exact, _ = slow(rows, weight, bias, target, divisor, torch.float32)
    found, _ = head.score(rows, weight, bias, target, divisor, torch.bfloat16)
    assert bool(((found - exact).abs() <= 0.01 * exact.abs() + 0.01).all())


def test_a_frozen_head_gets_no_gradient_and_the_rows_still_do():
    (rows, weight), target, divisor, _ = problem(4, 6, 9, 4, False, False)
    weight.requires_grad_(False)
    head.score(rows, weight, None, target, divisor, torch.float32)[0].sum().backward()
    assert weight.grad is None and float(rows.grad.norm()) > 0


def test_memory_kept_is_bounded(monkeypatch):
    """A pack's logits are [96, 5000] in float32: 1.92 MB. Half of that may be kept."""
    made = problem(1, 96, 5000, 4, False, False)
    monkeypatch.setattr(head, "CHUNK_LOGITS", 5000 * 8)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one.numel()) or one, lambda one: one):
        head.score(made[0][0], made[0][1], None, made[1], made[2], torch.float32, held=960_000)
    assert sum(n for n in kept if n == 8 * 5000) == 48 * 5000
    with torch.no_grad():
        kept.clear()
        head.score(made[0][0], made[0][1], None, made[1], made[2], torch.float32)
    assert not kept


def test_a_capped_or_watched_head_takes_the_slow_path_with_the_same_result():
    model = tiny_llama()
    (batch,) = pack([sample(30, 25, seed=i) for i in range(3)], 1000)
    assert forward.one_matrix(model) is forward.head(model)

    def gradient():
        logp, entropy = forward.token_logprobs(model, batch, torch.float32, with_entropy=True)
        (logp.sum() + 0.1 * entropy.sum()).backward()
        return logp.detach(), entropy.detach(), flat_gradient(model)

    fast = gradient()
    seen = []
    hook = forward.head(model).register_forward_hook(lambda *_: seen.append(1))
    assert forward.one_matrix(model) is None
    close(gradient(), fast, 1e-5)
    assert seen
    hook.remove()
    model.config.final_logit_softcapping = 5.0
    assert forward.one_matrix(model) is None
    assert float((gradient()[0] - fast[0]).abs().max()) > 1e-4


def test_a_second_backward_pass_is_refused():
    """The first has written over the logits."""
    made, target, divisor, _ = problem(0, 5, 20, 8, False, False)
    logp, _ = head.score(*made, None, target, divisor, torch.float32)
    logp.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="inplace operation"):
        logp.sum().backward()
