"""Whole runs on several ranks: the same records as one process writes, and what happens when a rank does not go on."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ranks import on_ranks
from small_runs import TASK, Ends, checkpoints, letters, recipe, rows, run, small_model
from superrl.config import Recipe
from superrl.errors import Elsewhere, Interrupted, Lost, RunError, UserError

REFILL = {"keep": "mixed", "oversample": 2.0, "cap": 2, "carry_over": True}
HYBRID = {"name": "hybrid", "probe": {"prompts": 4, "threshold": 1.0}}
VARIANTS: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "superrl": ([{"steps": 3, "mini_batches": 2}], {"log": {"rollouts_per_step": 2, "streams_every": 2}}),
    "hybrid, then ahead": ([{"steps": 2, "method": HYBRID}, {"name": "b", "steps": 3, "staleness": 1}], {}),
    "refill and pivots": (
        [{"steps": 3, "method": {"name": "grpo"}, "refill": REFILL, "pivots": {"rollouts": 4, "below": 1.1}}],
        {},
    ),
    "critic": ([{"steps": 2, "method": {"name": "ppo"}}], {}),
    "reference": ([{"steps": 3, "method": {"name": "grpo", "kl": {"in": "loss", "coefficient": 0.1}}}], {}),
    "lora": ([{"steps": 2}], {}),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("model"))


def variant(name: str, model: Path, **keys: Any) -> Recipe:
    stages, changes = VARIANTS[name]
    named = {"name": str(model), "dtype": "float32"} | ({"lora": {"rank": 2}} if name == "lora" else {})
    return recipe(model, *stages, **{"model": named, **changes, **keys})


def same(one: Path, other: Path) -> None:
    """What is drawn and decided is equal; what is computed agrees to rounding."""
    assert (one / "evaluations.jsonl").read_bytes() == (other / "evaluations.jsonl").read_bytes()
    for file in ("rollouts.jsonl", "visits.jsonl", "metrics.jsonl"):
        mine, theirs = rows(one, file), rows(other, file)
        assert len(mine) == len(theirs) > 0
        for a, b in zip(mine, theirs, strict=True):
            close(a, b, file)
    close(state_of(one), state_of(other), "the method's state")


def state_of(folder: Path) -> Any:
    """What the method keeps from step to step, as the last checkpoint has it."""
    return json.loads((checkpoints(folder)[-1] / "trainer.json").read_text())["position"]["method_state"]


def close(a: Any, b: Any, where: str) -> None:
    """Equal, numbers to rounding; but for what two ranks compute twice."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a.keys() - {"tokens/computed"}:
            close(a[key], b[key], f"{where} {key}")
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            close(x, y, f"{where} {i}")
    elif isinstance(a, float) and isinstance(b, float):
        assert a == pytest.approx(b, rel=2e-3, abs=2e-5), where
    else:
        assert a == b, where


@pytest.mark.parametrize(("name", "strategy"), [*((name, "replicate") for name in VARIANTS), ("reference", "shard")])
def test_two_ranks_write_what_one_writes(name: str, strategy: str, model: Path, tmp_path: Path) -> None:
    settings = variant(name, model, parallel={"strategy": strategy})
    alone = run(settings, tmp_path / "alone")
    found = on_ranks(2, run, settings, tmp_path / "two")
    assert found == [tmp_path / "two"] * 2
    same(alone, tmp_path / "two")
    assert (tmp_path / "two" / "summary.json").is_file() and (tmp_path / "two" / "report.html").is_file()
    assert [path.name for path in checkpoints(alone)] == [path.name for path in checkpoints(tmp_path / "two")]


def test_three_ranks_draw_the_same(model: Path, tmp_path: Path) -> None:
    settings = variant("superrl", model, parallel={"strategy": "shard"})
    assert on_ranks(3, run, settings, tmp_path / "three") == [tmp_path / "three"] * 3
    same(run(settings, tmp_path / "alone"), tmp_path / "three")


@pytest.mark.parametrize(("name", "what"), [("critic", "critic"), ("lora", "model.lora")])
def test_what_split_weights_do_not_serve_is_refused(name: str, what: str, model: Path, tmp_path: Path) -> None:
    found = on_ranks(2, run, variant(name, model, parallel={"strategy": "shard"}), tmp_path / "run")
    assert all(one.kind is UserError and what in one.text and one.status == 2 for one in found)


def interrupted(settings: Recipe, out: Path, victim: int) -> Any:
    """Rank `victim` gets SIGTERM when step 1 is done; the others hear nothing."""
    mine = int(os.environ["RANK"]) == victim
    return run(settings, out, Ends(1, by=signal.SIGTERM, kind="step") if mine else None)


def test_a_signal_to_the_first_rank_stops_all_and_one_process_goes_on(model: Path, tmp_path: Path) -> None:
    settings = variant("superrl", model, parallel={"strategy": "shard"})
    found = on_ranks(2, interrupted, settings, tmp_path / "run", 0)
    assert [(one.kind, one.status) for one in found] == [(Interrupted, 143)] * 2
    assert checkpoints(tmp_path / "run")[-1].name == "step-00000001"
    run(settings, tmp_path / "run", resume=True)
    same(run(settings, tmp_path / "alone"), tmp_path / "run")


