"""The Hybrid Actor: the probe's verdict, who is trained, the weights and how they move."""

import json
import math

import pytest

from builders import group
from superrl.errors import UserError
from superrl.methods import build
from superrl.methods.hooks import Limits
from superrl.records import StepRecord

LIMITS = Limits(group_size=4, max_new_tokens=10)
FAILED, MIXED, NO_DEMO = (
    group([0] * 4, experts=[5], name="f"),
    group([1, 0, 0, 0], experts=[5], name="m"),
    group([1, 0, 0, 0], name="n"),
)


def hybrid(**options):
    return build({"name": "hybrid", **options}, LIMITS)


def kinds(plan):
    return [decision.kind for decision in plan.decisions]


def advance(method, state, groups, **metrics):
    plan = method.plan(groups, state)
    told = {"loss/pg": 0.0, "loss/sft": 1.0, "demo/nll": 1.0, **{f"method/{k}": v for k, v in plan.metrics.items()}}
    return json.loads(json.dumps(method.after_step(StepRecord(1, told | metrics, plan.decisions), groups, state)))


def test_demonstrations_of_solved_prompts_are_in_too_and_a_prompt_without_one_is_not():
    method = hybrid(probe=None)
    plan = method.plan([FAILED, MIXED, NO_DEMO], method.initial_state())
    assert kinds(plan) == ["sft", "both", "pg"]
    (update,) = plan.updates
    assert update.denominators == {"pg": (1.0,) * 3, "sft": (1.0,) * 3}
    assert update.stream_weights == pytest.approx({"pg": 1.0, "sft": math.exp(-2)})


def test_the_probe_trains_nothing_until_it_has_its_prompts_then_decides():
    method = hybrid(probe={"prompts": 4, "threshold": 0.5})
    state = method.initial_state()
    plan = method.plan([FAILED, FAILED], state)
    assert plan.updates == () and kinds(plan) == ["none", "none"]
    state = advance(method, state, [FAILED, FAILED])
    assert state["probed"] == [0, 2] and state["sparse"] is None
    sparse = method.plan([FAILED, MIXED], state)  # 1 of 4 solved
    assert kinds(sparse) == ["sft", "both"] and sparse.metrics["sparse"] == 1.0
    dense = method.plan([MIXED, MIXED], state)  # 2 of 4: not below 0.5
    assert kinds(dense) == ["pg", "pg"] and dense.updates[0].stream_weights == {"pg": 1.0, "sft": 0.0}
    after = advance(method, advance(method, state, [FAILED, MIXED]), [MIXED, MIXED])
    assert after["sparse"] is True and after["probed"] == [1, 4]  # once: later batches do not change the verdict


def test_a_probe_that_comes_again_changes_the_verdict():
    method = hybrid(probe={"prompts": 2, "threshold": 0.5, "every": 2})
    state = method.initial_state()
    for groups, verdict in [([FAILED] * 2, True), ([MIXED] * 2, True), ([MIXED] * 2, False), ([FAILED] * 2, False)]:
        state = advance(method, state, groups)
        assert state["sparse"] is verdict


def test_a_probe_that_is_due_again_before_it_is_done_goes_on():
    method = hybrid(probe={"prompts": 6, "every": 2})
    state = method.initial_state()
    for _ in range(3):
        state = advance(method, state, [FAILED] * 2)
    assert state["probed"] == [0, 6] and state["sparse"] is True


def test_dynamic_sampling_would_hide_failures_from_a_probe():
    assert not hybrid().takes_refill and hybrid(probe=None).takes_refill


@pytest.mark.parametrize("balance", [{"sft": 0.5}, {"kind": "fixed", "lr": 0.1}])
def test_an_option_of_the_other_balance_is_refused(balance):
    with pytest.raises(UserError, match="is read by kind: "):
        hybrid(balance=balance)


def test_s_moves_by_the_closed_form_in_the_magnitude_or_in_the_raw_loss():
    visits = [MIXED, MIXED]
    plan = (method := hybrid(probe=None)).plan(visits, method.initial_state())
    a = [s.advantage[-1] for s in plan.updates[0].samples if s.stream == "pg"][:4]
    assert plan.metrics["magnitude"] == pytest.approx(sum(map(abs, a)) / 4)  # inner mean over 4 rollouts, 2 groups
    moved = advance(method, method.initial_state(), visits)
    assert moved["s"]["pg"] == pytest.approx(-0.01 * (1 - 2 * plan.metrics["magnitude"]))
    assert moved["s"]["sft"] == pytest.approx(1 - 0.01 * (1 - 2 * math.exp(-2) * 1.0))
    assert moved["idle"] == pytest.approx({"pg": -0.01, "sft": 0.99})
    raw = hybrid(probe=None, balance={"signal": "raw"})
    assert advance(raw, raw.initial_state(), visits, **{"loss/pg": -0.5})["s"]["pg"] == pytest.approx(-0.02)


def test_without_a_demonstration_in_the_batch_its_s_rests():
    method = hybrid(probe=None)
    state = method.initial_state()
    assert advance(method, state, [NO_DEMO], **{"demo/nll": None, "loss/sft": 0.0})["s"]["sft"] == 1.0


def test_fixed_weights_do_not_move():
    method = hybrid(probe=None, balance={"kind": "fixed", "pg": 0.7, "sft": 0.3})
    state = method.initial_state()
    assert method.plan([MIXED], state).updates[0].stream_weights == {"pg": 0.7, "sft": 0.3}
    assert advance(method, state, [MIXED])["s"] == state["s"]


def test_a_bound_beyond_2_is_refused():
    with pytest.raises(UserError, match="bound"):
        hybrid(balance={"bound": 3.0})
