"""The prefix forest against padded rows: the same log-probabilities and gradients, every distinct token once."""

from copy import deepcopy

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    MambaConfig,
    MistralConfig,
    OlmoeConfig,
    PhimoeConfig,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
)

from builders import VOCABULARY, flat_gradient, tiny_llama
from superrl.config import LoraConfig
from superrl.learner.forward import token_logprobs
from superrl.learner.probe import check_served, choose_packer
from superrl.models import with_adapters
from superrl.packing import attention, forest, rows
from superrl.packing import pack as packs
from superrl.packing.attention import ATTENTION, visible
from superrl.packing.pack import steady
from superrl.records import Trajectory
from superrl.windows import NO_WINDOW, UNLIMITED, reach

SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
SHAPES = {
    "qwen2.5": Qwen2Config(**SMALL),
    "qwen3": Qwen3Config(**SMALL, head_dim=16),
    "gemma2": Gemma2Config(**SMALL, head_dim=16, sliding_window=7, attn_logit_softcapping=1.5),
    "gemma3": Gemma3TextConfig(**SMALL, head_dim=16, sliding_window=7),
}
EXPERTS = {
    "num_experts": 2,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
FAMILIES = ["llama", *SHAPES]


def build(name):
    torch.manual_seed(0)
    if name == "llama":
        return tiny_llama(max_position_embeddings=4096)
    return AutoModelForCausalLM.from_config(deepcopy(SHAPES[name])).eval()


@pytest.fixture(scope="module")
def pairs():
    """Per family: the model with its own attention, and one with the forest's; the same weights."""
    made = {}
    for name in FAMILIES:
        own, shared = build(name), build(name)
        assert choose_packer(shared) is forest.pack
        made[name] = own, shared
    return made


def sequence(tokens, prompt, temperature=1.0):
    trained = len(tokens) - prompt
    return Trajectory(
        tuple(tokens), (False,) * prompt + (True,) * trained, (0.0,) * len(tokens), "", temperature=temperature
    )


@st.composite
def batches(draw, longest=24):
    """Groups that share a prompt, with demonstrations, duplicates, and completions that share their beginning."""
    token = st.integers(0, VOCABULARY - 1)
    many = []
    for _ in range(draw(st.integers(1, 3))):
        prompt = draw(st.lists(token, min_size=1, max_size=12))
        stem = draw(st.lists(token, max_size=6))
        for _ in range(draw(st.integers(1, 4))):
            begin = stem[: draw(st.integers(0, len(stem)))]
            own = begin + draw(st.lists(token, min_size=1, max_size=longest))
            temperature = draw(st.sampled_from([1.0, 1.0, 0.7]))
            many += [sequence(prompt + own, len(prompt), temperature)] * draw(st.sampled_from([1, 1, 1, 3]))
    return draw(st.permutations(many))


def gradient(model, packer, sequences, budget):
    """Of a sum with a sign and a size of its own for every trained token; and each sequence's log-probabilities."""
    found = {}
    for batch in packer(sequences, budget):
        logp, _ = token_logprobs(model, batch, torch.float32)
        owner = torch.tensor(batch.items)[batch.sequence]
        ((owner % 3 - 0.7) * (1 + batch.position % 7) * logp).sum().backward()
        for row, item in enumerate(batch.items):
            found[item] = logp[batch.sequence == row].detach()
    return flat_gradient(model), torch.cat([found[i] for i in range(len(sequences))])


def assert_same(one, other):
    """To 1e-5 of the gradient's norm."""
    (g, logp), (h, expected) = one, other
    assert float((g - h).norm()) <= 1e-5 * float(h.norm())
    torch.testing.assert_close(logp, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=15, deadline=None)
@given(sequences=batches(), budget=st.sampled_from([10_000, 60, 25, 1]))
def test_gradients_are_those_of_padded_rows_whatever_the_pack_size(name, sequences, budget, pairs):
    own, shared = pairs[name]
    assert_same(gradient(shared, forest.pack, sequences, budget), gradient(own, rows.pack, sequences, 10_000))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_branch_of_one_token_beside_one_of_two_thousand(name, pairs):
    """Several blocks of queries, paths that end inside them, windows far shorter than the branch."""
    own, shared = pairs[name]
    draw = torch.Generator().manual_seed(3)
    tokens = torch.randint(VOCABULARY, (2040,), generator=draw).tolist()
    prompt = tokens[:40]
    batch = [sequence(one, 40) for one in (tokens, [*prompt, 5], [*tokens[:700], 1, 2, 3], [*prompt, 5, 6])]
    assert_same(gradient(shared, forest.pack, batch, 10_000), gradient(own, rows.pack, batch, 10_000))


@pytest.mark.parametrize("name", FAMILIES)
def test_activation_checkpointing_changes_no_bit(name):
    batch = [sequence(range(20), 9), sequence([*range(12), 3, 3, 3], 9)]
    found = []
    for recompute in (False, True):
        model = build(name)
        assert choose_packer(model) is forest.pack
        if recompute:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.train()
        calls = []
        model.model.layers[0].self_attn.q_proj.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        found.append(gradient(model, forest.pack, batch, 100)[0])
        assert len(calls) == 1 + recompute
    assert torch.equal(*found)


def test_adapters_are_trained_over_the_forest():
    batch = [sequence(range(20), 9), sequence([*range(12), 3, 3, 3], 9)]
    found = []
    for layout in (forest.pack, rows.pack):
        model = with_adapters(tiny_llama(), LoraConfig(rank=2))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.01, generator=torch.Generator().manual_seed(1))
        if layout is forest.pack:
            assert choose_packer(model) is forest.pack
        found.append(gradient(model, layout, batch, 100))
    assert len(found[0][0]) == sum(p.numel() for n, p in model.named_parameters() if "lora_" in n)
    assert_same(*found)


