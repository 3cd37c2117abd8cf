"""The switch: its truth table, its denominator, and that no gradient comes from where none may."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import group, trajectory
from superrl.errors import UserError
from superrl.methods import build
from superrl.methods.gates import likely_all_fail
from superrl.methods.hooks import Limits
from superrl.records import StepRecord

LIMITS = Limits(group_size=4, max_new_tokens=10)


def superrl(**options):
    return build({"name": "superrl", **options}, LIMITS)


def kinds(plan):
    return [decision.kind for decision in plan.decisions]


def streams(plan):
    return [sample.stream for update in plan.updates for sample in update.samples]


TABLE = [
    ("all fail, a demonstration", group([0, 0, 0, 0], experts=[5]), "sft", {"sft": 1}),
    ("one right", group([0, 1, 0, 0], experts=[5]), "pg", {"pg": 4}),
    ("all right: nothing to compare", group([1, 1, 1, 1], experts=[5]), "none", {}),
    ("all fail, no demonstration", group([0, 0, 0, 0]), "none", {}),
    ("rewards in {-1, 1}, all fail", group([-1, -1, -1, -1], experts=[5]), "sft", {"sft": 1}),
    ("rewards in {-1, 1}, one right", group([-1, 1, -1, -1], experts=[5]), "pg", {"pg": 4}),
    ("shaping rewards on failures", group([0.2, 0.1, 0.3, 0.2], correct=[False] * 4, experts=[5]), "sft", {"sft": 1}),
    ("shaping, no demonstration", group([0.2, 0.1, 0.3, 0.2], correct=[False] * 4), "none", {}),
    ("right but lower than a failure", group([0.4, 0.9, 0, 0], correct=[True, False, False, False]), "pg", {"pg": 4}),
    ("one rollout has the mean reward", group([1, 0.5, 0, 0.5], correct=[True, False, False, False]), "pg", {"pg": 2}),
]


@pytest.mark.parametrize(("case", "visit", "kind", "counts"), TABLE, ids=[row[0] for row in TABLE])
def test_truth_table(case, visit, kind, counts):
    plan = superrl().plan([visit], {})
    assert kinds(plan) == [kind]
    assert {s: streams(plan).count(s) for s in set(streams(plan))} == counts


def test_the_denominator_counts_every_group_whatever_is_left_of_it():
    batch = [group([0] * 4, experts=[5], name="a"), group([1, 0, 0, 0], name="b"), group([0] * 4, name="c")]
    (update,) = superrl().plan(batch, {}).updates
    assert update.denominators == {"pg": (1.0, 1.0, 1.0), "sft": (1.0, 1.0, 1.0)}


def test_one_fallback_weighs_exactly_one_in_n():
    batch = [group([0] * 4, experts=[5], name="a"), *(group([1, 0, 0, 0], name=f"b{i}") for i in range(31))]
    (update,) = superrl().plan(batch, {}).updates
    (expert,) = [s for s in update.samples if s.stream == "sft"]
    assert expert.weight * sum(expert.loss_mask) / sum(update.denominators["sft"]) == pytest.approx(1 / 32, rel=1e-12)


@pytest.mark.parametrize(("inner", "weight"), [("mean", 1 / 5), ("sum", 1.0), ("constant", 1 / 10)])
def test_inner(inner, weight):
    (update,) = superrl(inner=inner).plan([group([0] * 4, experts=[5])], {}).updates
    assert [s.weight for s in update.samples] == [pytest.approx(weight)]


def test_several_demonstrations_are_averaged():
    (update,) = superrl(demonstration="all").plan([group([0] * 4, experts=[5, 2])], {}).updates
    assert [s.weight for s in update.samples] == [pytest.approx(1 / 10), pytest.approx(1 / 4)]


def test_choices_of_demonstration():
    visit = group([0] * 4, experts=[5, 2, 7], key=(0, 0, 0, 3, 0, 1))
    chosen = {c: superrl(demonstration=c).plan([visit], {}).decisions[0].demonstration for c in ("first", "shortest")}
    assert chosen == {"first": 0, "shortest": 1}
    draws = [
        superrl().plan([group([0] * 4, experts=[5, 2, 7], key=(0, 0, 0, step, 0, 0))], {}).decisions[0].demonstration
        for step in range(40)
    ]
    assert set(draws) == {0, 1, 2}
    assert superrl().plan([visit], {}) == superrl().plan([visit], {})


def test_likeliest_reads_the_learner_s_log_probabilities():
    from dataclasses import replace

    method = superrl(demonstration="likeliest")
    assert method.needs == {"demo_logp"}
    visit = group([0] * 4, experts=[2, 4])
    noted = [
        replace(d, annotations={"demo_logp": (0.0,) * 4 + (value,) * d.length})
        for d, value in zip(visit.demonstrations, (-0.9, -0.5), strict=True)
    ]
    plan = method.plan([replace(visit, demonstrations=tuple(noted))], {})
    assert plan.decisions[0].demonstration == 1  # -0.5 a token, though -2.0 in sum against -1.8


def test_keep_trains_the_failed_rollouts_too():
    visit = group([0.2, 0.1, 0.3, 0.2], correct=[False] * 4, experts=[5])
    plan = superrl(failed_rollouts="keep").plan([visit], {})
    assert kinds(plan) == ["both"] and sorted(set(streams(plan))) == ["pg", "sft"]


def test_no_fallback_is_the_filter_only_control():
    plan = superrl(fallback="none").plan([group([0] * 4, experts=[5])], {})
    assert kinds(plan) == ["none"] and streams(plan) == []


OFF = [
    ("all fail, a demonstration", group([0, 0, 0, 0], experts=[5]), "sft", ["sft"], "learns from demonstration 0"),
    ("all fail, no demonstration", group([0, 0, 0, 0]), "none", [], "no demonstration, nothing is learnt"),
    ("one right", group([0, 1, 0, 0], experts=[5]), "none", [], "1 of 4 correct; the policy gradient is off"),
    ("all right", group([1, 1, 1, 1]), "none", [], "4 of 4 correct; the policy gradient is off"),
]


@pytest.mark.parametrize(("case", "visit", "kind", "trained", "why"), OFF, ids=[row[0] for row in OFF])
def test_with_the_policy_gradient_off_only_demonstrations_teach(case, visit, kind, trained, why):
    plan = superrl(policy_gradient=False).plan([visit], {})
    assert kinds(plan) == [kind] and streams(plan) == trained and why in plan.decisions[0].why


def test_with_the_policy_gradient_off_n_still_counts_every_group():
    batch = [group([0] * 4, experts=[5], name="a"), *(group([1, 0, 0, 0], name=f"b{i}") for i in range(3))]
    (update,), (whole,) = (superrl(policy_gradient=on).plan(batch, {}).updates for on in (False, True))
    assert update.denominators == whole.denominators == {"pg": (1.0,) * 4, "sft": (1.0,) * 4}
    assert update.samples == tuple(s for s in whole.samples if s.stream == "sft") != ()


@pytest.mark.parametrize(
    ("option", "said"), [({"failed_rollouts": "keep"}, "so leave that on"), ({"fallback": "none"}, "nothing to learn")]
)
def test_what_needs_the_policy_gradient_is_refused_without_it(option, said):
    with pytest.raises(UserError, match=said):
        superrl(policy_gradient=False, **option)


def test_the_same_problem_twice_is_decided_twice():
    plan = superrl().plan([group([0] * 4, experts=[5]), group([1, 0, 0, 0], experts=[5])], {})
    assert kinds(plan) == ["sft", "pg"]


def test_a_reward_that_does_not_judge_is_refused():
    with pytest.raises(UserError, match="correct_at"):
        superrl().plan([group([0.5, 0.1], correct=[None, None])], {})


def test_separate_state_makes_two_updates_with_the_same_denominator():
    batch = [group([0] * 4, experts=[5], name="a"), group([1, 0, 0, 0], name="b")]
    method = superrl(sft={"separate_state": True, "lr_scale": 10.0, "weight": 0.5})
    rollouts, experts = method.plan(batch, {}).updates
    assert (rollouts.optimizer, experts.optimizer, experts.lr_scale) == ("main", "sft", 10.0)
    assert experts.stream_weights == {"sft": 0.5}
    assert rollouts.denominators["pg"] == experts.denominators["sft"] == (1.0, 1.0)


def test_a_scale_in_a_shared_state_is_refused():
    with pytest.raises(UserError, match="separate_state"):
        superrl(sft={"lr_scale": 10.0})


def test_history_gate_remembers_past_visits():
    method = superrl(gate="history")
    failing = group([0] * 4, experts=[5])
    before = method.plan([failing], {})
    solved_before = {"visits": {"p": [30, 32]}, "memory": {}}
    after = method.plan([failing], solved_before)
    assert (kinds(before), kinds(after)) == (["sft"], ["none"])
    state = method.after_step(StepRecord(1, {}, before.decisions), [group([1, 0, 0, 1])], solved_before)
    assert state == {"visits": {"p": [32, 36]}, "memory": {}}


RIGHT = group([1, 1, 1, 1], experts=[5])
SHAPED = group([0.2, 0.1, 0.3, 0.2], correct=[False] * 4, experts=[5])


@pytest.mark.parametrize(
    ("options", "visit", "kind"),
    [
        ({"gate": "rate", "gamma": 0.25}, group([1, 0, 0, 0], experts=[5]), "sft"),
        ({"gate": "rate", "gamma": 0.25}, group([1, 1, 0, 0], experts=[5]), "pg"),
        ({"gate": "rate"}, group([1, 0, 0, 0], experts=[5]), "pg"),
        ({"gate": "advantage"}, group([0] * 4, experts=[5]), "sft"),
        ({"gate": "advantage"}, group([1, 0, 0, 0], experts=[5]), "pg"),
        ({"gate": "advantage"}, RIGHT, "sft"),
        ({"gate": "advantage", "exclude_solved": True}, RIGHT, "none"),
        ({"gate": "advantage"}, SHAPED, "pg"),
        ({"gate": "reward"}, SHAPED, "sft"),
    ],
)
def test_the_other_gates(options, visit, kind):
    """The advantage gate closes on solved groups too, and shaping that tells failures apart opens it."""
    method = superrl(**options)
    assert kinds(method.plan([visit], method.initial_state())) == [kind]


@given(rewards=st.lists(st.sampled_from([0, 1]), min_size=4, max_size=4))
def test_rate_with_gamma_0_is_the_reward_gate(rewards):
    visit = group(rewards, experts=[5])
    assert superrl(gate="rate").plan([visit], {}) == superrl().plan([visit], {})


@pytest.mark.parametrize("options", [{"gate": "reward", "gamma": 0.5}, {"gate": "rate", "exclude_solved": True}])
def test_an_option_of_another_gate_is_refused(options):
    with pytest.raises(UserError, match="is read by gate: "):
        superrl(**options)


@pytest.mark.parametrize("fallback", ["distill", "hint", "zvp"])
def test_a_fallback_for_failures_wants_the_gate_that_says_so(fallback):
    with pytest.raises(UserError, match="the advantage gate closes on others too"):
        superrl(fallback=fallback, gate="advantage", demonstration="first")
    with pytest.raises(UserError, match="the yoked gate closes"):
        build({"name": "yoked", "counts": [1], "fallback": fallback}, LIMITS)


@pytest.mark.parametrize("policy", [{"baseline": "none", "std": "none"}, {"baseline": "critic", "std": "batch"}])
def test_a_hint_s_rollouts_are_compared_with_each_other_or_refused(policy):
    with pytest.raises(UserError, match="fallback: hint compares"):
        superrl(fallback="hint", policy=policy)


def helped(visit, *, reward=1.0):
    """The group with one more rollout that continued two of the expert's tokens."""
    one = replace(trajectory(4, 3, reward, reward == 1.0, seed=9), prefix=2)
    return replace(visit, trajectories=(*visit.trajectories, one))


