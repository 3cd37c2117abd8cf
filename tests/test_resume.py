"""Interrupted and resumed is the same run: weights, optimizer, metrics, evaluations and rollouts, byte for byte."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from small_runs import TASK, Ends, Killed, checkpoints, differences, letters, recipe, rows, run, small_model
from superrl import checkpoint, cli, models
from superrl.config import ModelConfig, Recipe, load
from superrl.errors import Interrupted, RunError, UserError
from superrl.metrics import METRIC_KEYS

SFT = {"name": "sft", "method": {"name": "sft"}}
REFILL = {"keep": "mixed", "oversample": 2.0, "cap": 3, "carry_over": True}
HISTORY = {"name": "superrl", "gate": "history", "sft": {"separate_state": True}}

VARIANTS: Mapping[str, tuple[list[Mapping[str, Any]], Mapping[str, Any]]] = {
    "superrl": ([{"steps": 3}], {}),
    "rarely saved": ([{"steps": 3}], {"checkpoint": {"every": 2, "keep": 1}}),
    "refill": ([{"steps": 3, "method": {"name": "grpo"}, "refill": {**REFILL, "oversample": 3.0}}], {}),
    "history gate": ([{"steps": 3, "method": HISTORY, "train": f"{TASK}&n=4"}], {"evaluation": {"every": 0}}),
    "mini-batches": ([{"steps": 2, "mini_batches": 2, "epochs": 2}], {}),
    "two stages": ([SFT, {"from": "best"}], {"evaluation": {"every": 1}}),
    "lora": ([SFT, {"from": "initial"}], {}),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("model"))


def variant(name: str, model: Path) -> Recipe:
    stages, keys = VARIANTS[name]
    named = {"name": str(model), "dtype": "float32"} | ({"lora": {"rank": 2}} if name == "lora" else {})
    return recipe(model, *stages, **{"model": named, **keys})


@pytest.mark.parametrize("name", VARIANTS)
def test_a_run_stopped_after_every_step_is_the_same_run(name: str, model: Path, tmp_path: Path) -> None:
    settings = variant(name, model)
    whole, parts = run(settings, tmp_path / "whole"), tmp_path / "parts"
    for stopped in range(settings.steps):
        progress = Ends(1, by=signal.SIGTERM, kind="step")
        with pytest.raises(Interrupted):
            run(settings, parts, progress, resume=stopped > 0)
        assert [row["step"] for row in rows(parts)] == list(range(1, stopped + 2))
        assert f"saved after step {stopped + 1}" in progress.notes[-1]
    run(settings, parts, resume=True)
    assert differences(whole, parts) == []
    if name == "superrl":
        assert {row["decision"] for row in rows(whole, "rollouts.jsonl")} >= {"pg", "sft"}, "both sides of the switch"


def rich(model: Path) -> Recipe:
    """Two stages with all that a checkpoint must carry: a second optimizer, history, carried groups, the best."""
    stage = {"method": HISTORY, "from": "best", "refill": REFILL, "mini_batches": 2}
    evaluation = {"every": 1, "k": 2, "temperature": 1.0}
    checkpoint = {"every": 2, "keep": 1}
    return recipe(model, {**SFT, "steps": 1}, stage, evaluation=evaluation, checkpoint=checkpoint, seed=12)


@pytest.fixture(scope="module")
def uninterrupted(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    progress = Ends()
    return run(rich(model), tmp_path_factory.mktemp("runs") / "whole", progress), progress.events


def ended_at(nths: Sequence[int], error: BaseException, whole: Path, settings: Recipe, folder: Path) -> None:
    """A run ended by `error` at each of these events, and resumed, is the whole one."""
    for nth in nths:
        parts = folder / f"{type(error).__name__}-{nth}"
        with pytest.raises(type(error)):
            run(settings, parts, Ends(nth, by=error))
        run(settings, parts, resume=True)
        assert differences(whole, parts) == [], f"{type(error).__name__} at event {nth}"


def test_a_run_ended_anywhere_is_the_same_run(
    model: Path, uninterrupted: tuple[Path, list[str]], tmp_path: Path
) -> None:
    """An exception goes through the rescue, which saves a whole step or nothing; a kill leaves things as they lie."""
    whole, events = uninterrupted
    ended_at(range(1, len(events) + 1, 6), Killed(), whole, rich(model), tmp_path)
    ended_at(range(4, len(events) + 1, 6), RuntimeError("a bug"), whole, rich(model), tmp_path)


@pytest.mark.slow
def test_a_run_ended_anywhere_either_way_is_the_same_run(
    model: Path, uninterrupted: tuple[Path, list[str]], tmp_path: Path
) -> None:
    whole, events = uninterrupted
    ended_at(range(1, len(events) + 1), Killed(), whole, rich(model), tmp_path)
    ended_at(range(1, len(events) + 1), RuntimeError("a bug"), whole, rich(model), tmp_path)


def test_the_runs_above_exercise_what_they_are_for(model: Path, uninterrupted: tuple[Path, list[str]]) -> None:
    """Otherwise equal bytes would prove nothing."""
    whole, events = uninterrupted
    metrics = rows(whole)
    assert [row["stage"] for row in metrics] == ["sft", "rl", "rl"]
    assert metrics[0]["loss/sft"] and all(row["loss/pg"] for row in metrics[1:])
    assert metrics[-1]["updates"] > len(metrics), "mini-batches take several updates a step"
    best, final = checkpoints(whole)
    state = json.loads((final / "trainer.json").read_text())
    assert state["position"]["carried"] and state["position"]["method_state"]
    assert state["position"]["best_step"] == 1 and best.name == "step-00000001"
    assert {"rolling out", "tokens", "training", "step", "evaluating", "evaluation"} == set(events)


def test_a_longer_run_resumed_is_the_longer_run(model: Path, tmp_path: Path) -> None:
    settings, longer = (recipe(model, {"steps": steps}, evaluation={"every": 1}) for steps in (1, 3))
    whole, parts = run(longer, tmp_path / "whole"), run(settings, tmp_path / "parts")
    run(longer, parts, resume=True)
    assert differences(whole, parts) == []


def test_a_finished_run_resumed_is_left_as_it_was(model: Path, tmp_path: Path) -> None:
    settings = recipe(model)
    whole, twice = run(settings, tmp_path / "whole"), run(settings, tmp_path / "twice")
    written = checkpoints(twice)[-1].stat().st_mtime_ns
    run(settings, twice, resume=True)
    assert differences(whole, twice) == []
    assert checkpoints(twice)[-1].stat().st_mtime_ns == written, "nothing new to save"


def test_the_recipe_in_the_run_folder_repeats_the_run(model: Path, tmp_path: Path) -> None:
    one = run(recipe(model), tmp_path / "one")
    assert differences(one, run(load(one / "config.yaml"), tmp_path / "two")) == []


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(model: Path, tmp_path: Path) -> None:
    settings = recipe(model, {"steps": 3})
    whole = run(settings, tmp_path / "whole")
    for name in ("model.safetensors", "trainer.safetensors", "trainer.json", "manifest.json"):
        parts = Path(shutil.copytree(whole, tmp_path / name))
        with (checkpoints(parts)[-1] / name).open("r+b") as file:
            file.truncate(100)
        progress = Ends()
        run(settings, parts, progress, resume=True)
        assert any(f"step-00000003 is damaged ({name}" in note for note in progress.notes)
        assert "resuming after step 2" in progress.notes[-1]
        assert differences(whole, parts) == []


def test_where_every_checkpoint_is_damaged_nothing_is_touched(model: Path, tmp_path: Path) -> None:
    settings = recipe(model)
    folder = run(settings, tmp_path / "run")
    for path in checkpoints(folder):
        (path / "manifest.json").unlink()
    before = rows(folder), [path.name for path in checkpoints(folder)]
    with pytest.raises(RunError, match=r"none of the checkpoints in .* is whole, and nothing was changed"):
        run(settings, folder, resume=True)
    assert before == (rows(folder), [path.name for path in checkpoints(folder)])


def test_adapters_of_an_earlier_superrl_are_refused_and_nothing_is_touched(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their folders held the merged model, and the adapters among the trainer's tensors. It may be trained on."""
    named = {"name": str(model), "dtype": "float32", "lora": {"rank": 2}}
    settings = recipe(model, {**SFT, "steps": 3}, model=named, evaluation={"every": 0}, checkpoint={"every": 1})
    with pytest.raises(Interrupted):
        run(settings, tmp_path / "run", Ends(1, signal.SIGTERM, "step"))
    (path,) = checkpoints(tmp_path / "run")
    new, state = tmp_path / "new", json.loads((path / "trainer.json").read_text())
    path.rename(new)

    def fill(old: Path) -> None:
        models.load_model(ModelConfig(name=str(new))).save_pretrained(old)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(new / file, old / file)
        tensors = load_file(new / "trainer.safetensors")
        adapters = {f"adapter/{name}": one for name, one in load_file(new / "adapter_model.safetensors").items()}
        save_file({**tensors, **adapters}, old / "trainer.safetensors")

    checkpoint.write(path.parent, 1, fill, state)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2}\n')
    before = {name: (tmp_path / "run" / name).read_bytes() for name in ("metrics.jsonl", "config.yaml")}
    capsys.readouterr()
    assert cli.run(["train", "--out", str(tmp_path / "run"), "--resume"]) == 2
    err = capsys.readouterr().err
    told = err.strip().splitlines()[-1]
    assert told.startswith(f"superrl: --resume: {path} has no adapter_model.safetensors") and told in err
    assert told.endswith(f"start a new run with model.name: {path}")
    assert before == {name: (tmp_path / "run" / name).read_bytes() for name in before}
    onward = {**named, "name": str(path)}
    assert len(rows(run(recipe(model, SFT, model=onward, evaluation={"every": 0}), tmp_path / "onward"))) == 2


