"""What the ranks of a run tell each other: results in order, failures everywhere, sums in flat buckets."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ranks import in_world, on_ranks
from superrl import parallel
from superrl.errors import Elsewhere, Interrupted, Lost, RunError, UserError
from superrl.parallel import ALONE, World, buckets, dealt, invitation


@given(st.lists(st.integers(0, 50), max_size=30), st.integers(1, 5))
def test_items_are_dealt_once_and_evenly(costs, parts):
    hands = dealt(costs, parts)
    assert sorted(i for hand in hands for i in hand) == list(range(len(costs)))
    sums = [sum(costs[i] for i in hand) for hand in hands]
    assert max(sums) - min(sums) <= max(costs, default=0)


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 20))
def test_buckets_hold_everything_in_order_and_not_too_much(sizes, most):
    found = buckets(sizes, most)
    assert [i for bucket in found for i in bucket] == list(range(len(sizes)))
    assert all(len(bucket) == 1 or sum(sizes[i] for i in bucket) <= most for bucket in found)


def test_alone_nothing_is_exchanged():
    assert ALONE.alone and ALONE.aside is ALONE
    assert ALONE.each(lambda: 3) == [3] and ALONE.first(lambda: 4) == 4 and ALONE.together(lambda: 5) == 5
    assert ALONE.spread("abc", [], lambda items: [one.upper() for one in items]) == ["A", "B", "C"]
    tensor = torch.ones(2)
    ALONE.sum_([tensor])
    assert tensor.tolist() == [1.0, 1.0]
    with pytest.raises(UserError, match="as it is"):
        ALONE.each(lambda: _raise(UserError("as it is")))


def _raise(error):
    raise error


def talk(world: World):
    parallel.BUCKET = 5
    tensors = [torch.full((3,), float(world.rank)), torch.ones(2, 2), torch.arange(3.0) * world.rank]
    world.sum_(tensors)
    return {
        "each": world.each(lambda: world.rank * 10),
        "aside": world.aside.each(lambda: -world.rank),
        "first": world.first(lambda: f"of {world.rank}"),
        "together": world.together(lambda: world.rank),
        "spread": world.spread([5, 6, 7, 8], [[2, 0], [1], [3]], lambda items: [i + world.rank / 10 for i in items]),
        "sums": [one.tolist() for one in tensors],
    }


def test_ranks_exchange_what_they_have():
    found = on_ranks(3, in_world, talk)
    for rank, one in enumerate(found):
        assert one == {
            "each": [0, 10, 20],
            "aside": [0, -1, -2],
            "first": "of 0",
            "together": rank,
            "spread": [5.0, 6.1, 7.0, 8.2],
            "sums": [[3.0] * 3, [[3.0] * 2] * 2, [0.0, 3.0, 6.0]],
        }


def failing(world: World, by):
    """Rank 1 fails in the middle of work; the others are about to exchange something else."""
    if world.rank == 1:
        world.each(lambda: _raise(by))
    world.same("x", "nothing")


@pytest.mark.parametrize(
    ("error", "first", "own", "third"),
    [
        (UserError("mend it"), UserError("mend it"), Elsewhere, Elsewhere),
        (RunError("no disk"), RunError("process 1 of 3: no disk"), Elsewhere, Elsewhere),
        (KeyError("k"), RunError("process 1 of 3: unexpected KeyError: 'k'"), KeyError, Elsewhere),
        (Interrupted(signal.SIGTERM), Interrupted(signal.SIGTERM), Interrupted, Interrupted),
    ],
)
def test_what_one_raises_all_raise_and_the_first_says_it(error, first, own, third):
    found = on_ranks(3, in_world, failing, error)
    assert (found[0].kind, found[0].text) == (type(first), str(first))
    assert [one.kind for one in found[1:]] == [own, third]
    assert found[2].status == found[0].status, "all leave with one exit status"


def known_twice(world: World):
    """An error that all know is not told again: the exchange after it is a new one."""
    try:
        world.each(lambda: _raise(RunError("once")) if world.rank else None)
    except (RunError, Elsewhere) as error:
        world.know(error)
    return world.each(lambda: world.rank)


def test_after_a_failure_that_all_know_they_still_meet():
    assert on_ranks(2, in_world, known_twice) == [[0, 1], [0, 1]]


def differing(world: World):
    world.same("equal", "this")
    world.same(f"rank {world.rank // 2}", "the weather")


def test_ranks_that_disagree_stop():
    found = on_ranks(3, in_world, differing)
    assert all(one.kind is RunError and "agree on the weather (process 2" in one.text for one in found)


def hanging(by):
    with parallel.opened("cpu", 3.0) as world:
        world.each(lambda: 0)
        if world.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL) if by == "death" else time.sleep(12)
        world.each(lambda: 0)


@pytest.mark.parametrize("by", ["death", "sleep"])
def test_a_rank_that_is_lost_ends_the_others_in_a_sentence(by):
    started = time.monotonic()
    found = on_ranks(2, hanging, by)
    assert found[0].kind is Lost and "parallel.timeout" in found[0].text and "\n" not in found[0].text
    assert time.monotonic() - started < 40


def test_an_attempt_agrees_on_a_name_although_the_store_knows_an_earlier_one():
    """Threads for ranks: in the first attempt all met, in the second one rank came twice, in the third all meet."""
    store = torch.distributed.HashStore()

    def attempt(ranks, size=3, seconds=5.0):
        with ThreadPoolExecutor(len(ranks)) as threads:
            return [f.result() for f in [threads.submit(invitation, store, r, size, seconds) for r in ranks]]

    first = attempt([0, 1, 2])
    with pytest.raises(RuntimeError, match="not all of 3"):
        attempt([0, 1], seconds=0.3)
    third = attempt([2, 1, 0])
    assert len(set(first)) == len(set(third)) == 1 and first[0] != third[0]


def lost_on_one_line():
    with parallel.opened("cpu", 3.0) as world:
        world.each(lambda: 0)
        if world.rank == 1:
            time.sleep(9)
            return None
        started = time.monotonic()
        try:
            world.aside.each(lambda: 0)
        except Lost as error:
            world.know(error)
        return time.monotonic() - started, world.over


def test_who_is_lost_on_one_line_is_not_waited_for_on_the_other():
    (seconds, over), _ = on_ranks(2, lost_on_one_line)
    assert over and 2.5 < seconds < 5.5


def one_device():
    with parallel.opened("cuda:0", 3.0):
        pass


def test_one_device_is_no_device_for_two():
    assert all(one.kind is UserError and "model.device" in one.text for one in on_ranks(2, one_device))
