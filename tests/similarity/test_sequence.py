"""Ratcliff is difflib's number to the last bit, Indel is not the same, and no pair costs more than its bound."""

import difflib
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from superrl.similarity import blocks, bounded_ratcliff, cost, exact, indel, ratcliff

FOX = ("the quick brown fox jumps over the lazy dog and keeps running " * 5).strip()
VECTORS = [
    ("abcd", "bcde", 0.75, 0.75),
    ("aab", "abab", 0.571429, 0.857143),
    ("tide", "diet", 0.25, 0.5),
    ("diet", "tide", 0.5, 0.5),
    ("ababab", "aaaaab", 0.333333, 0.666667),
    ("", "", 1.0, 1.0),
    ("", "a", 0.0, 0.0),
    (FOX.replace("keeps running", "keeps on running", 1), FOX, 0.995169, 0.995169),
    ("cd /testbed && python setup.py antlr", "cd /testbed && pip install -e .", 0.597015, 0.626866),
]
SENTENCE = "the sum of both sides is even , so one root must be zero and the other seven ."
PROSE = SENTENCE.split()
CODE = [
    "    if x[i] == y:\n",
    "        return f(x, i)\n",
    "for i in range(n):\n",
    "    y += x[i] * 2\n",
    "\n",
    "def f(x):\n",
]
TEXTS = st.text(alphabet="ab \n0é\ud800", max_size=40) | st.text(max_size=40)


@pytest.mark.parametrize(("action", "expert", "ratio", "common"), VECTORS)
def test_vectors(action, expert, ratio, common):
    assert round(ratcliff(action, expert), 6) == round(bounded_ratcliff(action, expert).value, 6) == ratio
    assert round(indel(action, expert), 6) == common


def test_autojunk_makes_nearly_equal_texts_strangers():
    action = FOX.replace("keeps running", "keeps on running", 1)
    assert round(ratcliff(action, FOX, autojunk=True), 6) == 0.173913
    assert bounded_ratcliff(action, FOX, autojunk=True) == (ratcliff(action, FOX, autojunk=True), False)


def random_pair(number):
    """Prose or code, short, or long enough for autojunk, and the same with words changed."""
    rng = random.Random(number)
    words = CODE if number % 2 else PROSE
    size = rng.randrange(200, 230) if number % 4 < 2 and number % 8 < 4 else rng.randrange(80)
    expert = "".join(rng.choice(words) + ("" if number % 2 else " ") for _ in range(size))[:size]
    share = rng.random()
    return "".join(rng.choice(expert) if rng.random() < share else char for char in expert)[rng.randrange(5) :], expert


@pytest.mark.parametrize("autojunk", [False, True])
def test_bit_for_bit_what_difflib_says(autojunk):
    differ, reached = [], 0
    for number in range(2000):
        action, expert = random_pair(number)
        truth = difflib.SequenceMatcher(None, action, expert, autojunk=autojunk).ratio()
        ours = bounded_ratcliff(action, expert, autojunk=autojunk)
        if not truth == ratcliff(action, expert, autojunk=autojunk) == ours.value or ours.bounded:
            differ.append(number)
        reached += len(expert) >= cost.AUTOJUNK_FROM
    assert differ == []
    assert reached == 500


def test_autojunk_changes_the_random_pairs():
    """Or the test above would compare twice the same."""
    pairs = [random_pair(number) for number in range(200)]
    assert sum(ratcliff(*pair) != ratcliff(*pair, autojunk=True) for pair in pairs) > 40


@given(TEXTS, TEXTS, st.booleans())
def test_any_two_texts(action, expert, autojunk):
    truth = difflib.SequenceMatcher(None, action, expert, autojunk=autojunk).ratio()
    assert bounded_ratcliff(action, expert, autojunk=autojunk).value == truth
    assert truth <= indel(action, expert) + 1e-12 <= 1.0 + 1e-12
    assert indel(action, expert) == indel(expert, action)
    assert ratcliff(action, action, autojunk=autojunk) == indel(action, action) == exact(action, action) == 1.0


@given(TEXTS, TEXTS)
def test_blocks_are_difflibs(action, expert):
    truth = difflib.SequenceMatcher(None, action, expert, autojunk=False).get_matching_blocks()[:-1]
    assert blocks(action, expert) == [tuple(block) for block in truth]


def test_exact_forgives_white_space_and_nothing_else():
    assert exact(" x =\n 2 ", "x = 2") == 1.0
    assert exact("x = 2", "x = 3") == exact("x=2", "x = 2") == 0.0


DEGENERATE = {
    "zeros and spaced ones": ("0" * 10_000, "0 " * 5_000),
    "the other way round": ("0 " * 2_000, "0" * 4_000),
    "two letters": ("ab" * 3_000 + "b", "ba" * 3_000 + "a"),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_what_is_too_dear_is_indels_and_soon_over(name):
    action, expert = DEGENERATE[name]
    before = time.process_time()
    found = bounded_ratcliff(action, expert)
    assert time.process_time() - before < 0.5  # unbounded: 4 to 60 s
    assert found == (indel(action, expert), True)
    assert bounded_ratcliff(action, action) == (1.0, False)


def test_the_bound_is_a_count_and_not_a_clock(monkeypatch):
    """The same pair is bounded from exactly one price on."""
    action, expert = "0" * 200, "0 " * 100
    spent = []
    monkeypatch.setattr(cost, "SequenceMatcher", counting(spent))
    assert not bounded_ratcliff(action, expert).bounded
    price = sum(a_to - a_from for a_from, a_to, _, _ in spent) * (100 + cost.CHARACTER) + len(spent) * cost.SEARCH
    monkeypatch.setattr(cost, "BOUND", price)
    assert not bounded_ratcliff(action, expert).bounded
    monkeypatch.setattr(cost, "BOUND", price - 1)
    assert bounded_ratcliff(action, expert) == (indel(action, expert), True)


def counting(spent):
    """difflib's matcher, its searches noted."""

    class Counting(difflib.SequenceMatcher):
        def find_longest_match(self, *where):
            spent.append(where)
            return super().find_longest_match(*where)

    return Counting


def test_ordinary_text_is_never_bounded():
    rng = random.Random(0)
    for words in (PROSE, CODE):
        expert = " ".join(rng.choice(words) for _ in range(4000))[:3000]
        action = "".join(rng.choice(expert) if rng.random() < 0.4 else char for char in expert)
        assert not bounded_ratcliff(action, expert).bounded


def test_blocks_of_a_dear_pair_are_those_found_before_the_bound():
    action, expert = DEGENERATE["the other way round"]
    found = blocks(action, expert)
    assert all(action[i : i + size] == expert[j : j + size] for i, j, size in found)
    assert blocks("same", "same") == [(0, 0, 4)]
    assert blocks("", "") == []


@settings(max_examples=30)
@given(st.text(alphabet="0 ", min_size=300, max_size=2000), st.text(alphabet="0 ", min_size=300, max_size=2000))
def test_the_price_is_never_exceeded(action, expert):
    before = time.process_time()
    assert 0.0 <= bounded_ratcliff(action, expert).value <= 1.0
    assert time.process_time() - before < 0.5
