"""SFT, SRL and RLVR in one recipe: data, reward, validation and order of each stage's own, and exact resumption."""

import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from small_runs import TASK, Ends, differences, recipe, rows, small_model, write_lines
from superrl import setup
from superrl.config import Recipe
from superrl.data import load
from superrl.errors import Interrupted, UserError
from superrl.training import train

STEPS = f"steps:{TASK}&n=6"
HELD = f"steps:{TASK}&n=3&split=validation"
SHAPE = {"max_new_tokens": None}
STAGES: list[Mapping[str, Any]] = [
    {"name": "sft", "method": {"name": "sft"}, "train": STEPS, "validation": HELD, **SHAPE},
    {
        "name": "srl",
        "method": {"name": "srl", "least_format": 0.0},
        "train": STEPS,
        "validation": HELD,
        "from": "best",
        "order": "trajectory",
        "refill": {"keep": "deviation", "epsilon": 0.02, "cap": 2, "carry_over": True},
        "steps": 3,
        "group_size": 4,
        **SHAPE,
    },
    {"name": "rlvr", "method": {"name": "grpo"}, "from": "best", "reward": {"name": "python:small_runs.letters"}},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("model"))


def curriculum(model: Path, **changes: Mapping[str, Any]) -> Recipe:
    stages = [{**stage, **changes.get(str(stage["name"]), {})} for stage in STAGES]
    return recipe(model, *stages, evaluation={"every": 1})


def test_every_stage_has_data_reward_and_validation_of_its_own(model: Path, tmp_path: Path) -> None:
    folder = train(curriculum(model), tmp_path / "run")
    metrics = rows(folder)
    assert [row["stage"] for row in metrics] == ["sft"] * 2 + ["srl"] * 3 + ["rlvr"] * 2
    assert ["score/similarity" in row for row in metrics] == [False] * 2 + [True] * 3 + [False] * 2
    judged = [row for row in rows(folder, "evaluations.jsonl") if row["split"] == "validation"]
    validated = [(row["step"], row["data"]) for row in judged]
    assert validated == [(step, HELD) for step in range(6)] + [(step, f"{TASK}&n=3") for step in (5, 6, 7)]
    trained = {row["stage"] for row in metrics if row["tokens/trained"]}
    assert trained == {"sft", "srl", "rlvr"}


def test_a_new_validation_set_starts_best_anew(model: Path, tmp_path: Path) -> None:
    """The last stage's marks are accuracies of whole answers: a better likeness of steps before it says nothing."""
    folder = train(curriculum(model), tmp_path / "run")
    own = [e for e in rows(folder, "evaluations.jsonl") if e["data"] == f"{TASK}&n=3" and e["step"] > 5]
    summary = json.loads((folder / "summary.json").read_text())["validation"]
    assert summary["best"] == max(e["accuracy"] for e in own) and summary["best_step"] in (6, 7)
    at_start = next(e for e in rows(folder, "evaluations.jsonl") if e["data"] == f"{TASK}&n=3")
    assert (summary["start"], summary["final"]) == (at_start["accuracy"], own[-1]["accuracy"])


def test_in_the_order_of_trajectories_a_batch_is_whole_ones(model: Path, tmp_path: Path) -> None:
    plain = {"refill": None, "prompts_per_step": 5, "steps": 4}
    folder = train(curriculum(model, srl=plain), tmp_path / "run")
    for step in (3, 4, 5, 6):
        ids = [row["problem_id"] for row in rows(folder, "visits.jsonl") if row["step"] == step]
        whole = [f"{ids[i].partition('/')[0]}/step-{k}" for i in range(0, len(ids), 2) for k in (1, 2)]
        assert ids == whole and len(ids) == 4


def test_only_pivots_are_drawn_and_they_are_looked_for_again(model: Path, tmp_path: Path) -> None:
    settings = {"pivots": {"rollouts": 6, "below": 2.0, "every": 2}, "order": "shuffled", "refill": None}
    folder = train(curriculum(model, srl=settings), tmp_path / "run")
    visited = {
        row["step"]: {v["problem_id"] for v in rows(folder, "visits.jsonl") if v["step"] == row["step"]}
        for row in rows(folder)
    }
    assert sorted(path.name for path in (folder / "pivots").iterdir()) == ["step-2.json", "step-4.json"]
    for step, file in ((3, "step-2.json"), (4, "step-2.json"), (5, "step-4.json")):
        held = json.loads((folder / "pivots" / file).read_text())
        names = [problem.id for problem in load(STEPS, "train").problems]
        varied = {names[i] for i, (mean, variance) in enumerate(held["pivots"]) if variance > 0 and mean < 2.0}
        assert varied == {names[i] for i in held["kept"]} and len(varied) < len(names)
        assert visited[step] <= varied


def test_pivots_are_looked_for_under_the_stage_s_truncation(model: Path, tmp_path: Path) -> None:
    pivots = {"rollouts": 6, "below": 2.0}
    settings = {"pivots": pivots, "order": "shuffled", "refill": None, "truncation": {"top_k": 1, "biased": True}}
    with pytest.raises(UserError, match=r"none of \d+ problems .* \(\d+ all alike, 0 at 2 or above\)"):
        train(curriculum(model, srl=settings), tmp_path / "run")


