"""The order of problems: every epoch visits all of them, and it does not matter in which portions they are taken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superrl.data.order import take

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