def test_killed_before_the_first_checkpoint_it_starts_anew_and_says_so(model: Path, tmp_path: Path) -> None:
    settings = recipe(model, checkpoint={"every": 0})
    whole, parts = run(settings, tmp_path / "whole"), tmp_path / "parts"
    with pytest.raises(Killed):
        run(settings, parts, Ends(2, by=Killed(), kind="step"))
    progress = Ends()
    run(settings, parts, progress, resume=True)
    assert "no checkpoint was written yet: starting anew" in progress.notes
    assert differences(whole, parts) == []


def test_a_reward_that_fails_leaves_the_last_whole_step(model: Path, tmp_path: Path) -> None:
    settings = recipe(model, {"steps": 3}, checkpoint={"every": 0})
    whole, parts = run(settings, tmp_path / "whole"), tmp_path / "parts"
    calls = 0

    def fails(completions: list[str], **columns: Any) -> list[float]:
        nonlocal calls
        calls += 1
        if calls > 4:  # demonstrations, two evaluations, the first step
            raise ZeroDivisionError("half way")
        return letters(completions)

    progress = Ends()
    fails.__qualname__ = letters.__qualname__
    with pytest.raises(UserError, match="raised ZeroDivisionError"):
        run(settings, parts, progress, reward=fails)
    assert "saved after step 1: continue with" in progress.notes[-1]
    run(settings, parts, resume=True)
    assert differences(whole, parts) == []