def test_a_success_with_the_expert_s_help_opens_no_gate_and_moves_no_baseline():
    visit, alone = group([0] * 4, experts=[5]), group([1, 0, 0, 0], experts=[5])
    assert kinds(superrl().plan([helped(visit)], {})) == ["sft"]
    assert superrl().plan([helped(alone)], {}).updates == superrl().plan([alone], {}).updates


def test_with_a_batch_baseline_failed_rollouts_are_kept_unless_dropped():
    batch = [group([0] * 4, experts=[5]), group([1, 0, 0, 0], name="b")]
    options = {"baseline": "batch", "std": "none"}
    assert kinds(superrl(policy=options).plan(batch, {})) == ["both", "pg"]
    dropped = superrl(policy=options, failed_rollouts="drop").plan(batch, {})
    assert kinds(dropped) == ["sft", "pg"]
    kept = [s for s in dropped.updates[0].samples if s.stream == "pg"]
    assert [s.advantage[-1] for s in kept] == [0.75, -0.25, -0.25, -0.25]  # the baseline is that of the rows trained


def test_likely_all_fail_against_numerical_integration():
    import numpy as np

    p = (np.arange(200_000) + 0.5) / 200_000
    for correct, total, draws in [(0, 8, 8), (1, 8, 8), (5, 40, 4), (0, 0, 8)]:
        density = p**correct * (1 - p) ** (total - correct)
        expected = (density * (1 - p) ** draws).sum() / density.sum()
        assert likely_all_fail(correct, total, draws) == pytest.approx(expected, rel=1e-6)


def test_unknown_options_name_the_nearest():
    with pytest.raises(UserError, match="did you mean 'fallback'"):
        superrl(falback="sft")
    with pytest.raises(UserError, match="did you mean 'superrl'"):
        build({"name": "superl"}, LIMITS)
