"""Rolling out ahead: older weights, the same run however it was interrupted, and what is recorded of the age."""

import json
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from small_runs import Ends, differences, letters, recipe, rows, run, small_model
from superrl import checkpoint, training
from superrl.beside import beside
from superrl.config import Recipe
from superrl.errors import Interrupted, UserError
from superrl.report import Silent

REFILL = {"keep": "mixed", "oversample": 3.0, "cap": 3, "carry_over": True}
VARIANTS: dict[str, dict[str, Any]] = {
    "superrl": {"steps": 4},
    "refill": {"steps": 4, "method": {"name": "grpo"}, "refill": REFILL},
    "mini-batches": {"steps": 3, "mini_batches": 2},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("model"))


def variant(model: Path, name: str, **keys: Any) -> Recipe:
    return recipe(model, {"staleness": 1, **VARIANTS[name]}, **keys)


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