def test_best_may_be_the_model_it_started_from(model: Path, tmp_path: Path) -> None:
    """No checkpoint is written at step 0: the model itself is the best one."""
    never = {"method": {"name": "superrl"}, "steps": 0, "from": "best"}
    settings = recipe(model, SFT, {**never, "name": "best"}, evaluation={"every": 1}, checkpoint={"every": 0})
    folder = run(settings, tmp_path / "run", reward=lambda completions, **columns: [0.0] * len(completions))
    assert json.loads((folder / "summary.json").read_text())["validation"]["best_step"] == 0
    weights, initial = (load_file(path / "model.safetensors") for path in (checkpoints(folder)[-1], model))
    assert weights.keys() == initial.keys() and all(weights[name].equal(initial[name]) for name in weights)


def test_counters_run_on_over_stages(model: Path, tmp_path: Path) -> None:
    settings = recipe(model, SFT, {"steps": 2}, evaluation={"every": 0})
    metrics = rows(run(settings, tmp_path / "run"))
    assert [(row["step"], row["stage"], row["stage_step"]) for row in metrics] == [
        (1, "sft", 1), (2, "sft", 2), (3, "rl", 1), (4, "rl", 2)
    ]  # fmt: skip
    assert [row["updates"] for row in metrics] == [1, 2, 3, 4]


