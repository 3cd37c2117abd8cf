"""The yoked control: as many fallbacks as it is told, on random groups, and otherwise SuperRL."""

from dataclasses import replace

import pytest

from builders import group
from superrl.errors import UserError
from superrl.methods import build
from superrl.methods.hooks import Limits
from superrl.records import StepRecord

LIMITS = Limits(group_size=4, max_new_tokens=10)


def yoked(*counts, **options):
    return build({"name": "yoked", "counts": list(counts), **options}, LIMITS)


def visit(name, rewards, experts=(5,), step=0):
    return group(rewards, experts=experts, name=name, key=(0, 0, 0, step, 0, ord(name), 0))


def batch(step=0):
    """Six failed groups and six half solved ones with a demonstration, one of each without."""
    shown = [visit(chr(97 + i), [0, 0, 0, 0] if i % 2 else [1, 0, 0, 1], step=step) for i in range(12)]
    return [*shown, visit("y", [0, 0, 0, 0], (), step), visit("z", [0, 1, 0, 0], (), step)]


def fallen(plan, groups):
    return {g.problem.id for g, d in zip(groups, plan.decisions, strict=True) if d.kind in ("sft", "both")}


def only(method, one, state=None):
    plan = method.plan([one], method.initial_state() if state is None else state)
    samples = [sample.stream for update in plan.updates for sample in update.samples]
    return plan.decisions[0], {stream: samples.count(stream) for stream in set(samples)}


FAILED, MIXED, SOLVED = visit("f", [0, 0, 0, 0]), visit("m", [0, 1, 0, 0]), visit("s", [1, 1, 1, 1])
SHAPED = group([0.2, 0.1, 0.3, 0.4], correct=[False] * 4, experts=[5], name="h")
BARE, BARE_MIXED = visit("b", [0, 0, 0, 0], ()), visit("c", [0, 1, 0, 0], ())
TABLE = [
    ("drawn, failed", 1, FAILED, "sft", {"sft": 1}, "0 of 4 correct; learns from demonstration 0"),
    ("drawn, some right", 1, MIXED, "sft", {"sft": 1}, "1 of 4 correct; learns from demonstration 0"),
    ("drawn, all right", 1, SOLVED, "sft", {"sft": 1}, "4 of 4 correct; learns from demonstration 0"),
    ("no demonstration to draw", 1, BARE, "none", {}, "0 of 4 correct; equal rewards carry no gradient"),
    ("no demonstration, some right", 1, BARE_MIXED, "pg", {"pg": 4}, "1 of 4 correct"),
    ("not drawn, failed", 0, FAILED, "none", {}, "0 of 4 correct; equal rewards carry no gradient"),
    ("not drawn, failed, shaped", 0, SHAPED, "pg", {"pg": 4}, "0 of 4 correct"),
    ("not drawn, some right", 0, MIXED, "pg", {"pg": 4}, "1 of 4 correct"),
    ("not drawn, all right", 0, SOLVED, "none", {}, "4 of 4 correct; equal rewards carry no gradient"),
]


@pytest.mark.parametrize(("case", "count", "one", "kind", "streams", "why"), TABLE, ids=[row[0] for row in TABLE])
def test_truth_table(case, count, one, kind, streams, why):
    decision, found = only(yoked(count), one)
    assert (decision.kind, found, decision.why) == (kind, streams, f"yoked: {why}")


@pytest.mark.parametrize("count", range(15))
def test_the_counts_are_respected_and_the_shortfall_is_told(count):
    groups, method = batch(), yoked(count)
    plan = method.plan(groups, method.initial_state())
    assert len(fallen(plan, groups)) == min(count, 12) and fallen(plan, groups).isdisjoint("yz")
    assert plan.metrics == {"shortfall": max(count - 12, 0)}
    (update,) = plan.updates
    assert update.denominators == {"pg": (1.0,) * 14, "sft": (1.0,) * 14}


def test_every_step_has_its_count_and_past_the_end_there_are_none():
    method = yoked(3, 0, 5)
    state, seen = method.initial_state(), []
    for step in range(5):
        groups = batch(step)
        plan = method.plan(groups, state)
        seen.append(len(fallen(plan, groups)))
        state = method.after_step(StepRecord(step + 1, {}, plan.decisions), groups, state)
    assert seen == [3, 0, 5, 0, 0] and state["step"] == 5


def test_lots_are_drawn_by_the_groups_keys():
    method = yoked(4)
    state, groups = method.initial_state(), batch()
    drawn = fallen(method.plan(groups, state), groups)
    assert fallen(yoked(4).plan(groups, state), groups) == drawn, "the same lots every time"
    turned = groups[::-1]
    assert fallen(method.plan(turned, state), turned) == drawn, "wherever a group stands"
    other = [replace(one, key=(1, *one.key[1:])) for one in groups]
    assert fallen(method.plan(other, state), other) != drawn, "with another seed others"


def test_lots_fall_on_every_group_alike_failed_or_not():
    method, counts = yoked(3), dict.fromkeys("abcdefghijkl", 0)
    for step in range(400):
        groups = batch(step)
        for name in fallen(method.plan(groups, method.initial_state()), groups):
            counts[name] += 1
    assert sum(counts.values()) == 1200 and all(65 <= n <= 135 for n in counts.values()), counts  # 100 +- 4 s.d.


def test_what_superrl_fell_back_on_counts_the_same():
    groups = batch()
    switch = build({"name": "superrl"}, LIMITS)
    wanted = len(fallen(switch.plan(groups, {}), groups))
    method = yoked(wanted)
    assert wanted == 6 and len(fallen(method.plan(groups, method.initial_state()), groups)) == wanted


def test_superrl_s_options_hold_here_too():
    assert only(yoked(1, failed_rollouts="keep"), MIXED)[1] == {"sft": 1, "pg": 4}
    assert only(yoked(0, policy_gradient=False), MIXED)[0].why == "yoked: 1 of 4 correct; the policy gradient is off"
    method = yoked(1, gate="history")
    assert method.after_step(StepRecord(1, {}, ()), [FAILED], method.initial_state())["step"] == 1


def test_counts_are_asked_for_and_checked():
    for options, said in [({}, "'counts' is missing"), ({"counts": [1, -1]}, "counts.1: input should be greater")]:
        with pytest.raises(UserError, match=said):
            build({"name": "yoked", **options}, LIMITS)