def test_a_context_may_be_bounded(model: Path, tmp_path: Path) -> None:
    """Whatever a rollout writes: prompt and completion together stay within it."""
    whole = setup.build(curriculum(model)).stages[1]
    longest = max(len(group.demonstrations[0].tokens) for group in whole.groups)
    few = setup.build(curriculum(model, srl={"max_context": longest + 4})).stages[1]
    room = few.environment.limits.max_new_tokens
    sizes = [len(few.environment.renderer.context(group.problem)) + room for group in few.groups]
    assert 0 < len(few.groups) < len(whole.groups) and max(sizes) <= longest + 4
    with pytest.raises(UserError, match="every prompt is longer than the 1 tokens that are left for it"):
        setup.build(curriculum(model, srl={"max_context": room + 1}))


def test_the_order_of_trajectories_needs_trajectories(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"stages.2.order: trajectory needs steps of trajectories"):
        train(curriculum(model, rlvr={"order": "trajectory"}), tmp_path / "run")


def test_best_reads_the_validation_of_the_stage_before(model: Path) -> None:
    blind = {"data": {"train": TASK, "test": []}}
    with pytest.raises(UserError, match=r"stages.1.from: best reads validation"):
        recipe(model, STAGES[0] | {"validation": None}, STAGES[1], **blind)
    assert recipe(model, STAGES[0], STAGES[1], **blind, evaluation={"every": 1}).validation_of(0) == [HELD]


@pytest.mark.parametrize("pivots", [None, {"rollouts": 3, "below": 2.0, "every": 2}])
def test_a_curriculum_stopped_after_every_step_is_the_same_run(
    pivots: Mapping[str, Any] | None, model: Path, tmp_path: Path
) -> None:
    settings = curriculum(model, srl={"pivots": pivots})
    whole, parts = train(settings, tmp_path / "whole"), tmp_path / "parts"
    for stopped in range(settings.steps):
        with pytest.raises(Interrupted):
            train(settings, parts, progress=Ends(1, by=signal.SIGTERM, kind="step"), resume=stopped > 0)
    train(settings, parts, resume=True)
    assert differences(whole, parts) == []


def test_one_failed_draw_of_dynamic_sampling_is_not_the_first_step(model: Path, tmp_path: Path) -> None:
    """The gate's share is over all that the first step drew: a late draw of one group may well be refused whole."""
    folder = train(curriculum(model), tmp_path / "run")
    row = next(row for row in rows(folder) if row["stage"] == "srl")
    assert row["groups/drawn"] > 4, "several draws"
    share = float(row["score/format"])
    for least, stops in ((share * 0.9, False), (share * 1.1, True)):
        settings = curriculum(model, srl={"method": {"name": "srl", "least_format": least}})
        if stops:
            with pytest.raises(UserError, match="rollouts pass the format gate"):
                train(settings, tmp_path / str(least))
        else:
            train(settings, tmp_path / str(least))


def test_a_set_judged_otherwise_starts_best_anew_and_one_judged_alike_does_not(model: Path) -> None:
    exact = {"name": "step_similarity", "kind": "exact"}
    alike = setup.build(curriculum(model))
    assert list(map(id, alike.validation(0))) == list(map(id, alike.validation(1)))
    otherwise = setup.build(curriculum(model, srl={"reward": exact}))
    assert [one.name for one in otherwise.validation(0)] == [one.name for one in otherwise.validation(1)] == [HELD]
    assert otherwise.validation(0)[0] is not otherwise.validation(1)[0]


def test_a_stage_left_out_by_the_budget_leaves_best_alone(model: Path, tmp_path: Path) -> None:
    own = {"validation": HELD, "train": STEPS, "max_new_tokens": None}
    last = {"name": "best", "method": {"name": "sft"}, "steps": 0, "from": "best", **own}
    stages = [STAGES[1] | {"from": "previous"}, {**STAGES[2], "from": "previous"}, last]
    settings = recipe(model, *stages, evaluation={"every": 1}, budget={"tokens": 1})
    folder = train(settings, tmp_path / "run")
    told = json.loads((folder / "summary.json").read_text())["validation"]
    steps = [row["step"] for row in rows(folder, "evaluations.jsonl") if row["split"] == "validation"]
    assert steps == [0, 1] and told["best_step"] in (0, 1)


def test_dynamic_sampling_in_the_order_of_trajectories_keeps_their_ends(model: Path, tmp_path: Path) -> None:
    wanted = {
        "refill": {"keep": "deviation", "epsilon": 0.0, "cap": 3},
        "prompts_per_step": 1,
        "steps": 6,
        "group_size": 8,
    }
    folder = train(curriculum(model, srl=wanted), tmp_path / "run")
    learnt = {
        v["problem_id"].partition("/")[2]
        for v in rows(folder, "visits.jsonl")
        if v["decision"] == "pg" and v["stage"] == "srl"
    }
    assert learnt == {"step-1", "step-2"}


def test_steps_that_do_not_stand_together_are_refused_at_once(model: Path, tmp_path: Path) -> None:
    problems = [
        {"id": f"{t}/{k}", "prompt": "1+1=", "answer": "2", "trajectory": t, "step": k} for k in (1, 2) for t in "ab"
    ]
    mixed = write_lines(tmp_path / "rows.jsonl", problems)
    with pytest.raises(UserError, match="do not stand together in the data"):
        setup.build(curriculum(model, srl={"train": str(mixed), "reward": {"name": "step_similarity"}}))


def test_a_new_profile_goes_on_instead_of_beginning_again(model: Path, tmp_path: Path) -> None:
    always = {"pivots": {"rollouts": 6, "below": 2.0, "every": 1}, "order": "shuffled", "refill": None, "steps": 6}
    folder = train(
        curriculum(model, srl={**always, "prompts_per_step": 1, "optimizer": {"lr": 1e-12}}), tmp_path / "run"
    )
    visited = {v["problem_id"] for v in rows(folder, "visits.jsonl") if v["stage"] == "srl"}
    assert len(visited) > 1
