"""Rolling out ahead: older weights, the same run however it was interrupted, and what is recorded of the age."""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from small_runs import TASK, Ends, differences, letters, recipe, rows, run, small_model
from superrl import checkpoint, models, training
from superrl.beside import beside
from superrl.config import Recipe
from superrl.errors import Interrupted, UserError
from superrl.report import Silent
from superrl.sampling.local import LocalSampler

REFILL = {"keep": "mixed", "oversample": 3.0, "cap": 3, "carry_over": True}
VARIANTS: dict[str, dict[str, Any]] = {
    "superrl": {"steps": 4},
    "refill": {"steps": 4, "method": {"name": "grpo"}, "refill": REFILL},
    "mini-batches": {"steps": 3, "mini_batches": 2},
    "hints": {"steps": 3, "method": {"name": "uft", "hint_steps": 2}},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("model"))


def variant(model: Path, name: str, stage: Mapping[str, Any] | None = None, **keys: Any) -> Recipe:
    return recipe(model, {"staleness": 1, **VARIANTS[name], **(stage or {})}, **keys)


@pytest.mark.parametrize("name", VARIANTS)
def test_stopped_after_every_step_it_is_the_same_run(name: str, model: Path, tmp_path: Path) -> None:
    settings = variant(model, name)
    whole, parts = run(settings, tmp_path / "whole"), tmp_path / "parts"
    for stopped in range(settings.steps):
        with pytest.raises(Interrupted):
            run(settings, parts, Ends(1, by=signal.SIGTERM, kind="step"), resume=stopped > 0)
        assert len(rows(parts)) == stopped + 1
    run(settings, parts, resume=True)
    assert differences(whole, parts) == []