@given(sequences=batches(), budget=st.integers(1, 80))
def test_packs_keep_to_the_budget_and_hold_every_trained_token_once(sequences, budget):
    packs = forest.pack(sequences, budget)
    assert sorted(i for one in packs for i in one.items) == list(range(len(sequences)))
    for one in packs:
        contexts = {sequences[i].tokens[:-1] for i in one.items}
        assert one.computed <= budget or len(contexts) == 1
        nodes = {context[: t + 1] for context in contexts for t in range(len(context))}
        assert one.computed == len(nodes)
        found = {item: [] for item in one.items}
        for e, row, t in zip(one.edge.tolist(), one.sequence.tolist(), one.position.tolist(), strict=True):
            item = sequences[one.items[row]]
            source, target = int(one.source[e]), int(one.target[e])
            assert target == item.tokens[t]
            assert int(one.tokens[0, source]) == item.tokens[t - 1] and int(one.forest.depth[source]) == t - 1
            assert float(one.temperature[e]) == pytest.approx(item.temperature)
            found[one.items[row]].append(t)
        for item, positions in found.items():
            assert positions == [t for t, m in enumerate(sequences[item].loss_mask) if m]
        edges = set(zip(one.source.tolist(), one.target.tolist(), one.temperature.tolist(), strict=True))
        assert len(edges) == len(one.source)
    assert sum(one.logical for one in packs) == sum(len(s.tokens) for s in sequences)


@given(sequences=batches())
def test_a_node_sees_its_ancestors_and_itself_in_the_rule_and_in_the_blocks(sequences):
    (one,) = forest.pack(sequences, 10_000)
    size, trie = one.computed, one.forest
    parent = {}
    path = []
    for node, depth in enumerate(trie.depth.tolist()):
        del path[depth:]
        parent[node] = [*path, node]
        path.append(node)
    q, k = torch.arange(size)[:, None], torch.arange(size)[None]
    seen = visible(trie, None)(torch.tensor(0), torch.tensor(0), q, k)
    assert [torch.nonzero(row).flatten().tolist() for row in seen] == [parent[node] for node in range(size)]
    answered = torch.cat([block.query for block in trie.blocks])[trie.place]
    assert answered.tolist() == list(range(size))
    keys = [
        block.key.view(len(block.depth), -1)[row][~mask[row, 0, 0, column]].tolist()
        for block, mask in zip(trie.blocks, trie.masks(3), strict=True)
        for row in range(len(block.depth))
        for column in range(block.depth.shape[1])
    ]
    assert [keys[place] for place in trie.place.tolist()] == [parent[node][-3:] for node in range(size)]


