"""Whole small comparisons: every run is done once, whatever happened to the ones before."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from small_runs import STAGE, TASK, heeding_ctrl_c, outcome, rows, small_model
from superrl import cli
from superrl.comparison import report
from superrl.comparison.arms import Paired, arms_of, recipe_of
from superrl.comparison.plan import ComparisonConfig, MeasuresConfig, planned, read_plan
from superrl.comparison.runner import Comparison, _run, _with_columns, compare
from superrl.comparison.work import Job, work
from superrl.config import load
from superrl.errors import Diverged, Interrupted, RunError, UserError

REWARD = """
def letters(completions, **columns):
    return [float(len(set(text)) % 2 == 0) for text in completions]

def broken(completions, **columns):
    raise KeyError("no such column")
"""
WITHOUT = ["sft", "grpo", "sft-then-rl", "superrl-no-pg"]
LOOKS = MeasuresConfig(pass_at=2, problems=3)
RUNS = [f"default/{arm}/seed-{seed}" for arm in ("refill", "superrl", "yoked") for seed in (0, 1)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory with a model, a reward and a recipe, as a user has one; workers inherit it."""
    folder = tmp_path_factory.mktemp("place")
    small_model(folder / "model")
    (folder / "rewards_of_mine.py").write_text(REWARD)
    recipe = {
        "model": {"name": "model", "dtype": "float32"},
        "data": {"train": f"{TASK}&n=12&demos=9", "validation": f"{TASK}&n=3", "test": [f"{TASK}&n=2"],
                 "unverified": "keep"},
        "stages": [{**STAGE, "reward": {"name": "python:rewards_of_mine.letters"}}],
        "evaluation": {"every": 1},
        "checkpoint": {"every": 0, "keep": 1},
    }  # fmt: skip
    (folder / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


def plan_of(**changes: Any) -> ComparisonConfig:
    plan = planned(["tiny.yaml"], [], **{"seeds": 2, "tune": [1e-3, 5e-3], "without": WITHOUT, **changes})
    return plan.model_copy(update={"measures": LOOKS})


@pytest.fixture(scope="module")
def finished(place: Path) -> tuple[Path, list[str]]:
    notes: list[str] = []
    return compare(plan_of(), Path("finished"), notes.append), notes


def kept(out: Path) -> dict[str, int]:
    """When every run was finished."""
    return {str(path.parent.relative_to(out)): path.stat().st_mtime_ns for path in sorted(out.rglob("summary.json"))}


def test_every_arm_is_tuned_alike_and_run_on_every_seed(finished: tuple[Path, list[str]]) -> None:
    out, notes = finished
    trials = [
        f"tuning/default/{arm}/lr-{lr}/seed-1000" for arm in ("refill", "superrl", "yoked") for lr in (0.001, 0.005)
    ]
    assert list(kept(out)) == [*(f"runs/{run}" for run in RUNS), *trials]
    assert notes[0] == "comparison folder: finished" and notes[1] == "2 runs"
    told = [note.split()[1] for note in notes if "2 steps, " in note and ", test " in note]
    assert sorted(told) == list(kept(out)), "a line for every run"
    assert told[:2] == [trials[2], trials[3]], "partners come first"
    chosen = json.loads((out / "chosen.json").read_text())["default"]
    for arm, found in chosen.items():
        marks = {}
        for trial in found["trials"]:
            curve = [
                row["accuracy"]
                for row in rows(out / trial["folder"], "evaluations.jsonl")
                if row["split"] == "validation"
            ]
            assert trial["validation"] == sum(curve) / 3, "steps 0, 1, 2"
            marks[trial["point"]["lr"]] = sum(curve) / 3
        best = max(marks, key=lambda lr: (marks[lr], -lr))
        assert found["point"] == {"lr": best} and len(marks) == 2
        for seed in (0, 1):
            (stage,) = load(out / "runs" / "default" / arm / f"seed-{seed}" / "config.yaml").stages
            assert stage.optimizer.lr == best
    assert [note for note in notes if "base" in note] == ["1 base", "1/1  base/default  the base, looked at"]


def test_reported_runs_and_the_base_are_looked_at_and_trials_are_not(finished: tuple[Path, list[str]]) -> None:
    out, _ = finished
    measures = ("kl.json", "imitation.json", "passes.json")
    assert not [path for name in measures for path in (out / "tuning").rglob(name)]
    for run in RUNS:
        assert math.isfinite(json.loads((out / "runs" / run / "kl.json").read_text())["kl_from_base"])
    assert not (out / "base/default/kl.json").exists()
    for folder in (out / "base/default", *(out / "runs" / run for run in RUNS)):
        looked = json.loads((folder / "imitation.json").read_text())
        assert looked["asked"] == {"held_out": f"{TASK}&n=2", "problems": 3}
        assert [looked[name]["problems"] for name in ("trained", "held_out")] == [3, 2]
        counts = json.loads((folder / "passes.json").read_text())["correct"]
        assert len(counts) == 2 and set(counts.values()) <= {0, 1, 2}
    made_with = json.loads((out / "runs" / RUNS[0] / "made-with.json").read_text())
    assert list(made_with) == ["superrl", "torch", "transformers", "python", "device", "threads"]


def test_what_is_asked_for_later_is_measured_later_and_nothing_is_run_again(
    finished: tuple[Path, list[str]], tmp_path: Path
) -> None:
    out = Path(shutil.copytree(finished[0], tmp_path / "copy"))
    before, kl = kept(out), {path: path.stat().st_mtime_ns for path in out.rglob("kl.json")}
    more = MeasuresConfig(pass_at=4, problems=3)
    notes: list[str] = []
    compare(plan_of().model_copy(update={"measures": more}), out, notes.append)
    assert (
        len([note for note in notes if "/seed-" in note]) == 6 and notes[-1] == "1/1  base/default  the base, looked at"
    )
    assert kept(out) == before and {path: path.stat().st_mtime_ns for path in kl} == kl
    found = [json.loads(path.read_text()) for path in out.rglob("passes.json")]
    assert len(found) == 7 and all(one["asked"]["samples"] == 4 for one in found)
    notes.clear()
    compare(plan_of().model_copy(update={"measures": MeasuresConfig(imitation=False)}), out, notes.append)
    assert not [note for note in notes if "/seed-" in note or "base" in note], "to ask for less is to do nothing"
    assert len(list(out.rglob("passes.json"))) == 7
    report.analyse(out)
    setting = json.loads((out / "compare.json").read_text())["settings"]["default"]
    assert list(setting["passes"]["arms"]["superrl"]["at"]) == ["1", "2", "4"] and setting["imitation"]["base"]
    text = (out / "methods.md").read_text()
    assert "from 4 completions at temperature 1 of each of 2 problems of the primary test set" in text
    assert "those of 3 training problems and 2 held-out ones" in text


def test_paired_arms_get_what_their_partner_of_the_same_seed_did(finished: tuple[Path, list[str]]) -> None:
    out, _ = finished
    for folder in ("runs/default/{}/seed-0", "runs/default/{}/seed-1", "tuning/default/{}/lr-0.005/seed-1000"):
        partner = rows(out / folder.format("superrl"))
        yoked = load(out / folder.format("yoked") / "config.yaml")
        counts = [row["switch/fallbacks"] for row in partner]
        assert yoked.stages[0].method["counts"] == counts and sum(counts) > 0
        assert [row["switch/fallbacks"] for row in rows(out / folder.format("yoked"))] == counts
        tokens = sum(row["tokens/generated"] for row in partner)
        refill = load(out / folder.format("refill") / "config.yaml")
        assert (refill.budget.tokens, yoked.budget.tokens) == (tokens, None)


def test_a_finished_comparison_is_read_and_nothing_is_repeated(finished: tuple[Path, list[str]]) -> None:
    out, _ = finished
    before, notes = kept(out), []
    compare(read_plan(out / "comparison.yaml"), out, notes.append)
    assert kept(out) == before
    assert sorted(notes[1:]) == [*["2 runs, 2 of them done before"] * 2, *["4 runs, 4 of them done before"] * 2]
    report.analyse(out)
    analysis = json.loads((out / "compare.json").read_text())
    assert analysis["missing"] == [] and len(analysis["runs"]) == 6
    assert (analysis["treatment"], analysis["baseline"]) == ("superrl", "refill")


def test_only_what_is_missing_is_done_again(finished: tuple[Path, list[str]], tmp_path: Path) -> None:
    out = Path(shutil.copytree(finished[0], tmp_path / "copy"))
    lost = out / "runs/default/superrl/seed-1"
    (lost / "summary.json").unlink()
    unmeasured = out / "runs/default/yoked/seed-0/kl.json"
    measured = unmeasured.read_text()
    unmeasured.unlink()
    before, notes = kept(out), []
    compare(plan_of(), out, notes.append)
    done = [note for note in notes if "/seed-" in note]
    assert len(done) == 2 and "1/1  runs/default/superrl/seed-1  2 steps" in done[0] and "yoked/seed-0" in done[1]
    assert before.items() < kept(out).items() and outcome(lost) == outcome(finished[0] / "runs/default/superrl/seed-1")
    assert unmeasured.read_text() == measured


def test_more_seeds_go_into_the_same_folder_and_other_plans_do_not(
    finished: tuple[Path, list[str]], tmp_path: Path
) -> None:
    out = Path(shutil.copytree(finished[0], tmp_path / "copy"))
    for plan, key in (
        (plan_of(tune=[1e-3]), "tuning"),
        (plan_of().model_copy(update={"overrides": ["evaluation.every=2"]}), "overrides"),
        (plan_of().model_copy(update={"recipes": ["./tiny.yaml"]}), "recipes"),
    ):
        with pytest.raises(UserError, match=f"is another plan \\({key} differs\\): choose another --out"):
            compare(plan, out)
    setting = plan_of().settings["default"].model_copy(update={"columns": {"in distribution": f"{TASK}&n=1"}})
    with pytest.raises(UserError, match=r"is another plan \(settings.default differs\)"):
        compare(plan_of().model_copy(update={"settings": {"default": setting}}), out)
    comparison = Comparison(_with_columns(plan_of(seeds=3)), tuple(arms_of(plan_of())), out, print)
    jobs = [comparison.job("default", arm, 2, {"lr": 1e-3}, Paired(9, (1,)), False) for arm in comparison.arms]
    assert not any(job.done for job in jobs)
    with pytest.raises(UserError, match="holds a run of its own"):
        compare(plan_of(), out / "runs/default/superrl/seed-0")


def test_a_run_of_another_recipe_does_not_pass_as_ours(finished: tuple[Path, list[str]], tmp_path: Path) -> None:
    out = Path(shutil.copytree(finished[0], tmp_path / "copy"))
    text = Path("tiny.yaml").read_text()
    try:
        Path("tiny.yaml").write_text(text.replace("keep: 1", "keep: 3"))
        compare(plan_of(), out)
        Path("tiny.yaml").write_text(text.replace("steps: 2", "steps: 3"))
        with pytest.raises(UserError, match=r"holds a run of another recipe \(stages differs\): choose another --out"):
            compare(plan_of(), out)
    finally:
        Path("tiny.yaml").write_text(text)


def job_in(folder: Path, *, steps: int = 2, **changes: Any) -> Job:
    plan = planned(["tiny.yaml"], [f"stages.0.steps={steps}"])
    (arm,) = (arm for arm in arms_of(plan) if arm.name == "superrl")
    recipe = recipe_of(plan, "default", arm, 0, {}).model_copy(update=changes)
    return Job(folder, recipe, folder.name, {"kl": {}})


def never() -> bool:
    """Nobody wants to stop."""
    return False


def test_a_run_that_is_cut_goes_on_to_the_same_end(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = job_in(tmp_path / "whole", steps=4), job_in(tmp_path / "parts", steps=4)
    assert "4 steps" in work(whole, never) and whole.done
    monkeypatch.setattr("superrl.comparison.work.LOOK", 0.0)
    for steps in (0, 1, 3):
        with pytest.raises(Interrupted):
            work(parts, lambda: len(rows(parts.folder)) >= steps)  # noqa: B023
        assert len(rows(parts.folder)) == steps and not parts.done
    work(parts, never)
    assert outcome(parts.folder) == outcome(whole.folder)
    assert (parts.folder / "kl.json").read_text() == (whole.folder / "kl.json").read_text()


def test_a_run_without_its_distance_is_finished_all_the_same(place: Path, tmp_path: Path) -> None:
    job = job_in(tmp_path / "run")
    work(job, never)
    (job.folder / "kl.json").unlink()
    shutil.rmtree(job.folder / "checkpoints")
    assert not job.done
    told = work(job, never)
    assert "its distance from the base is unknown" in told and "holds no complete checkpoint" in told
    found = json.loads((job.folder / "kl.json").read_text())
    assert found == {"why": found["why"]} and "no complete checkpoint" in found["why"] and job.done


class Told:
    """A crew that knows its outcomes beforehand."""

    def __init__(self, *outcomes: str | Exception) -> None:
        self.outcomes = outcomes

    def each(self, tasks: list[Job]) -> Iterator[tuple[Job, str | Exception]]:
        yield from zip(tasks, self.outcomes, strict=True)


def test_what_diverged_is_kept_as_failed_and_anything_else_ends_the_comparison(place: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    comparison = Comparison(plan_of(), (), tmp_path, notes.append)
    jobs = [job_in(tmp_path / name) for name in ("one", "two")]
    _run(comparison, Told(Diverged("the weights have diverged"), "fine"), jobs)  # type: ignore[arg-type]
    assert json.loads((tmp_path / "one/failed.json").read_text()) == {"why": "the weights have diverged"}
    assert notes == ["2 runs", "1/2  one  failed: the weights have diverged", "2/2  two  fine"] and jobs[0].done
    for error, wanted in (
        (UserError("bad data"), UserError),
        (RunError("disk full"), RunError),
        (OSError("x"), OSError),
    ):
        with pytest.raises(wanted) as ended:
            _run(comparison, Told(error), jobs)  # type: ignore[arg-type]
        assert str(ended.value) == ("x" if wanted is OSError else f"two: {error}") and not jobs[1].done
    assert notes[2:][-1] == "2 runs, 1 of them done before"


SUPERRL = [sys.executable, "-c", "from superrl.cli import main; main()", "compare"]


def test_a_user_s_mistake_in_a_worker_is_one_sentence(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reward = "stages.0.reward.name=python:rewards_of_mine.broken"
    assert cli.run(["compare", "tiny.yaml", reward, "--out", "broken"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("superrl: runs/default/sft/seed-0: reward ") and "no such column" in told
    assert told.count("\n") == 1


def test_ctrl_c_saves_the_runs_and_names_the_command_that_continues(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The signal goes to the whole group, as from a terminal: to the workers, too."""
    out = Path("cut")
    more = ["stages.0.steps=60", "evaluation.every=30", "--seeds", "1", "--without", ",".join([*WITHOUT, "yoked"])]
    running = subprocess.Popen(
        [*SUPERRL, "tiny.yaml", *more, "--out", str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, preexec_fn=heeding_ctrl_c,
    )  # fmt: skip
    run, until = out / "runs/default/superrl/seed-0", time.monotonic() + 180
    while len(rows(run)) < 3 and time.monotonic() < until:
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGINT)
    told, complaint = running.communicate(timeout=60)
    again = "superrl compare cut/comparison.yaml --out cut"
    assert running.returncode == 130 and complaint == f"superrl: interrupted; continue with: {again}\n"
    assert "interrupted: runs that are going on are saved first" in told
    saved = len(rows(run))
    assert 3 <= saved < 60 and (run / f"checkpoints/step-{saved:08}/manifest.json").is_file()
    assert cli.run(again.split()[1:]) == 0
    assert [row["step"] for row in rows(run)] == list(range(1, 61))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "comparison folder: cut" and max(map(len, lines)) <= 100
    assert "default: in distribution in %, and superrl minus the arm (Holm-adjusted)" in lines
    assert any(line.split()[:2] == ["refill", "1"] and "one seed says nothing" in line for line in lines)
    assert "all of it  cut/compare.md" in lines and (out / "compare.md").is_file()
    assert any(line.startswith("pictures   cut/{") for line in lines)
