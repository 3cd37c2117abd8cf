"""The prefix forest against padded rows: the same log-probabilities and gradients, every distinct token once."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma3TextConfig, MambaConfig, Qwen2Config, Qwen3Config

from builders import VOCABULARY, flat_gradient, tiny_llama
from superrl.config import LoraConfig
from superrl.learner.forward import token_logprobs
from superrl.learner.serving import choose_packer
from superrl.models import _with_adapters
from superrl.packing import attention, forest, rows
from superrl.packing.attention import ATTENTION, visible
from superrl.records import Trajectory

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
    "qwen3": Qwen3Config(**SMALL, head_dim=8),
    "gemma2": Gemma2Config(**SMALL, head_dim=8, sliding_window=7, attn_logit_softcapping=1.5),
    "gemma3": Gemma3TextConfig(**SMALL, head_dim=8, sliding_window=7),
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
        found.append(gradient(model, forest.pack, batch, 100)[0])
    assert torch.equal(*found)


def test_adapters_are_trained_over_the_forest():
    batch = [sequence(range(20), 9), sequence([*range(12), 3, 3, 3], 9)]
    found = []
    for layout in (forest.pack, rows.pack):
        model = _with_adapters(tiny_llama(), LoraConfig(rank=2))
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
        block.key.view(len(block.depth), -1)[row][mask[row, 0, 0, column] == 0].tolist()
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
    fresh = replace(one.forest, cache={})
    torch.testing.assert_close(attention._flex(q, k, v, fresh, 0.3, window, cap), expected, rtol=1e-5, atol=1e-6)


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


def test_models_a_forest_cannot_serve_keep_one_sequence_a_row():
    mamba = AutoModelForCausalLM.from_config(
        MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, state_size=4)
    ).eval()
    assert choose_packer(mamba) is rows.pack
    long = tiny_llama(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0})
    assert choose_packer(long) is rows.pack
    assert long.config._attn_implementation == "sdpa"


def test_a_model_that_attends_differently_over_the_forest_is_found_out(monkeypatch):
    monkeypatch.setattr(attention.Block, "mask", lambda block, window: torch.zeros(1, 1, 1, 1, block.length))
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