def test_threads_change_nothing(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle rolls out before it trains, in the one thread there is."""
    settings = variant(model, "superrl")
    threaded, threads = run(settings, tmp_path / "threaded"), []

    @contextmanager
    def before(work: Callable[[], Any] | None) -> Iterator[Callable[[], Any]]:
        result = work() if work else None
        threads.append(threading.current_thread())
        yield lambda: (result, None)

    monkeypatch.setattr(training, "beside", before)
    assert differences(threaded, run(settings, tmp_path / "one")) == []
    assert len(threads) == 4


def test_the_sampler_sleeps_while_nothing_is_rolled_out(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[int] = []
    monkeypatch.setattr(LocalSampler, "sleep", lambda sampler: slept.append(sampler.version))
    for staleness, expected in ((0, [0, 1, 2]), (1, [2])):  # what is last trained on has nothing beside it
        run(recipe(model, {"staleness": staleness, "steps": 3}), tmp_path / str(staleness))
        assert slept == expected
        slept.clear()


def test_every_batch_but_the_first_is_one_step_old(model: Path, tmp_path: Path) -> None:
    runs = [run(recipe(model, {"staleness": s, "steps": 3}), tmp_path / str(s)) for s in (0, 1)]
    ages = {s: [row["policy/staleness"] for row in rows(folder)] for s, folder in enumerate(runs)}
    assert ages == {0: [0.0, 0.0, 0.0], 1: [0.0, 1.0, 1.0]}
    said = [
        [one["version"] for row in rows(tmp_path / str(s), "rollouts.jsonl") for one in row["completions"]]
        for s in (0, 1)
    ]
    assert [sorted(set(versions)) for versions in said] == [[0, 1, 2], [0, 1]]


def test_a_checkpoint_holds_the_batch_that_was_rolled_out_ahead(model: Path, tmp_path: Path) -> None:
    folder = run(variant(model, "superrl", checkpoint={"every": 1, "keep": 9}), tmp_path / "run")
    ahead = [
        None if (found := json.loads((path / "trainer.json").read_text())["position"]["ahead"]) is None
        else {t["version"] for group in found["groups"] for t in group["trajectories"]}
        for path in checkpoint.steps(folder / "checkpoints")
    ]  # fmt: skip
    assert ahead == [{0}, {1}, {2}, None], "after the last step there is nothing to come"


class Slow(Silent):
    """Outside the main thread the first tokens and the first reward take their time; may stop the run after a step."""

    def __init__(self, stops: bool = False) -> None:
        self.stops = stops
        self.waits = {"tokens": 0.5, "reward": 0.4}

    def wait(self, what: str) -> None:
        if threading.current_thread() is not threading.main_thread():
            time.sleep(self.waits.pop(what, 0.0))

    def step(self, row: Any, timing: Any) -> None:
        if self.stops:
            raise Interrupted(signal.SIGINT)

    def tokens(self, k: int) -> None:
        self.wait("tokens")

    def letters(self, completions: Sequence[str], **columns: Any) -> list[float]:
        self.wait("reward")
        return letters(completions)


@pytest.mark.parametrize("stops", [False, True])
def test_a_step_s_seconds_are_those_of_its_own_batch(stops: bool, model: Path, tmp_path: Path) -> None:
    """The second step's batch is the first that is drawn outside the main thread; also where a checkpoint held it."""
    settings, slow = variant(model, "superrl"), Slow(stops)
    if stops:
        with pytest.raises(Interrupted):
            run(settings, tmp_path / "run", slow, reward=slow.letters)
    folder = run(settings, tmp_path / "run", None if stops else slow, resume=stops, reward=slow.letters)
    timing = rows(folder, "timing.jsonl")
    for phase, least in (("time/rollout", 0.5), ("time/reward", 0.4)):
        second, others = timing[1][phase], [row[phase] for row in timing if row["step"] != 2]
        assert second >= least and second > max(others)
    for row, metrics in zip(timing, rows(folder), strict=True):
        drawn = row["tokens_per_second/generated"] * row["time/rollout"]
        assert drawn == pytest.approx(metrics["tokens/generated"], rel=1e-9)


@pytest.mark.parametrize(
    ("method", "metric", "asked"),
    [
        ({"name": "uft", "hint_steps": 3, "high": 0.9, "low": 0.1}, "hint_probability", [0.7, 0.7, 0.3, 0.1]),
        ({"name": "prefix-rft", "schedule_steps": 3, "high": 0.9, "low_to": 0.1}, "prefix_low", [0.9, 0.9, 0.7, 0.3]),
    ],
)
def test_a_row_tells_what_its_own_rollouts_were_asked_for_with(
    method: dict[str, Any], metric: str, asked: list[float], model: Path, tmp_path: Path
) -> None:
    """0.5 + 0.4 cos(pi t / 3); the second step's are asked for before the first has been learnt from."""
    folder = run(variant(model, "superrl", stage={"method": method}), tmp_path / "run")
    assert [row[f"method/{metric}"] for row in rows(folder)] == pytest.approx(asked)


def test_the_first_steps_of_a_stage_are_of_that_stage(model: Path, tmp_path: Path) -> None:
    folder = run(recipe(model, {"staleness": 1}, {"name": "two", "staleness": 1}), tmp_path / "run")
    assert [row["policy/staleness"] for row in rows(folder)] == [0.0, 1.0, 0.0, 1.0]


def test_a_second_signal_does_not_wait_for_the_rollouts() -> None:
    goes_on = threading.Event()
    with pytest.raises(SystemExit), beside(goes_on.wait):
        raise SystemExit(130)
    goes_on.set()


def test_what_goes_wrong_in_the_thread_is_heard_and_an_error_waits_for_it() -> None:
    def fails() -> None:
        raise UserError("a reward that is none")

    with beside(fails) as outcome:
        result, error = outcome()
    assert result is None and isinstance(error, UserError)
    goes_on, done = threading.Event(), []

    def works() -> None:
        goes_on.wait(10)
        done.append(True)

    with pytest.raises(ValueError), beside(works):
        threading.Timer(0.1, goes_on.set).start()
        raise ValueError
    assert done == [True]


class StopsBeside(Silent):
    """Wants to stop the run as soon as tokens are drawn outside the main thread, after two steps."""

    def __init__(self) -> None:
        self.steps = 0

    def step(self, row: Any, timing: Any) -> None:
        self.steps += 1

    def tokens(self, k: int) -> None:
        if self.steps >= 2:
            raise Interrupted(signal.SIGINT)


def test_who_stops_a_run_beside_its_training_loses_nothing(model: Path, tmp_path: Path) -> None:
    settings = variant(model, "superrl", checkpoint={"every": 0, "keep": 2}, evaluation={"every": 4})
    whole, parts = run(settings, tmp_path / "whole"), tmp_path / "parts"
    with pytest.raises(Interrupted):
        run(settings, parts, StopsBeside())
    run(settings, parts, resume=True)
    assert differences(whole, parts) == []


def test_a_reward_that_fails_beside_the_training_costs_no_step(model: Path, tmp_path: Path) -> None:
    calls: list[int] = []

    def breaks(completions: Sequence[str], **columns: Any) -> list[float]:
        calls.append(len(completions))
        if threading.current_thread() is not threading.main_thread() and len(calls) > 3:
            raise RuntimeError("no more")
        return letters(completions)

    settings = variant(model, "superrl", checkpoint={"every": 0, "keep": 2}, evaluation={"every": 0})
    with pytest.raises(UserError, match="no more"):
        run(settings, tmp_path / "run", reward=breaks)
    steps = len(rows(tmp_path / "run"))
    assert steps >= 1 and [checkpoint.step_of(p) for p in checkpoint.steps(tmp_path / "run" / "checkpoints")] == [steps]


def test_a_method_that_switches_before_the_rollouts_does_not_roll_out_ahead(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"stages\.0\.staleness: sasr decides before the rollouts"):
        run(recipe(model, {"staleness": 1, "method": {"name": "sasr"}}), tmp_path / "run")


def test_a_reward_model_is_loaded_before_anything_goes_on_beside_it(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading sets torch's default type for a moment, under which the training would go on."""
    judge, threads = tmp_path / "judge", []
    small_model(judge)
    config = AutoConfig.from_pretrained(judge, num_labels=1)
    AutoModelForSequenceClassification.from_config(config, dtype=torch.float32).save_pretrained(judge)
    load = models.load_classifier

    def seen(location: str, dtype: str) -> Any:
        threads.append(threading.current_thread())
        return load(location, dtype)

    monkeypatch.setattr(models, "load_classifier", seen)
    held = {"reward": [{"name": "model", "path": str(judge), "dtype": "bfloat16"}], "method": {"name": "grpo"}}
    bare = {"train": f"{TASK}&n=12&demos=0", "test": f"{TASK}&n=2"}  # demonstrations would be scored at the start
    stage, evaluation = {"staleness": 1, "steps": 3, **held}, {"every": 0, "reward": "exact"}
    settings = recipe(model, stage, data=bare, evaluation=evaluation)
    with pytest.raises(Interrupted):
        run(settings, tmp_path / "run", Ends(1, by=signal.SIGTERM, kind="step"), reward=None)
    run(settings, tmp_path / "run", resume=True, reward=None)
    assert threads == [threading.main_thread()] * 2, "also where a checkpoint held the first batch"
