"""What visits.jsonl says about hand-made groups, and about a whole run with dynamic sampling."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from builders import group, sample
from small_runs import differences, recipe, rows, run, small_model
from superrl.methods import build
from superrl.methods.hooks import Limits
from superrl.records import Decision, Plan, Score, Update
from superrl.runfolder import RunFolder
from superrl.visits import shares, visit_rows

BATCH = [
    group([0] * 4, experts=[5], name="a", key=(0, 0, 0, 6, 0, 1, 0)),
    group([1, 0, 0, 0], experts=[3, 4], name="b", key=(0, 0, 0, 6, 0, 2, 0)),
    group([1] * 4, name="c", key=(0, 0, 0, 5, 1, 3, 0)),
    group([0] * 4, name="d", key=(0, 0, 0, 6, 0, 4, 0)),
]
PLAN = build({"name": "superrl"}, Limits(4, 10)).plan(BATCH, {})


def test_a_success_with_the_expert_s_help_is_counted_apart():
    plain = group([0, 0], experts=[3])
    helped = replace(plain.trajectories[0], prefix=1, score=Score(1.0, True))
    one = replace(plain, trajectories=(*plain.trajectories, helped))
    plan = Plan((), (Decision("none", "?"),))
    (row,) = visit_rows([one], [one], [], plan)
    assert (row["n"], row["correct"], row["assisted"], row["values"]) == (2, 0, 1, [0.0, 0.0, 1.0])


def test_the_groups_of_a_step_by_hand() -> None:
    drawn = [BATCH[0], BATCH[1], BATCH[3]]
    a, b, c, d = visit_rows(BATCH, drawn, [], PLAN)
    assert a == {
        "problem_id": "a", "drawn": 7, "n": 4, "correct": 0, "assisted": 0, "values": [0.0] * 4, "advantages": None,
        "demonstrations": 1, "decision": "sft", "demonstration": 0, "share": 0.25,
        "why": "0 of 4 correct; learns from demonstration 0",
    }  # fmt: skip
    assert (b["correct"], b["decision"], b["demonstration"], b["demonstrations"]) == (1, "pg", None, 2)
    assert b["advantages"] == [pytest.approx(1.5, rel=1e-3)] + [pytest.approx(-0.5, rel=1e-3)] * 3
    assert (c["correct"], c["decision"], c["drawn"], c["advantages"]) == (4, "none", 6, None), "carried over"
    assert (d["demonstrations"], d["decision"], d["share"]) == (0, "none", 0.25)
    assert "no demonstration" in d["why"]


def test_what_dynamic_sampling_drew_and_did_not_use_comes_last() -> None:
    lost, kept = group([1] * 4, name="e", key=(9, 0, 0, 6, 0, 5, 0)), group([0, 1], name="f", key=(9, 0, 0, 6, 1, 6, 0))
    found = visit_rows(BATCH, [kept, *BATCH, lost], [kept], PLAN)
    assert [(r["problem_id"], r["decision"]) for r in found[4:]] == [("f", "carried"), ("e", "discarded")]
    assert found[5]["correct"] == 4 and found[5]["values"] == [1.0] * 4
    assert found[5]["share"] is None and found[5]["advantages"] is None and "dynamic sampling" in found[5]["why"]


def test_a_group_is_known_by_its_key_and_not_by_its_object() -> None:
    """The learner annotates groups by replacing them."""
    noted = [replace(one, demonstrations=()) for one in BATCH]
    assert len(visit_rows(noted, BATCH, [], PLAN)) == len(BATCH)


def test_what_is_not_judged_is_null() -> None:
    one = group([0.25, 1 / 3], correct=[None, None])
    (row,) = visit_rows([one], [one], [], build({"name": "grpo"}, Limits(2, 10)).plan([one], {}))
    assert row["correct"] is None and row["values"] == [0.25, 0.333333]
    half = group([1, 0], correct=[True, None])
    assert visit_rows([half], [half], [], build({"name": "grpo"}, Limits(2, 10)).plan([half], {}))[0]["correct"] is None


def test_a_supervised_step_has_visits_without_rollouts() -> None:
    one = group([], experts=[3], key=(0, 0, 0, 4, 0, 1, 0))
    (row,) = visit_rows([one], [], [], build({"name": "sft"}, Limits(4, 10)).plan([one], {}))
    assert (row["n"], row["correct"], row["values"], row["decision"], row["drawn"]) == (0, None, [], "sft", 5)


def test_shares_are_those_of_the_denominator_that_counts_a_group() -> None:
    by_tokens = build({"name": "grpo", "reduction": "token"}, Limits(2, 10))
    unequal = [group([1, 0], lengths=[3, 6], name="a"), group([1, 0], lengths=[1, 2], name="b")]
    assert shares(by_tokens.plan(unequal, {}).updates, 2) == [0.75, 0.25]
    own = Update((sample(4, 2, stream="sft", group=1),), {"pg": (1.0, 1.0, 0.0), "sft": (0.0, 1.0, 0.0)})
    assert shares([own], 3) == [0.5, 1.0, None], "group 1 trains in a stream of its own, nothing counts group 2"


def test_a_run_with_dynamic_sampling_writes_every_group_it_draws(tmp_path: Path) -> None:
    refill = {"cap": 3, "oversample": 1.5, "carry_over": True, "keep": "deviation"}
    settings = recipe(small_model(tmp_path / "model"), {"steps": 4, "refill": refill, "group_size": 3})
    out = run(settings, tmp_path / "run")
    found, metrics = rows(out, "visits.jsonl"), rows(out)
    for row in metrics:
        own = [v for v in found if v["step"] == row["step"]]
        assert sum(v["drawn"] == v["step"] for v in own) == row["groups/drawn"]
        assert sum(v["decision"] in ("pg", "sft", "both") for v in own) == row["groups/trained"]
        learnt = [v["share"] for v in own if v["decision"] not in ("discarded", "carried")]
        assert sum(learnt) == pytest.approx(1.0, abs=1e-5)
    assert {v["decision"] for v in found} >= {"discarded", "carried", "pg"}
    assert any(v["drawn"] < v["step"] for v in found), "a carried group is learnt from later"
    assert differences(out, run(settings, tmp_path / "again")) == []


def test_half_a_surrogate_pair_in_an_id_is_written_as_json_writes_it(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.append("visits.jsonl", {"problem_id": "a\ud800b中"})
    assert (tmp_path / "visits.jsonl").read_bytes() == '{"problem_id": "a\\ud800b中"}\n'.encode()
    assert folder.rows("visits.jsonl") == [{"problem_id": "a\ud800b中"}]
    assert json.loads((tmp_path / "visits.jsonl").read_text())["problem_id"] == "a\ud800b中"
