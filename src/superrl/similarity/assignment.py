"""The best matching of two lists, given how well every pair fits: in any order (`assigned`), or in order (`aligned`).

Both give the total of the fits that are matched; fits are >= 0, and what is left over counts nothing. Small tables,
plain Python: scipy is an extra.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Table = Sequence[Sequence[float]]
"""`table[i][j]`: how well item i of the one list fits item j of the other."""


def assigned(table: Table) -> float:
    """The largest total over all one-to-one matchings (Hungarian method, shortest augmenting paths).

    >>> assigned([[0.9, 0.8], [0.8, 0.1]])
    1.6
    """
    if not table or not table[0]:
        return 0.0
    if len(table) > len(table[0]):
        table = list(zip(*table, strict=True))
    rows, columns = len(table), len(table[0])
    row_price, column_price = [0.0] * (rows + 1), [0.0] * (columns + 1)
    owner = [0] * (columns + 1)  # the row that has column j, both from 1; 0 is nobody
    for row in range(1, rows + 1):
        owner[0], column = row, 0
        slack, came_from, used = [math.inf] * (columns + 1), [0] * (columns + 1), [False] * (columns + 1)
        while owner[column]:
            used[column] = True
            here, step, following = owner[column], math.inf, 0
            for j in range(1, columns + 1):
                if used[j]:
                    continue
                cost = -table[here - 1][j - 1] - row_price[here] - column_price[j]
                if cost < slack[j]:
                    slack[j], came_from[j] = cost, column
                if slack[j] < step:
                    step, following = slack[j], j
            for j in range(columns + 1):
                if used[j]:
                    row_price[owner[j]] += step
                    column_price[j] -= step
                else:
                    slack[j] -= step
            column = following
        while column:
            owner[column], column = owner[came_from[column]], came_from[column]
    return math.fsum(table[owner[j] - 1][j - 1] for j in range(1, columns + 1) if owner[j])


def aligned(table: Table) -> float:
    """The largest total over the matchings that keep the order of both lists.

    >>> aligned([[0.0, 1.0], [1.0, 0.0]])
    1.0
    """
    if not table:
        return 0.0
    above = [0.0] * (len(table[0]) + 1)
    for fits in table:
        row = [0.0]
        for j, fit in enumerate(fits):
            row.append(max(above[j + 1], row[j], above[j] + fit))
        above = row
    return above[-1]
