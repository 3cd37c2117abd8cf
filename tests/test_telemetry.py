"""What a step's row says about hand-made groups."""

from dataclasses import replace

import pytest

from builders import group
from superrl import telemetry
from superrl.methods import build
from superrl.methods.hooks import Limits

BATCH = [
    group([0] * 4, experts=[5], name="a"),
    group([1, 0, 0, 0], experts=[3], name="b"),
    group([1] * 4, name="c"),
    group([0] * 4, name="d"),
]
PLAN = build({"name": "superrl"}, Limits(4, 10)).plan(BATCH, {})


def test_groups_by_hand():
    row = telemetry.of_groups(BATCH)
    assert row["reward/mean"] == row["reward/correct"] == pytest.approx(5 / 16)
    assert row["switch/solved_rate"] == 0.5 and row["switch/all_correct_rate"] == 0.25
    assert row["switch/expected_rate"] == pytest.approx((11 / 16) ** 4)
    assert row["length/completion"] == 3.0 and row["tokens/generated"] == 48.0
    assert row["policy/entropy"] is None


def test_decisions_by_hand():
    row = telemetry.of_decisions(BATCH, PLAN.decisions)
    assert row == {
        "switch/fallbacks": 1.0,
        "switch/fallback_rate": 0.25,
        "switch/fallback_rate_demonstrated": 0.5,
        "switch/no_demo": 1.0,
        "groups/trained": 2.0,
    }


def test_what_is_not_judged_is_none():
    row = telemetry.of_groups([group([0.5, 0.2], correct=[None, None])])
    assert row["reward/correct"] is None and row["switch/solved_rate"] is None and row["reward/mean"] == 0.35


def test_groups_without_rollouts_have_no_reward():
    row = telemetry.of_groups([group([], experts=[4])])
    assert row["reward/mean"] is None and row["switch/solved_rate"] is None and row["tokens/generated"] == 0.0


def test_dropped_groups_are_represented_by_their_first_rollout():
    unseen = telemetry.untrained(BATCH, PLAN.updates)
    assert [(t.tokens, n) for t, n in unseen] == [(BATCH[i].trajectories[0].tokens, 4) for i in (0, 2, 3)]


def test_failures_that_a_fallback_trains_in_a_stream_of_its_own_are_represented_too():
    """The learner's telemetry of rollouts reads stream `pg` alone."""
    plan = build({"name": "superrl", "fallback": "ngrpo"}, Limits(4, 10)).plan(BATCH, {})
    assert {s.stream for s in plan.updates[0].samples} == {"pg", "ngrpo"}
    assert [t.tokens for t, _ in telemetry.untrained(BATCH, plan.updates)] == [
        BATCH[i].trajectories[0].tokens for i in (0, 2, 3)
    ]


def test_rollout_rows_show_every_kind_of_decision_before_a_second_of_one():
    rows = telemetry.rollout_rows(BATCH, PLAN, 3)
    assert [r["decision"] for r in rows] == ["sft", "pg", "none"]
    assert rows[0]["demonstration"] == BATCH[0].demonstrations[0].text and rows[1]["demonstration"] is None
    assert rows[0]["completions"][0]["advantage"] is None and rows[1]["completions"][0]["advantage"] > 0
    assert rows[1]["completions"][0]["score"] == {"value": 1, "correct": True, "parts": {}}


def test_rows_of_steps_hold_what_was_compared_and_rows_of_others_nothing_new():
    ordinary = telemetry.rollout_rows(BATCH, PLAN, 4)
    assert {frozenset(row) for row in ordinary} == {
        frozenset(("problem_id", "prompt", "completions", "decision", "demonstration", "why"))
    }
    meta = {"trajectory": "a", "step": 2, "steps": 3, "title": "t", "tool": "", "think": "none", "repo": "x"}
    messages = ({"role": "system", "content": "s"}, {"role": "user", "content": "q"})
    step = replace(BATCH[0].problem, messages=messages, answer="4", opening="3+", meta=meta)
    rows = telemetry.rollout_rows([replace(BATCH[0], problem=step), *BATCH[1:]], PLAN, 4)
    assert rows[1:] == ordinary[1:] and {**rows[0], **ordinary[0]} == {**rows[0], "prompt": BATCH[0].problem.prompt}
    assert (rows[0]["prompt"], rows[0]["opening"], rows[0]["answer"]) == ("q", "3+", "4")
    assert rows[0]["earlier"] == [{"role": "system", "content": "s"}]
    assert rows[0]["meta"] == {key: value for key, value in meta.items() if key != "repo"}


def test_a_data_set_s_own_columns_of_those_names_are_not_taken_for_a_step():
    meta = {"trajectory": "a", "step": 2, "steps": 3}
    problem = replace(BATCH[0].problem, meta=meta)
    assert telemetry.step_facts(problem)["meta"] == meta
    for wrong in ({"trajectory": [{"role": "user"}]}, {"step": "2"}, {"step": True}, {"step": None}):
        assert telemetry.step_facts(replace(problem, meta={**meta, **wrong})) == {}
    odd = {**meta, "title": ["t"], "tool": {"name": "ls"}, "think": None}
    assert telemetry.step_facts(replace(problem, meta=odd))["meta"] == meta
