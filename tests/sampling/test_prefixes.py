"""What prefixes have in common is computed once, in passes whose shapes are what the mode promises."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from superrl.sampling.prefixes import (
    BATCH_TOKENS,
    BLOCK,
    FAST_TOKENS,
    SHORTEST_SHARE,
    SMALLEST_LENGTH,
    Prefixes,
    common,
)
from superrl.sampling.slots import Piece, bucket

Prefix = tuple[int, ...]


class Counting:
    """Writes for every token a hash of all tokens up to it, which it finds only if what is before it is there."""

    def __init__(self, *, deterministic: bool) -> None:
        self.passes: list[tuple[list[Piece], int]] = []
        self.prefixes = Prefixes(self.prefill, {}, deterministic=deterministic)

    def prefill(self, pieces: Sequence[Piece], columns: int) -> None:
        assert sum(piece.width for piece in pieces) <= columns
        self.passes.append((list(pieces), columns))
        one = torch.zeros(1, 1, 1, dtype=torch.int64)
        keys, values = self.prefixes.cache.layer(0, one, one)
        for slot, start, tokens, width in pieces:
            assert start + width <= self.prefixes.cache.capacity
            before = int(keys[slot, 0, start - 1, 0]) if start else 0
            for offset, token in enumerate(tokens):
                before = hash((before, token)) >> 8
                keys[slot, 0, start + offset] = values[slot, 0, start + offset] = before
            keys[slot, 0, start + len(tokens) : start + width] = -1

    def check(self, prefix: Prefix, room: int) -> None:
        before = 0
        keys, values = self.prefixes.cache._layers[0]
        for position, token in enumerate(prefix):
            before = hash((before, token)) >> 8
            assert int(keys[room, 0, position]) == int(values[room, 0, position]) == before, (prefix, position)

    @property
    def computed(self) -> int:
        return sum(len(piece.tokens) for pieces, _ in self.passes for piece in pieces)


def take_all(counting: Counting, wanted: list[Prefix]) -> None:
    counting.prefixes.want(wanted)
    for prefix in wanted:
        counting.check(prefix, counting.prefixes.take(prefix, 1))


stems = st.lists(st.integers(1, 3), min_size=0, max_size=4)


@settings(max_examples=60, deadline=None)
@given(branches=st.lists(st.tuples(stems, st.integers(0, 300)), min_size=1, max_size=12), deterministic=st.booleans())
def test_every_prefix_is_whole_whatever_else_there_is(
    branches: list[tuple[list[int], int]], deterministic: bool
) -> None:
    wanted = [tuple(token for token in stem for _ in range(70)) + (4,) * tail for stem, tail in branches]
    counting = Counting(deterministic=deterministic)
    for _ in range(2):  # what an earlier call left in the rooms is used, or thrown out
        take_all(counting, [prefix for prefix in wanted if prefix])
    assert not counting.prefixes._wanted


def test_a_system_prompt_is_computed_once() -> None:
    system = tuple(range(500))
    wanted = [(*system, 1000 + i, *range(40)) for i in range(9)]
    fast = Counting(deterministic=False)
    take_all(fast, wanted)
    assert fast.computed == 500 + 9 * 41
    assert len(fast.passes[0][0]) == 1 and len(fast.passes[1][0]) > 1, "the first of them alone, then several at once"
    exact = Counting(deterministic=True)
    take_all(exact, wanted)
    whole = 500 // BLOCK * BLOCK
    assert exact.computed == whole + 9 * (541 - whole)


@pytest.mark.parametrize("longest_first", [True, False])
def test_contexts_that_contain_each_other_cost_the_longest(longest_first: bool) -> None:
    contexts = [tuple(range(100 + 60 * step)) for step in range(8)]
    fast = Counting(deterministic=False)
    take_all(fast, contexts[::-1] if longest_first else contexts)
    assert fast.computed == len(contexts[-1])


def test_a_later_call_finds_what_an_earlier_one_computed_until_the_weights_change() -> None:
    counting = Counting(deterministic=True)
    take_all(counting, [(1,) * 20])
    take_all(counting, [(1,) * 20])
    assert len(counting.passes) == 1
    counting.prefixes.forget()
    take_all(counting, [(1,) * 20])
    assert len(counting.passes) == 2


def test_a_shared_prefix_is_kept_for_all_its_completions() -> None:
    counting = Counting(deterministic=False)
    one, other = (1,) * 60, (2,) * 70
    counting.prefixes.want([one, other, one])
    for prefix in (one, other, one):
        counting.check(prefix, counting.prefixes.take(prefix, 1))
    assert counting.computed == 130


@settings(max_examples=60, deadline=None)
@given(
    tails=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 400)), min_size=1, max_size=20).filter(
        lambda tails: all(map(sum, tails))
    )
)
def test_in_deterministic_mode_a_token_s_pass_depends_on_its_own_prefix_alone(tails: list[tuple[int, int]]) -> None:
    """A block starts where it always does and is a pass of its own; a tail's pass has the shape of its length."""
    counting = Counting(deterministic=True)
    take_all(counting, [(7,) * shared + (8,) * own for shared, own in tails])
    for pieces, columns in counting.passes:
        for _, start, tokens, width in pieces:
            assert start % BLOCK == 0
            if len(tokens) == BLOCK:
                assert (len(pieces), width, columns) == (1, BLOCK, BLOCK)
            else:
                assert width == bucket(len(tokens), SMALLEST_LENGTH)
                assert columns == BATCH_TOKENS // width * width


def test_long_prefixes_go_through_in_passes_of_bounded_size() -> None:
    fast = Counting(deterministic=False)
    take_all(fast, [(i,) * (FAST_TOKENS - 100) for i in (1, 2)])
    take_all(fast, [(3,) * (2 * FAST_TOKENS + 5)])
    assert [columns for _, columns in fast.passes] == [FAST_TOKENS - 100] * 2 + [FAST_TOKENS] * 2 + [5]


def test_many_short_prefixes_share_a_pass() -> None:
    fast, exact = Counting(deterministic=False), Counting(deterministic=True)
    wanted = [(i,) * 20 for i in range(30)]
    take_all(fast, wanted)
    take_all(exact, wanted)
    assert [columns for _, columns in fast.passes] == [600]
    assert [columns for _, columns in exact.passes] == [BATCH_TOKENS, BATCH_TOKENS]


@given(st.lists(st.integers(0, 1), max_size=90), st.lists(st.integers(0, 1), max_size=90), st.integers(0, 60))
def test_common_against_a_loop(one: list[int], other: list[int], stem: int) -> None:
    first, second = (5,) * stem + tuple(one), (5,) * stem + tuple(other)
    slow = next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(map(len, (first, second)))
    )
    assert common(first, second) == (slow if slow >= SHORTEST_SHARE else 0)