@pytest.mark.parametrize("name", ["llama", "gemma2", "gemma3"])
def test_flex_attention_s_rule_gives_the_branches_results(name):
    """What a CUDA device computes, evaluated here without compiling: both windows, both soft caps."""
    (one,) = forest.pack([sequence(range(20), 9), sequence([*range(12), 3, 3, 3], 9), sequence([7, 8, 9], 1)], 1000)
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, heads, one.computed, 16, generator=draw) for heads in (4, 2, 2))
    window, cap = {"llama": (None, None), "gemma2": (5, 1.5), "gemma3": (5, None)}[name]
    expected = attention._by_branch(q, k, v, one.forest, 0.3, window, cap)
    torch.testing.assert_close(attention._flex(q, k, v, one.forest, 0.3, window, cap), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("name", FAMILIES)
def test_the_gpu_agrees_with_the_cpu(name, pairs):
    _, shared = pairs[name]
    batch = [sequence(range(20), 9), sequence([*range(12), 3, 3, 3], 9)]
    (one,) = forest.pack(batch, 1000)
    here, _ = token_logprobs(shared, one, torch.float32)
    there, _ = token_logprobs(build_on_gpu(name), one.to(torch.device("cuda")), torch.float32)
    torch.testing.assert_close(there.cpu(), here, rtol=1e-4, atol=1e-4)


def build_on_gpu(name):
    model = build(name).cuda()
    assert choose_packer(model) is forest.pack
    return model


@pytest.mark.parametrize(("window", "cap"), [(None, None), (5, None), (None, 1.5), (3, 2.0)])
def test_output_and_gradient_are_those_of_dense_attention(window, cap):
    """Large scores, so that soft cap, window and softmax all matter; heads that share keys; values of another size."""
    (one,) = forest.pack([sequence(range(20), 9), sequence([*range(12), 3, 3, 3], 9), sequence([7, 8, 9], 1)], 1000)
    draw = torch.Generator().manual_seed(0)
    shapes = ((4, 16), (2, 16), (2, 8))
    q, k, v = (torch.randn(1, h, one.computed, d, generator=draw).requires_grad_() for h, d in shapes)
    weight = torch.randn(1, one.computed, 4, 8, generator=draw)
    out = attention._by_branch(q, k, v, one.forest, 0.7, window, cap)
    found = torch.autograd.grad((out * weight).sum(), (q, k, v))
    dense = [x.detach().double().requires_grad_() for x in (q, k, v)]
    keys, values = (x.repeat_interleave(2, 1) for x in dense[1:])
    scores = 0.7 * dense[0] @ keys.transpose(-1, -2)
    scores = scores if cap is None else torch.tanh(scores / cap) * cap
    i = torch.arange(one.computed)
    seen = visible(one.forest, window)(i, i, i[:, None], i[None])
    expected = (scores.masked_fill(~seen, -torch.inf).softmax(-1) @ values).transpose(1, 2)
    torch.testing.assert_close(out, expected.float(), rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(found, torch.autograd.grad((expected * weight).sum(), dense), strict=True):
        torch.testing.assert_close(ours, theirs.float(), rtol=1e-4, atol=1e-5)


def test_nodes_that_stand_for_nothing_see_nothing_and_change_nothing(pairs, monkeypatch):
    batch = [sequence(range(20), 9), sequence([*range(12), 3, 3, 3], 9), sequence([7, 8, 9], 1)]
    (one,) = forest.pack(batch, 1000)
    assert one.arguments["input_ids"].shape[1] == steady(one.computed) > one.computed
    model = pairs["llama"][1]
    weights = list(model.parameters())
    logp, _ = token_logprobs(model, one, torch.float32)
    gradient = torch.autograd.grad(logp.sum(), weights)
    monkeypatch.setattr(packs, "steady", lambda rows: rows)
    assert one.arguments["input_ids"].shape[1] == one.computed
    plain, _ = token_logprobs(model, one, torch.float32)
    torch.testing.assert_close(logp, plain, rtol=1e-6, atol=1e-6)
    for ours, expected in zip(gradient, torch.autograd.grad(plain.sum(), weights), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    q, k, v = (torch.randn(1, 2, one.computed + 3, 8, generator=torch.Generator().manual_seed(i)) for i in range(3))
    out = attention._by_branch(q, k, v, one.forest, 1.0, None, None)
    assert out[0, one.computed :].abs().sum() == 0
    whole = attention._by_branch(*(x[:, :, : one.computed] for x in (q, k, v)), one.forest, 1.0, None, None)
    torch.testing.assert_close(out[:, : one.computed], whole, rtol=0, atol=0)


@given(st.integers(1, 1 << 20))
def test_steady_lengths_are_few_and_little_longer(rows):
    found = steady(rows)
    assert rows <= found <= rows + max(8, rows // 16)
    assert steady(found) == found
    octave = {steady(n) for n in range(2048, 4096)}
    assert len(octave) <= 17


def test_in_bfloat16_the_forest_is_no_noisier_than_padded_rows(pairs):
    batch = [sequence([*range(20), 3], 9), sequence([*range(12), 3, 3, 3], 9), sequence([7, 8, 9], 1)]
    exact, _ = gradient(pairs["llama"][0], rows.pack, batch, 1000)
    gaps = []
    for model, layout in zip(pairs["llama"], (rows.pack, forest.pack), strict=True):
        for one in layout(batch, 1000):
            logp, _ = token_logprobs(model, one, torch.bfloat16)
            owner = torch.tensor(one.items)[one.sequence]
            ((owner % 3 - 0.7) * (1 + one.position % 7) * logp).sum().backward()
        gaps.append(float((flat_gradient(model) - exact).norm() / exact.norm()))
    assert 0 < gaps[1] < 1.5 * gaps[0] < 0.1


def test_long_branches_are_cut_so_that_scores_stay_bounded(monkeypatch):
    batch = [sequence(range(20), 9), sequence([*range(12), 3, 3, 3], 9)]
    (whole,) = forest.pack(batch, 1000)
    monkeypatch.setattr(attention, "SCORES", 40)
    (cut,) = forest.pack(batch, 1000)
    assert all(block.depth.numel() * block.length <= 40 for block in cut.forest.blocks)
    assert len(cut.forest.blocks) > len(whole.forest.blocks)
    q, k, v = (torch.randn(1, 2, cut.computed, 8, generator=torch.Generator().manual_seed(i)) for i in range(3))
    one, other = (attention._by_branch(q, k, v, p.forest, 1.0, None, None) for p in (cut, whole))
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_models_a_forest_cannot_serve_keep_one_sequence_a_row():
    mamba = AutoModelForCausalLM.from_config(
        MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, state_size=4)
    ).eval()
    assert choose_packer(mamba) is rows.pack
    scaled = tiny_llama(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0})
    assert choose_packer(scaled) is rows.pack
    assert scaled.config._attn_implementation == "sdpa"


def test_a_model_that_attends_differently_over_the_forest_is_found_out(monkeypatch):
    monkeypatch.setattr(
        attention.Block, "hidden", lambda block, window: torch.zeros(1, 1, 1, 1, block.length, dtype=torch.bool)
    )
    model = tiny_llama()
    assert choose_packer(model) is rows.pack
    assert model.config._attn_implementation != ATTENTION


def test_a_tree_over_budget_is_cut_where_least_is_repeated():
    near = [(1, 2, 3, 4, t) for t in range(3)]
    far = [(1, 9, 9, 9, t) for t in range(3)]
    assert forest.split([*near, *far], 7) == [(0, 3), (3, 6)]
    assert forest.split([*near, *far], 13) == [(0, 6)]
    assert forest.split([*near, *far], 6) == [(0, 2), (2, 3), (3, 5), (5, 6)]


@given(batches())
def test_equal_and_longer_sequences_cost_nothing_twice(sequences):
    assume(len(sequences) > 1)
    (once,) = forest.pack(sequences, 10_000)
    (twice,) = forest.pack([*sequences, *sequences], 10_000)
    assert twice.computed == once.computed and len(twice.source) == len(once.source)
    assert len(twice.edge) == 2 * len(once.edge)


@pytest.mark.parametrize(
    ("config", "layout"),
    [
        (
            Qwen2MoeConfig(
                **SMALL, **EXPERTS, use_sliding_window=True, sliding_window=30, layer_types=["sliding_attention"] * 2
            ),
            rows,
        ),
        (PhimoeConfig(**SMALL, num_local_experts=2, sliding_window=30), rows),
        (OlmoeConfig(**SMALL, num_experts=2, num_experts_per_tok=1), forest),
        (MistralConfig(**SMALL, sliding_window=30), forest),
    ],
)
def test_a_window_longer_than_any_probe_that_the_model_keeps_to_itself_is_found(config, layout):
    model = AutoModelForCausalLM.from_config(config).eval()
    before = model.config._attn_implementation
    assert choose_packer(model) is layout.pack
    assert model.config._attn_implementation == (ATTENTION if layout is forest else before)


def test_how_far_a_rule_reaches():
    assert reach(lambda b, h, q, k: k <= q) == UNLIMITED
    assert reach(lambda b, h, q, k: (k <= q) & (q - k < 30)) == 30
    assert reach(lambda b, h, q, k: (k <= q) & (q // 64 == k // 64)) == NO_WINDOW


def test_a_model_serves_one_learner_at_a_time():
    """The second takes the model over, also one that knows no fused attention; the first is told, not misled."""
    model = build("gemma2")
    batch = [sequence(range(20), 9)]
    for _ in range(2):
        check_served(model)
        assert choose_packer(model) is forest.pack
    check_served(model)
    with pytest.raises(AssertionError, match="another learner"):
        token_logprobs(model, forest.pack(batch, 100)[0], torch.float32)
    choose_packer(model)
    with pytest.raises(TypeError, match="prefix forest"):
        model(torch.tensor([[1, 2, 3]]))
