"""SRL: GRPO on step rewards, what a refused rollout is, and the stop where nothing would ever train."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import group
from superrl.config import RefillConfig
from superrl.errors import UserError
from superrl.methods import build
from superrl.methods.hooks import Limits
from superrl.methods.validity import added
from superrl.records import Score
from superrl.rollout import refill

LIMITS = Limits(group_size=8, max_new_tokens=16)
values = st.lists(st.one_of(st.none(), st.floats(0.0, 1.0)), min_size=2, max_size=8)
"""Similarities; None: refused by the gate."""


def step_group(*similarities):
    """A group of rollouts with these similarities; None is a refusal, -1."""
    drawn = group([0.0] * len(similarities))
    scored = [replace(t, score=step_score(s)) for t, s in zip(drawn.trajectories, similarities, strict=True)]
    return replace(drawn, trajectories=tuple(scored))


def step_score(similarity):
    refused = similarity is None
    reasons = {"format/no_think": float(refused), "format/cut": 0.0}
    return Score(-1.0 if refused else similarity, None, {"format": float(not refused), **reasons})


def srl(**options):
    return build({"name": "srl", **options}, LIMITS)


def advantages(method, one):
    (credits,) = method.credits([one])
    return credits


def test_one_refusal_lifts_the_worst_of_the_others_and_seven_the_eighth():
    """The figures of the note on the paper: +0.25 and +2.65 hold for valid rollouts that are alike."""
    method = srl(std="population", eps=0.0)
    lifted = advantages(method, step_group(None, *[0.4] * 7))
    assert lifted[1:] == pytest.approx([1 / 7**0.5] * 7) and lifted[0] == pytest.approx(-(7**0.5))
    assert advantages(method, step_group(0.4, *[None] * 7))[0] == pytest.approx(2.6458, abs=1e-4)


def test_as_published_it_is_grpo_on_the_rewards():
    groups = [step_group(0.1, 0.9, None, 0.5), step_group(None, None), step_group(0.3, 0.3)]
    grpo = build({"name": "grpo"}, LIMITS)
    ours, theirs = srl().plan(groups, {"looked": True}), grpo.plan(groups, {})
    assert ours.updates == theirs.updates and ours.decisions == theirs.decisions
    assert ours.metrics.keys() == {"deviation", "deviation_valid"}


@given(values)
def test_masked_the_refused_have_no_say_and_no_credit(similarities):
    method, kept = srl(format="mask"), [s for s in similarities if s is not None]
    found = advantages(method, step_group(*similarities))
    assert [c for c, s in zip(found, similarities, strict=True) if s is None] == [0.0] * (len(found) - len(kept))
    if kept:
        alone = advantages(srl(), step_group(*kept))
        assert [c for c, s in zip(found, similarities, strict=True) if s is not None] == alone


@given(values)
def test_decoupled_is_similarity_among_the_valid_plus_format_among_all(similarities):
    found = advantages(srl(format="decoupled"), step_group(*similarities))
    masked = advantages(srl(format="mask"), step_group(*similarities))
    by_format = advantages(build({"name": "grpo"}, LIMITS), step_group(*[float(s is not None) for s in similarities]))
    assert found == pytest.approx([a + b for a, b in zip(masked, by_format, strict=True)])


@given(values)
def test_decoupled_no_refusal_is_ever_better_than_a_valid_rollout(similarities):
    found = advantages(srl(format="decoupled"), step_group(*similarities))
    refused = [c for c, s in zip(found, similarities, strict=True) if s is None]
    best = [c for c, s in zip(found, similarities, strict=True) if s is not None]
    if refused and best:
        assert max(refused) < max(best)


def test_the_denominator_counts_the_masked():
    groups = [step_group(0.1, 0.9, None, 0.6)]
    (masked,) = srl(format="mask").plan(groups, {"looked": True}).updates
    (whole,) = srl().plan(groups, {"looked": True}).updates
    assert masked.denominators == whole.denominators and len(masked.samples) == len(whole.samples) - 1


def test_the_two_deviations_by_hand():
    plan = srl().plan([step_group(None, 0.5, 0.5), step_group(0.0, 1.0)], {"looked": True})
    assert plan.metrics["deviation"] == pytest.approx((2**0.5 / 2 + 0.5) / 2)
    assert plan.metrics["deviation_valid"] == pytest.approx(0.25)


def test_a_first_batch_that_hardly_passes_the_gate_stops_the_run_in_a_sentence():
    failing, fine = [step_group(*[None] * 8)] * 3, [step_group(*[None] * 7, 0.5)]
    method = srl()
    with pytest.raises(
        UserError, match=r"only 0 of the first 24 rollouts pass the format gate \(no_think 24\).*think=prefilled"
    ):
        method.check_drawn(failing, method.initial_state())
    method.check_drawn(fine, method.initial_state())
    srl(least_format=0.0).check_drawn(failing, {"looked": False})
    method.check_drawn(failing, method.after_step(None, [], method.initial_state()))


@pytest.mark.parametrize(
    "mixing", [{"kl": {"in": "reward"}}, {"kl": {"in": "loss"}}, {"entropy_bonus": 0.1}, {"overlong": "soft"}]
)
def test_refusals_kept_apart_are_not_mixed_in_again(mixing):
    srl(**mixing)
    with pytest.raises(
        UserError, match=r"format: mask keeps refused rollouts apart, which (kl or entropy_bonus|overlong) would"
    ):
        srl(format="mask", **mixing)


@pytest.mark.parametrize(("keep", "expected"), [("deviation", 2), ("valid-deviation", 1)])
def test_dynamic_sampling_by_all_rewards_or_by_the_valid(keep, expected):
    groups = [step_group(None, 0.5, 0.5), step_group(0.0, 1.0), step_group(0.5, 0.51)]
    found = refill(lambda count, attempt: groups[:count], 3, RefillConfig(epsilon=0.02, cap=1), keep)
    assert len(found.groups) == expected


def test_credits_add_whether_they_are_numbers_or_one_a_token():
    assert added(1.0, 2.0) == 3.0
    assert added((1.0, 0.0), 2.0) == added(2.0, (1.0, 0.0)) == (3.0, 2.0)
    assert added((1.0, 0.0), (0.5, 0.5)) == (1.5, 0.5)