class Fails:
    """A reward that fails on one rank at the nth call: raises, dies, hangs, or hears a signal."""

    __qualname__ = "fails"

    def __init__(self, rank: int, nth: int, how: str) -> None:
        self.rank, self.left, self.how = rank, nth, how

    def __call__(self, completions: list[str], **columns: Any) -> list[float]:
        self.left -= 1
        if not self.left and int(os.environ["RANK"]) == self.rank:
            if self.how == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how == "hangs":
                time.sleep(12)
            if self.how == "hears":
                os.kill(os.getpid(), signal.SIGTERM)
            if self.how == "raises":
                raise ValueError("no such judge")
        return [float(len(set(text)) % 2 == 0) for text in completions]


def failing(settings: Recipe, out: Path, how: str) -> Any:
    return run(settings, out, reward=Fails(1, 6, how))


@pytest.mark.parametrize(
    ("how", "first", "status"),
    [("raises", UserError, 2), ("dies", Lost, 1), ("hangs", Lost, 1), ("hears", Interrupted, 143)],
)
def test_a_rank_that_stops_stops_all_after_a_checkpoint(
    how: str, first: type, status: int, model: Path, tmp_path: Path
) -> None:
    settings = variant("superrl", model, parallel={"timeout": 5.0 if how == "hangs" else 60.0})
    found = on_ranks(2, failing, settings, tmp_path / "run", how)
    assert (found[0].kind, found[0].status) == (first, status), found[0]
    if how == "raises":
        assert "no such judge" in found[0].text and found[1].kind is Elsewhere
    steps = len(rows(tmp_path / "run"))
    assert steps > 0 and checkpoints(tmp_path / "run")[-1].name == f"step-{steps:08d}"
    on_ranks(2, run, settings, tmp_path / "run", TORCHELASTIC_MAX_RESTARTS="1")
    same(run(settings, tmp_path / "alone"), tmp_path / "run")


def test_a_run_that_was_never_begun_is_begun_by_a_restart(model: Path, tmp_path: Path) -> None:
    settings = variant("superrl", model)
    assert on_ranks(1, run, settings, tmp_path / "run", TORCHELASTIC_MAX_RESTARTS="1") == [tmp_path / "run"]


def torchrun(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=240, check=False, env={**os.environ, **environment}
    )


@pytest.mark.slow
def test_torchrun_restarts_a_run_that_lost_a_rank(model: Path, tmp_path: Path) -> None:
    settings = variant("superrl", model).dump()
    (tmp_path / "recipe.json.yaml").write_text(json.dumps({**settings, "stages": [_killed(settings["stages"][0])]}))
    (tmp_path / "killing.py").write_text(KILLING)
    out = tmp_path / "run"
    done = torchrun(
        "--max-restarts", "1", "-m", "superrl", "train", str(tmp_path / "recipe.json.yaml"), "--out", str(out),
        PYTHONPATH=os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "resuming after step" in done.stdout + done.stderr and (tmp_path / "killed").is_file()
    assert [row["step"] for row in rows(out)] == [1, 2, 3]


def _killed(stage: dict[str, Any]) -> dict[str, Any]:
    return {**stage, "reward": {"name": "python:killing.reward"}, "train": f"{TASK}&n=12&demos=9"}


KILLING = '''
import os, signal
from pathlib import Path

HERE = Path(__file__).parent

def reward(prompts, completions, **columns):
    """Kills its process once, the second one, in the second step."""
    told = HERE / "run" / "metrics.jsonl"
    if os.environ["RANK"] == "1" and told.exists() and told.stat().st_size and not (HERE / "killed").exists():
        (HERE / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return [float(len(set(text)) % 2 == 0) for text in completions]
'''


@pytest.mark.slow
def test_torchrun_tells_bad_input_once(model: Path, tmp_path: Path) -> None:
    done = torchrun("-m", "superrl", "train", "default", "stages.0.method.name=grop", "--out", str(tmp_path / "run"))
    assert done.stderr.count("superrl: ") == 1 and "did you mean" in done.stderr
    assert "exitcode  : 2" in done.stderr
    done = torchrun("--max-restarts", "1", "-m", "superrl", "train")
    assert done.stderr.count("superrl: torchrun --max-restarts needs --out") >= 1


def test_an_error_of_ours_keeps_its_kind() -> None:
    assert issubclass(Lost, RunError)


def fails_beside(completions: list[str], **columns: Any) -> list[float]:
    """A reward that serves the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("no more")
    return letters(completions)


def test_a_failure_beside_the_training_stops_all_ranks_after_a_checkpoint(tmp_path: Path) -> None:
    stage = {"staleness": 1, "steps": 4}
    quiet = {"checkpoint": {"every": 0, "keep": 2}, "evaluation": {"every": 0}}
    settings, out = recipe(small_model(tmp_path / "model"), stage, **quiet), tmp_path / "run"
    first, second = on_ranks(2, lambda: run(settings, out, reward=fails_beside))
    assert (first.kind, first.status, second.kind, second.status) == (UserError, 2, Elsewhere, 2)
    assert "no more" in first.text
    assert len(rows(out)) == 1 and [path.name for path in checkpoints(out)] == ["step-00000001"]
