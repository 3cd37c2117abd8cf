"""RFT: its truth table, the formula, and that a batch of successes is SFT on them."""

from dataclasses import replace

import pytest
from prefixed import agree, method, streams

from builders import group


@pytest.mark.parametrize(
    ("visit", "kind", "kept"),
    [
        (group([0, 0, 0, 0]), "none", 0),
        (group([0, 1, 0, 0]), "pg", 1),
        (group([1, 1, 1, 1]), "pg", 4),
        (group([-1, 1, -1, -1]), "pg", 1),
        (group([0.9, 0.4, 0, 0], correct=[False, True, False, False]), "pg", 1),
        (group([0.9, 0.4, 0.1, 0], correct=[False] * 4), "none", 0),
        (group([0] * 4, experts=[5]), "none", 0),
    ],
)
def test_truth_table(visit, kind, kept):
    plan = method("rft").plan([visit], {})
    assert (plan.decisions[0].kind, streams(plan).get("pg", 0)) == (kind, kept)
    assert plan.updates[0].denominators == {"pg": (4.0,)}


def repeated():
    one = group([1, 1, 1, 0], lengths=[2, 2, 3, 1], name="r")
    return replace(one, trajectories=(one.trajectories[0], one.trajectories[0], *one.trajectories[2:]))


@pytest.mark.parametrize(("distinct", "kept"), [(True, 2), (False, 3)])
def test_of_equal_rollouts_one_is_learnt_from(distinct, kept):
    plan = method("rft", distinct=distinct).plan([repeated()], {})
    assert streams(plan) == {"pg": kept}
    assert plan.decisions[0].why == "3 of 4 correct" + (", 2 of them distinct" if distinct else "")


@pytest.mark.parametrize(("reduction", "count"), [("sequence", 12), ("token", 28), ("prompt", 3), ("constant", 12)])
def test_the_loss_is_the_published_one(reduction, count):
    groups = [
        group([1, 0, 0, 1], lengths=[1, 2, 5, 3], name="a"),
        group([0] * 4, lengths=[3, 2, 1, 2], name="b"),
        group([1] * 4, lengths=[1, 2, 3, 3], name="c"),
    ]

    def formula(read):
        total = 0.0
        for one in groups:
            for t in (t for t in one.trajectories if t.score.value == 1):
                span = {"sequence": t.length, "token": 1, "prompt": 4 * t.length, "constant": 10}[reduction]
                total = total - read(t).logp.sum() / span
        return total / count

    rft = method("rft", reduction=reduction)
    agree(rft, rft.plan(groups, {}), formula)
