"""The order of problems: every epoch visits all of them, and it does not matter in which portions they are taken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superrl.data.order import _permutation, take, take_whole

sizes = st.integers(1, 30)
numbers = st.integers(0, 5)


@given(n=sizes, epoch=numbers, seed=numbers, stage=numbers)
def test_every_epoch_visits_every_item_once(n, epoch, seed, stage):
    assert sorted(take(n, epoch * n, n, seed=seed, stage=stage)) == list(range(n))


@given(n=sizes, start=st.integers(0, 70), first=st.integers(0, 70), second=st.integers(0, 70), seed=numbers)
def test_portions_do_not_matter(n, start, first, second, seed):
    whole = take(n, start, first + second, seed=seed, stage=0)
    assert whole == take(n, start, first, seed=seed, stage=0) + take(n, start + first, second, seed=seed, stage=0)


def test_epochs_seeds_and_stages_shuffle_anew():
    orders = [
        take(20, 0, 20, seed=0, stage=0),
        take(20, 20, 20, seed=0, stage=0),
        take(20, 0, 20, seed=1, stage=0),
        take(20, 0, 20, seed=0, stage=1),
    ]
    assert len({tuple(order) for order in orders}) == 4


def test_the_order_is_the_same_on_every_machine():
    assert take(7, 0, 9, seed=0, stage=0) == [1, 3, 6, 0, 5, 4, 2, 2, 6]


@pytest.mark.parametrize("arguments", [(0, 0, 1), (3, -1, 1), (3, 0, -1)])
def test_what_makes_no_sense_is_refused(arguments):
    with pytest.raises(ValueError, match="cannot take"):
        take(*arguments, seed=0, stage=0)


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6), count=st.integers(0, 9), seed=st.integers(0, 3))
def test_whole_blocks_come_in_shuffled_epochs_and_are_never_split(sizes, count, seed):
    blocks = [f"t{i}" for i, size in enumerate(sizes) for _ in range(size)]
    places = {f"t{i}": [j for j, b in enumerate(blocks) if b == f"t{i}"] for i in range(len(sizes))}
    taken: list[int] = []
    while len(taken) < 3 * len(blocks):
        batch = take_whole(blocks, len(taken), count, seed=seed, stage=0)
        assert batch and (len(batch) <= count or batch == places[blocks[batch[0]]])
        left = batch
        while left:  # whole blocks, their items in order
            whole = places[blocks[left[0]]]
            assert left[: len(whole)] == whole
            left = left[len(whole) :]
        taken += batch
    for epoch in range(3):
        assert sorted(taken[epoch * len(blocks) : (epoch + 1) * len(blocks)]) == list(range(len(blocks)))


def test_whole_blocks_by_hand():
    blocks = ["a", "a", "b", "c", "c"]
    assert take_whole(blocks, 0, 5, seed=0, stage=0) == [
        i for b in _permutation(3, 0, 0, 0) for i in ([0, 1], [2], [3, 4])[b]
    ]
    assert len(take_whole(blocks, 0, 1, seed=0, stage=0)) in (1, 2)
    inside = 1 if _permutation(3, 0, 0, 0)[0] != 1 else 2
    with pytest.raises(ValueError, match="inside a block"):
        take_whole(blocks, inside, 2, seed=0, stage=0)
    with pytest.raises(ValueError, match="stand together"):
        take_whole(["a", "b", "a"], 0, 2, seed=0, stage=0)
