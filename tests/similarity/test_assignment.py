"""Best matchings against every matching there is."""

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from superrl.similarity.assignment import aligned, assigned

FITS = st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9, 1.0]) | st.floats(0.0, 1.0)
TABLES = st.tuples(st.integers(1, 4), st.integers(1, 5)).flatmap(
    lambda size: st.lists(st.lists(FITS, min_size=size[1], max_size=size[1]), min_size=size[0], max_size=size[0])
)


def every_matching(table):
    """All one-to-one matchings of the shorter list into the longer, as lists of (i, j)."""
    rows, columns = len(table), len(table[0])
    if rows <= columns:
        return [list(enumerate(chosen)) for chosen in itertools.permutations(range(columns), rows)]
    return [[(i, j) for j, i in enumerate(chosen)] for chosen in itertools.permutations(range(rows), columns)]


def total(table, pairs):
    return math.fsum(table[i][j] for i, j in pairs)


@given(TABLES)
def test_assigned_is_the_best_of_all_matchings(table):
    assert math.isclose(assigned(table), max(total(table, pairs) for pairs in every_matching(table)), abs_tol=1e-12)


@given(TABLES)
def test_aligned_is_the_best_of_those_in_order(table):
    rows, columns = range(len(table)), range(len(table[0]))
    best = max(
        total(table, zip(mine, theirs, strict=True))
        for size in range(min(len(rows), len(columns)) + 1)
        for mine in itertools.combinations(rows, size)
        for theirs in itertools.combinations(columns, size)
    )
    assert math.isclose(aligned(table), best, abs_tol=1e-12)


def test_nothing_matches_nothing():
    assert assigned([]) == assigned([[], []]) == aligned([]) == aligned([[], []]) == 0.0
