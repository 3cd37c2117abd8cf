"""Edit distances against their definition, and what is said of demonstrations that were known and not known before."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superrl.comparison.likeness import edit_distance, memorised, nearest, over_seeds, similarity
from superrl.comparison.results import Likeness, Run

TEXT = st.text(alphabet="ab#\n", max_size=14)


def slowly(a, b):
    """The whole table of distances, as the textbooks fill it."""
    above = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        row = [i]
        for j, y in enumerate(b, start=1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
        above = row
    return above[-1]


@given(TEXT, TEXT)
def test_edit_distance_is_the_textbook_s(a, b):
    assert edit_distance(a, b) == slowly(a, b)


def test_edit_distance_of_more_than_a_machine_word_and_of_things_that_are_no_letters():
    a, b = "abc" * 60, "abd" * 59 + "xx"
    assert edit_distance(a, b) == slowly(a, b) == 62
    assert edit_distance([1, None, (2,)], [1, (2,)]) == 1


@given(TEXT, TEXT)
def test_similarity_is_symmetric_and_1_for_equals_alone(a, b):
    assert similarity(a, b) == similarity(b, a)
    assert 0.0 <= similarity(a, b) <= 1.0 and (similarity(a, b) == 1.0) == (a == b)


def test_similarity_by_hand():
    assert similarity("2-5=7\n#7", "2-5=6\n#6") == 0.75 and similarity("", "abc") == 0.0
    assert nearest("abcd", ["xxxx", "abxx", "abxd"]) == 0.75


def looked(trained, held_out=None, similarity=0.5):
    found = {"trained": Likeness(8, trained, 0.5, 4, similarity)}
    return found | ({} if held_out is None else {"held_out": Likeness(8, held_out, 0.25, 2, None)})


def run(likeness, seed=1):
    return Run("s", "arm", seed, (), {}, {}, (), None, None, likeness)


def test_what_is_memorised_is_what_the_base_does_not_know_better_already():
    assert memorised(looked(0.5, 0.9), {}) == pytest.approx(0.4)
    assert memorised(looked(0.5, 0.9), looked(1.8, 1.9)) == pytest.approx(0.3)
    assert memorised(looked(0.5), looked(1.8, 1.9)) is None
    assert memorised(looked(0.5, 0.9), looked(1.8)) == pytest.approx(0.4)


def test_numbers_over_seeds_by_hand():
    runs = [run(looked(0.4, 0.9)), run(looked(0.6, 0.9, similarity=None), 2), run({}, 3)]
    found = over_seeds(runs, looked(1.8, 1.9))
    nll = found["trained"]["nll"]
    assert nll["mean"] == pytest.approx(0.5) and nll["n"] == 2 and nll["lo"] == 0.0  # and no less
    assert nll["hi"] == pytest.approx(0.5 + 12.7062047 * 0.1)
    assert found["trained"]["similarity"] == {"mean": 0.5, "n": 1, "sd": None, "lo": None, "hi": None, "p": None}
    assert found["held_out"]["similarity"] is None and found["held_out"]["correct"]["mean"] == 0.25
    assert found["gap"]["mean"] == pytest.approx(0.3) and not math.isnan(found["gap"]["lo"])


def test_runs_that_nobody_looked_at_have_nothing():
    assert over_seeds([run({})], looked(1.8, 1.9)) is None
    assert over_seeds([run(looked(0.5))], {})["held_out"] == {"nll": None, "similarity": None, "correct": None}
