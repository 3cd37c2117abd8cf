"""Padded rows: nothing is cut, nothing is lost, and the edges point where they should."""

from hypothesis import given
from hypothesis import strategies as st

from builders import sample
from superrl.packing.rows import pack

lengths = st.lists(st.integers(2, 40), min_size=1, max_size=12)


@given(lengths, st.integers(1, 120), st.randoms(use_true_random=False))
def test_every_trained_token_stands_in_exactly_one_pack(lengths, budget, rng):
    samples = [sample(n, rng.randint(1, n - 1), seed=i) for i, n in enumerate(lengths)]
    packs = pack(samples, budget)
    assert sorted(i for p in packs for i in p.items) == list(range(len(samples)))
    for p in packs:
        assert p.tokens.numel() <= budget or len(p.items) == 1
        edges = zip(p.sequence.tolist(), p.position.tolist(), p.source.tolist(), p.target.tolist(), strict=True)
        found = {item: [] for item in p.items}
        for row, position, source, target in edges:
            item = p.items[row]
            assert target == samples[item].tokens[position]
            assert p.tokens.flatten()[source] == samples[item].tokens[position - 1]
            found[item].append(position)
        for item, positions in found.items():
            assert positions == [t for t, trained in enumerate(samples[item].loss_mask) if trained]
    assert sum(p.logical for p in packs) == sum(lengths)


def test_nothing_packs_to_nothing():
    assert pack([], 10) == []