def test_no_step_at_all_measures_the_model(model: Path, tmp_path: Path) -> None:
    folder = run(recipe(model, {"steps": 0}), tmp_path / "run")
    assert rows(folder) == [] and [row["step"] for row in rows(folder, "evaluations.jsonl")] == [0, 0, 0]
    assert [path.name for path in checkpoints(folder)] == ["step-00000000"]


def test_validation_every_0_is_never(model: Path, tmp_path: Path) -> None:
    folder = run(recipe(model, evaluation={"every": 0}), tmp_path / "run")
    assert [(row["split"], row["step"]) for row in rows(folder, "evaluations.jsonl")] == [("test", 0), ("test", 2)]
    assert json.loads((folder / "summary.json").read_text())["validation"]["best"] is None


def test_patience_ends_a_stage_and_is_kept_over_a_resume(model: Path, tmp_path: Path) -> None:
    settings = recipe(model, {"steps": 9}, evaluation={"every": 1, "patience": 2})
    nothing = {"reward": lambda completions, **columns: [0.0] * len(completions)}
    whole, parts = run(settings, tmp_path / "whole", **nothing), tmp_path / "parts"
    assert [row["step"] for row in rows(whole)] == [1, 2]
    with pytest.raises(Killed):
        run(settings, parts, Ends(2, by=Killed(), kind="step"), **nothing)
    run(settings, parts, resume=True, **nothing)
    assert differences(whole, parts) == []


def test_a_step_that_finds_no_group_to_learn_from_is_a_step(model: Path, tmp_path: Path) -> None:
    settings = recipe(model, {"refill": {"keep": "mixed", "cap": 2}})
    folder = run(settings, tmp_path / "run", reward=lambda completions, **columns: [1.0] * len(completions))
    assert [(row["groups/drawn"], row["groups/trained"], row["updates"]) for row in rows(folder)] == [(8, 0, 0)] * 2


# Real processes and real signals. They are forked, so that torch need not be loaded again.


@pytest.fixture(scope="module")
def ready(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, float]:
    """A recipe file, its finished run, and how long that took."""
    folder = tmp_path_factory.mktemp("processes")
    reward = {"name": "python:small_runs.letters"}
    settings = recipe(model, {"steps": 8, "reward": reward}, checkpoint={"every": 3})
    (folder / "recipe.yaml").write_text(settings.text())
    started = time.monotonic()
    assert cli.run(["train", str(folder / "recipe.yaml"), "--out", str(folder / "whole")]) == 0
    return folder / "recipe.yaml", folder / "whole", time.monotonic() - started


def command(arguments: Sequence[str]) -> None:
    """The console script, in a process group of its own as a shell gives it one."""
    os.setpgid(0, 0)
    sys.argv = ["superrl", *arguments]
    cli.main()


@contextmanager
def process(settings: Path, out: Path, *arguments: str) -> Iterator[BaseProcess]:
    """`superrl train` beside the test; gone when the block is left."""
    context = multiprocessing.get_context("fork")
    started = context.Process(target=command, args=(["train", str(settings), "--out", str(out), *arguments],))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking a process with threads
        started.start()
    try:
        yield started
        started.join(60)
    finally:
        started.kill()
        started.join()


