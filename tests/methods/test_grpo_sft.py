"""GRPO's and SFT's plans by hand, and the identities between the methods."""

import pytest

from builders import group
from superrl.errors import UserError
from superrl.methods import build
from superrl.methods.hooks import Limits

LIMITS = Limits(group_size=4, max_new_tokens=10)


def test_grpo_by_hand():
    (update,) = (
        build({"name": "grpo", "std": "population", "eps": 0.0}, LIMITS)
        .plan([group([1, 0, 0, 1], lengths=[2, 4, 5, 1])], {})
        .updates
    )
    assert [s.advantage[-1] for s in update.samples] == [1.0, -1.0, -1.0, 1.0]
    assert [s.weight for s in update.samples] == [0.5, 0.25, 0.2, 1.0]
    assert update.denominators == {"pg": (4.0,)}


@pytest.mark.parametrize(
    ("reduction", "weights", "share"),
    [("token", [1.0, 1.0], 7.0), ("constant", [0.1, 0.1], 2.0), ("prompt", [1 / 4, 1 / 10], 1.0)],
)
def test_grpo_reductions(reduction, weights, share):
    (update,) = (
        build({"name": "grpo", "reduction": reduction}, LIMITS).plan([group([1, 0], lengths=[2, 5])], {}).updates
    )
    assert [s.weight for s in update.samples] == pytest.approx(weights)
    assert update.denominators == {"pg": (share,)}


def test_dead_groups_are_dropped_but_counted():
    plan = build({"name": "grpo"}, LIMITS).plan([group([0] * 4, name="a"), group([1, 0, 0, 0], name="b")], {})
    assert {s.group for s in plan.updates[0].samples} == {1}
    assert plan.updates[0].denominators == {"pg": (4.0, 4.0)}
    assert [d.kind for d in plan.decisions] == ["none", "pg"]
    assert "0 of 4 correct" in plan.decisions[0].why


def test_sft_plans_only_demonstrations():
    (update,) = (
        build({"name": "sft", "reduction": "token", "demonstration": "all"}, LIMITS)
        .plan([group([], experts=[5, 3], name="a"), group([], experts=[2], name="b")], {})
        .updates
    )
    assert [s.stream for s in update.samples] == ["sft"] * 3
    assert update.denominators == {"sft": (8.0, 2.0)}


def normalised(plan):
    """Every sample's tokens with what multiplies its token loss."""
    (update,) = plan.updates
    return {(s.stream, s.tokens): (s.advantage, s.weight / sum(update.denominators[s.stream])) for s in update.samples}


def test_a_fallback_only_batch_is_sft():
    batch = [group([0] * 4, experts=[5, 2], name="a"), group([0] * 4, experts=[3], name="b")]
    mixed = build({"name": "superrl", "demonstration": "all"}, LIMITS).plan(batch, {})
    sft = build({"name": "sft", "reduction": "prompt", "demonstration": "all"}, LIMITS).plan(batch, {})
    assert normalised(mixed).keys() == normalised(sft).keys()
    for key, (advantage, weight) in normalised(sft).items():
        assert normalised(mixed)[key] == (advantage, pytest.approx(weight, rel=1e-12))


def test_a_fallback_free_batch_is_grpo():
    batch = [group([1, 0, 0, 1], lengths=[1, 2, 3, 4], name="a"), group([0, 1, 0, 0], lengths=[4, 4, 2, 2], name="b")]
    mixed, grpo = (build({"name": name}, LIMITS).plan(batch, {}) for name in ("superrl", "grpo"))
    for key, (advantage, weight) in normalised(grpo).items():
        assert normalised(mixed)[key][0] == advantage
        assert normalised(mixed)[key][1] == pytest.approx(weight, rel=1e-12)
    assert normalised(mixed).keys() == normalised(grpo).keys()


def test_dropping_without_fallback_is_grpo():
    batch = [group([0] * 4, name="a"), group([0, 1, 0, 0], name="b")]
    drop = build({"name": "superrl", "fallback": "none"}, LIMITS).plan(batch, {})
    grpo = build({"name": "grpo"}, LIMITS).plan(batch, {})
    assert {k: v[1] for k, v in normalised(drop).items()} == pytest.approx(
        {k: v[1] for k, v in normalised(grpo).items()}, rel=1e-12
    )


@pytest.mark.parametrize("name", ["grpo", "superrl"])
def test_a_group_of_one_has_no_baseline(name):
    with pytest.raises(UserError, match="group_size must be at least 2"):
        build({"name": name}, Limits(1, 10))
