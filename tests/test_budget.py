"""A budget of tokens or seconds ends the whole run, as if its last stage were done, and may be raised to go on."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from small_runs import Ends, Killed, checkpoints, differences, recipe, rows, run, small_model
from superrl.config import BudgetConfig, Recipe
from superrl.errors import UserError

SFT = {"name": "sft", "method": {"name": "sft"}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def generated(model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    """Tokens drawn after each step of the run without a budget."""
    totals = [0]
    for row in rows(run(settings(model, None), tmp_path_factory.mktemp("runs") / "whole")):
        totals.append(totals[-1] + int(row["tokens/generated"]))
    return totals[1:]


def settings(model: Path, tokens: int | None, steps: int = 4, **keys: Any) -> Recipe:
    return recipe(model, {"steps": steps}, **{"budget": {"tokens": tokens}, "evaluation": {"every": 4}, **keys})


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def test_the_step_that_reaches_the_budget_is_the_last(model: Path, generated: list[int], tmp_path: Path) -> None:
    for tokens, steps in [(generated[1], 2), (generated[1] + 1, 3), (1, 1), (generated[-1] + 1, 4)]:
        folder = run(settings(model, tokens), tmp_path / f"{tokens}")
        assert [row["step"] for row in rows(folder)] == list(range(1, steps + 1))
        told = summary(folder)
        assert (told["steps"], told["tokens"]["generated"]) == (steps, generated[steps - 1])
        assert checkpoints(folder)[-1].name == f"step-{steps:08d}"


def test_the_end_is_evaluated_as_any_other(model: Path, generated: list[int], tmp_path: Path) -> None:
    folder = run(settings(model, generated[1]), tmp_path / "run")
    looked = [(row["split"], row["step"]) for row in rows(folder, "evaluations.jsonl")]
    assert looked == [("test", 0), ("validation", 0), ("validation", 2), ("test", 2)]
    assert all(mark["final"] is not None for mark in summary(folder)["test"].values())
    assert summary(folder)["validation"]["final"] is not None


def test_no_later_stage_is_entered(model: Path, tmp_path: Path) -> None:
    """Not even for a moment: its first weights would be the run's last, and the steps left out could not be made up."""
    both, always = [{"steps": 3}, {**SFT, "from": "initial"}], {"evaluation": {"every": 1}}
    parts = run(recipe(model, *both, budget={"tokens": 1}, **always), tmp_path / "parts")
    assert [(row["stage"], row["step"]) for row in rows(parts)] == [("rl", 1)]
    assert json.loads((checkpoints(parts)[-1] / "trainer.json").read_text())["position"]["stage"] == 0
    whole = run(recipe(model, *both, **always), tmp_path / "whole")
    run(recipe(model, *both, **always), parts, resume=True)
    assert differences(whole, parts) == [] and [row["stage"] for row in rows(parts)] == ["rl"] * 3 + ["sft"] * 2


def test_reached_at_the_last_step_of_a_stage_it_ends_the_run_there(
    model: Path, generated: list[int], tmp_path: Path
) -> None:
    """And with a larger budget the next stage follows, with the weights and optimizer it would have had."""
    stages = [{"steps": 2}, {**SFT, "steps": 1}]
    run(recipe(model, *stages, budget={"tokens": generated[1]}), tmp_path / "parts")
    assert [row["stage"] for row in rows(tmp_path / "parts")] == ["rl", "rl"]
    run(recipe(model, *stages), tmp_path / "parts", resume=True)
    assert differences(run(recipe(model, *stages), tmp_path / "whole"), tmp_path / "parts") == []


def test_a_stage_of_no_steps_still_follows(model: Path, tmp_path: Path) -> None:
    """So that `from: best` as the last stage keeps the best model."""
    best_kept = {"name": "best", "steps": 0, "from": "best"}
    stages = [{**SFT, "steps": 3}, {"steps": 9}, {**SFT, "name": "skipped"}, best_kept]
    folder = run(recipe(model, *stages, budget={"tokens": 1}, evaluation={"every": 1}), tmp_path / "run")
    assert [row["stage"] for row in rows(folder)] == ["sft"] * 3 + ["rl"]
    best = summary(folder)["validation"]["best_step"]
    kept = folder / "checkpoints" / f"step-{best:08d}" if best else model
    final, expected = (load_file(path / "model.safetensors") for path in (checkpoints(folder)[-1], kept))
    assert best < 4 and all(torch.equal(final[name], expected[name]) for name in final)


def test_stages_that_draw_nothing_spend_no_tokens(model: Path, tmp_path: Path) -> None:
    folder = run(recipe(model, SFT, {"steps": 3}, budget={"tokens": 1}), tmp_path / "run")
    assert [row["stage"] for row in rows(folder)] == ["sft", "sft", "rl"]


def test_seconds_end_a_run_too(model: Path, tmp_path: Path) -> None:
    folder = run(settings(model, None, budget={"seconds": 1e-6}), tmp_path / "run")
    assert [row["step"] for row in rows(folder)] == [1] and summary(folder)["wall_seconds"] > 0
    assert len(rows(run(settings(model, None, budget={"seconds": 600}), tmp_path / "long"))) == 4


def test_resumed_with_a_larger_budget_it_is_the_run_with_that_budget(
    model: Path, generated: list[int], tmp_path: Path
) -> None:
    always = {"evaluation": {"every": 1}}
    larger = settings(model, generated[2], **always)
    whole, parts = run(larger, tmp_path / "whole"), run(settings(model, generated[0], **always), tmp_path / "parts")
    assert [len(rows(folder)) for folder in (whole, parts)] == [3, 1]
    run(larger, parts, resume=True)
    assert differences(whole, parts) == []


def test_interrupted_and_resumed_it_ends_at_the_same_step(model: Path, generated: list[int], tmp_path: Path) -> None:
    limited = settings(model, generated[2])
    whole = run(limited, tmp_path / "whole")
    for step in (1, 2, 3):
        parts = tmp_path / f"{step}"
        with pytest.raises(Killed):
            run(limited, parts, Ends(step, by=Killed(), kind="step"))
        run(limited, parts, resume=True)
        assert differences(whole, parts) == []


def test_a_run_that_used_its_budget_up_is_left_as_it_was(model: Path, generated: list[int], tmp_path: Path) -> None:
    whole, twice = (run(settings(model, generated[0]), tmp_path / name) for name in ("whole", "twice"))
    run(settings(model, generated[0]), twice, resume=True)
    assert differences(whole, twice) == []


def test_a_budget_of_nothing_is_refused(model: Path) -> None:
    for budget in ({"tokens": 0}, {"seconds": 0.0}):
        with pytest.raises(UserError, match=r"budget\.\w+: input should be greater than 0"):
            settings(model, None, budget=budget)
    assert not BudgetConfig().spent(10**12, 1e12)