def until(condition: Callable[[], object], limit: float = 60.0) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, "the other process did not get there"
        time.sleep(0.002)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_leaves_with_its_status_and_says_how_to_go_on(
    number: int, status: int, ready: tuple[Path, Path, float], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings, whole, _ = ready
    out = tmp_path / "run"
    with process(settings, out) as started:
        until(lambda: len(rows(out)) >= 2)
        assert started.pid is not None
        os.killpg(started.pid, number)
    assert started.exitcode == status
    said = capfd.readouterr().err.strip()
    assert said == f"superrl: interrupted; continue with: superrl train {out}/config.yaml --out {out} --resume"
    assert len(rows(out)) == checkpoint.step_of(checkpoints(out)[-1]), "the last whole step is saved"
    assert cli.run(["train", str(out / "config.yaml"), "--out", str(out), "--resume"]) == 0
    assert differences(whole, out) == []


def test_killed_at_random_moments_is_the_same_run(ready: tuple[Path, Path, float], tmp_path: Path) -> None:
    settings, whole, duration = ready
    out, moments = tmp_path / "run", random.Random(1)
    for _ in range(3):
        begun = (out / "config.yaml").exists()
        with process(settings, out, *["--resume"] * begun) as started:
            until((out / "config.yaml").exists)
            time.sleep(moments.uniform(0.0, 0.5 * duration))
            started.kill()
        assert started.exitcode in (-signal.SIGKILL, 0)
    assert cli.run(["train", str(settings), "--out", str(out), "--resume"]) == 0
    assert differences(whole, out) == []


def test_changed_data_are_noticed_on_resume(model: Path, tmp_path: Path) -> None:
    """The recipe may name the same file: what is in it must be the same too."""
    rows = [{"id": str(i), "prompt": f"{i}+1=", "answer": str(i + 1)} for i in range(6)]
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    settings = recipe(model, data={"train": str(data)}, evaluation={"every": 0})
    with pytest.raises(Killed):
        run(settings, tmp_path / "run", Ends(2, Killed(), "step"))
    data.write_text("\n".join(json.dumps({**row, "answer": "0"}) for row in rows))
    with pytest.raises(UserError, match="data of stage rl are not those of the run"):
        run(settings, tmp_path / "run", resume=True)


def test_a_stage_that_starts_anew_leaves_the_checkpoint_of_the_one_before(model: Path, tmp_path: Path) -> None:
    """The step number is the same, the weights are not."""
    settings = recipe(model, SFT, {"from": "initial"}, checkpoint={"every": 1, "keep": 9}, evaluation={"every": 0})
    first = run(recipe(model, SFT, evaluation={"every": 0}), tmp_path / "first")
    with pytest.raises(RunError):  # the first tokens are the test's at step 0, the second the second stage's
        run(settings, tmp_path / "both", Ends(2, RunError("in its first rollout"), "tokens"))
    ends = [checkpoints(folder)[-1] / "model.safetensors" for folder in (first, tmp_path / "both")]
    assert ends[0].read_bytes() == ends[1].read_bytes()


def test_metrics_count_every_group_drawn_not_only_those_kept(model: Path, tmp_path: Path) -> None:
    refilling = {"method": {"name": "grpo"}, "refill": {"keep": "solved", "cap": 3}}
    out = run(recipe(model, refilling, evaluation={"every": 0}), tmp_path / "run")
    for row in rows(out, "metrics.jsonl"):
        assert row["tokens/generated"] >= row["groups/drawn"] * 2 and row["reward/mean"] is not None
    assert any(row["groups/drawn"] > 4 for row in rows(out, "metrics.jsonl"))


def test_every_metric_of_a_run_with_rollouts_is_a_number(model: Path, tmp_path: Path) -> None:
    """Also in a step that trains no rollout, or no demonstration: what is summed is 0, what is counted counts all."""
    out = run(recipe(model, {"steps": 3}, evaluation={"every": 0}), tmp_path / "run")
    absent = {key for row in rows(out) for key, value in row.items() if value is None}
    not_looked_at = {key for key in METRIC_KEYS if key.startswith("streams/")}  # log.streams_every is 0
    assert absent <= {"demo/nll", "demo/probability", "length/demonstration", "grad_norm"} | not_looked_at
