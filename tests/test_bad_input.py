"""Whatever a user gets wrong is one sentence that says what, where and how to mend it: status 2, nothing lost."""

import multiprocessing
import resource
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from small_runs import recipe, rows, small_model, write_lines
from superrl import cli

REWARDS = """
import numpy
from superrl import Score

def good(completions, **columns): return [1.0 for text in completions]
def typed(completions, **columns): return [Score(numpy.float32(1), numpy.bool_(True), {"a": numpy.float32(2)})] * len(completions)
def raises(completions, **columns): raise KeyError("gone")
def none(completions, **columns): return [None for text in completions]
def no_list(completions, **columns): return None
def nan(completions, **columns): return [float("nan") for text in completions]
def few(completions, **columns): return [1.0]
def parts(completions, **columns): return [Score(1.0, True, {"a": float("inf")}) for text in completions]
"""  # noqa: E501

Change = Callable[[dict[str, Any]], object]


class Desk:
    """A folder with a model, a reward file and one good run, in which `superrl train` is tried."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = small_model(folder / "model")
        (folder / "rewards.py").write_text(REWARDS)
        self.tried = 0

    def recipe(self, change: Change = lambda values: None) -> Path:
        """A good recipe with one change, as a file."""
        values = recipe(self.model, {"reward": {"name": "python:rewards.good"}, "steps": 1}).dump()
        change(values)
        path = self.folder / "recipe.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    def train(self, change: Change = lambda values: None, *arguments: str, out: Path | None = None) -> int:
        """The exit status of a recipe with one change."""
        self.tried += 1
        self.out = out or self.folder / f"run{self.tried}"
        return cli.run(["train", str(self.recipe(change)), *arguments, "--out", str(self.out)])

    def data(self, *values: Mapping[str, Any] | str) -> Change:
        """The change to train on these rows, or this text."""
        path = self.folder / "data.jsonl"
        texts = [value for value in values if isinstance(value, str)]
        if texts:
            path.write_text("".join(texts))
        else:
            write_lines(path, [value for value in values if not isinstance(value, str)])
        return lambda recipe: recipe["data"].update(train=str(path))


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(tmp_path_factory.mktemp("desk"))


@pytest.fixture(autouse=True)
def at_the_desk(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk.folder)
    monkeypatch.setenv("SUPERRL_CACHE", str(desk.folder / "cache"))


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    """What stderr says: one line, and no traceback."""
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if "run folder" not in line]
    assert len(lines) == 1 and lines[0].startswith("superrl: "), err
    return lines[0]


def stage(**changes: Any) -> Change:
    return lambda values: values["stages"][0].update(changes)


def top(key: str, **changes: Any) -> Change:
    return lambda values: values.setdefault(key, {}).update(changes)


def both(*changes: Change) -> Change:
    return lambda values: [change(values) for change in changes]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda values: values.update(modle={}), "unknown key 'modle'; did you mean 'model'?"),
        (stage(stepz=3), "unknown key 'stages.0.stepz'; did you mean 'steps'?"),
        (stage(optimizer={"lrr": 1.0}), "unknown key 'stages.0.optimizer.lrr'; did you mean 'lr'?"),
        (stage(method={"name": "superrl", "gatte": 1}), "stages.0.method: unknown key 'gatte'; did you mean 'gate'?"),
        (stage(method={"name": "superrl", "sft": {"wieght": 1}}), "unknown key 'sft.wieght'; did you mean 'weight'?"),
        (stage(method={"name": "grop"}), "stages.0.method: no method 'grop'; did you mean 'grpo'?"),
        (stage(reward={"name": "mth"}), "there is no reward 'mth'; did you mean 'math'?"),
        (stage(reward={"name": "math", "corect_at": 1}), "no option 'corect_at'; did you mean 'correct_at'?"),
        (stage(steps="three"), "stages.0.steps: input should be an integer, got 'three'"),
        (stage(optimizer={"lr": "fast"}), "stages.0.optimizer.lr: input should be a number, got 'fast'"),
        (top("data", train=5), "data.train: input should be text, got 5"),
        (top("data", train="tasks:chian"), "there is no task 'chian': did you mean 'chain'?"),
        (top("data", train="missing.jsonl"), "there is no file missing.jsonl"),
        (top("evaluation", k=4), "k = 4 samples at temperature 0 are all the same: set a temperature"),
        (stage(mini_batches=5), "mini_batches (5) must not exceed prompts_per_step (4)"),
        (stage(**{"from": "best"}), "the first stage starts from the model"),
        (
            both(top("data", validation=None), top("evaluation", patience=2)),
            "evaluation.patience reads validation: name data.validation",
        ),
        (stage(reward={"name": "python:rewards.good", "correct_at": None}), "never says what is correct"),
        (stage(reward={"name": "python:given.f"}), "was given its reward in Python; call superrl.train(reward=...)"),
        (top("data", train="given"), "was given its problems in Python; call superrl.train(problems=...)"),
        (stage(reward={"name": "python:rewards.godo"}), "has no function 'godo'; did you mean 'good'?"),
        (stage(reward={"name": "python:rewards.raises"}), "raised KeyError ('gone') at index 0 (problem 'chain-"),
        (stage(reward={"name": "python:rewards.none"}), "returned None at index 0 (problem 'chain-"),
        (stage(reward={"name": "python:rewards.no_list"}), "returned NoneType instead of a list"),
        (stage(reward={"name": "python:rewards.nan"}), "returned nan at index 0 (problem 'chain-"),
        (stage(reward={"name": "python:rewards.few"}), "returned 1 values for 9 completions"),
        (stage(reward={"name": "python:rewards.parts"}), "a score must be made of finite numbers, got a = inf"),
    ],
)
def test_a_wrong_recipe(change: Change, sentence: str, desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    assert desk.train(change) == 2
    assert sentence in complaint(capsys)
    assert not (desk.out / "config.yaml").exists(), "the folder is free for the mended recipe"


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("steps", "must read path.to.key=value, e.g. stages.0.steps=100"),
        ("=3", "must read path.to.key=value"),
        ("stages.5.steps=1", "no item '5' among ['rl']"),
        ("stages.²=1", "no item '²' among ['rl']"),
        ("stages.rl.steps=[", "the value is not valid YAML"),
        ("seed=2024-13-45", "the value is not valid YAML"),
        ("stages.rl.steps.x=3", "stages.rl.steps holds a value, not keys"),
        ("stagse.0.steps=3", "unknown key 'stagse'; did you mean 'stages'?"),
    ],
)
def test_a_wrong_override(override: str, sentence: str, desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    assert desk.train(lambda values: None, override) == 2
    assert sentence in complaint(capsys)


GOOD = {"prompt": "1+1", "answer": "2"}


@pytest.mark.parametrize(
    ("data", "method", "reward", "sentence"),
    [
        ([{"question": "1+1"}], "grpo", "exact", "data.jsonl, line 1 has no column `prompt`, only question: rename"),
        (['{"prompt": "x"}\n{"prompt": \n'], "grpo", "exact", "data.jsonl, line 2 is not valid JSON"),
        (["\n"], "grpo", "exact", "data.jsonl holds no rows: give a file with at least one"),
        ([GOOD], "sft", "exact", "learns from demonstrations, and the data leave none: 1 problem, none with a"),
        ([{**GOOD, "demonstrations": [""]}], "sft", "exact", "dropped: 1 without text"),
        ([{**GOOD, "demonstrations": ["2" * 99]}], "sft", "exact", "dropped: 1 too long (> 10 tokens"),
        ([{**GOOD, "answer": "??"}], "grpo", "math", "no parser reads the gold answer '??'; write a number or LaTeX"),
        ([{"prompt": "1+1"}], "grpo", "exact", "has no gold answer; add an 'answer' to its row"),
        ([{**GOOD, "prompt": "1+" * 99}], "grpo", "exact", "every prompt is longer than the 159 tokens"),
    ],
)
def test_wrong_data(
    data: list[Any], method: str, reward: str, sentence: str, desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    assert desk.train(both(desk.data(*data), stage(method={"name": method}, reward={"name": reward}))) == 2
    assert sentence in complaint(capsys)


def test_demonstrations_that_cannot_be_used_are_dropped_counted_and_said(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = ["#### 2", "", "2" * 99, "#### 3"]
    data = desk.data(*({"prompt": f"{i}+1", "answer": "2", "demonstrations": [text]} for i, text in enumerate(answers)))
    drop = both(data, stage(reward={"name": "exact"}), top("data", unverified="drop"))
    assert desk.train(drop) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "4 problems, 1 with a demonstration; dropped: 1 without text" in words
    assert "1 too long (> 10 tokens" in words and "1 failed the run's own reward" in words


def test_without_any_demonstration_superrl_runs_and_counts(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    assert desk.train(both(desk.data(GOOD), stage(reward={"name": "exact"}))) == 0
    assert [(row["switch/no_demo"], row["switch/fallback_rate"]) for row in rows(desk.out)] == [(4, 0)]
    assert "none with a demonstration" in capsys.readouterr().out


def test_scores_of_numpy_s_numbers_are_numbers(desk: Desk) -> None:
    assert desk.train(stage(reward={"name": "python:rewards.typed"})) == 0
    score = rows(desk.out, "rollouts.jsonl")[0]["completions"][0]["score"]
    assert score == {"value": 1.0, "correct": True, "parts": {"a": 2.0}}


def test_an_out_that_cannot_be_written(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    file = desk.folder / "file"
    file.write_text("mine")
    for out, why in ((file / "run", "Not a directory"), (file, "File exists"), (Path("x" * 300), "name too long")):
        assert desk.train(out=out) == 2
        assert f"{why}): choose another folder" in complaint(capsys)
    assert file.read_text() == "mine"


def test_what_may_not_be_resumed(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    assert desk.train() == 0
    out, before = desk.out, sorted(path.stat().st_mtime_ns for path in desk.out.rglob("*"))
    capsys.readouterr()
    assert desk.train(out=out) == 2
    assert "already holds a run: add --resume to continue it" in complaint(capsys)
    assert desk.train(stage(group_size=3), "--resume", out=out) == 2
    assert "--resume: stages.0.group_size differs from the run" in complaint(capsys)
    assert desk.train(lambda values: values.update(seed=1), "--resume", out=out) == 2
    assert "--resume: seed differs from the run" in complaint(capsys)
    assert desk.train(lambda values: None, "--resume", out=desk.folder / "nothing") == 2
    assert "holds no run (no config.yaml); leave --resume out" in complaint(capsys)
    assert before == sorted(path.stat().st_mtime_ns for path in out.rglob("*")), "the run was not touched"


def test_a_resume_that_fails_leaves_the_recipe_as_it_was(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    assert desk.train() == 0
    out, before = desk.out, (desk.out / "config.yaml").read_text()
    (out / "checkpoints" / "step-00000001" / "manifest.json").unlink()
    capsys.readouterr()
    assert desk.train(stage(steps=2), "--resume", out=out) == 1
    assert "none of the checkpoints" in capsys.readouterr().err
    assert (out / "config.yaml").read_text() == before


def test_eval_with_several_samples_at_temperature_0(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["eval", str(desk.model), "tasks:chain?ops=1&n=2", "--k", "2"]) == 2
    assert "samples at temperature 0 are all the same" in complaint(capsys)


def limited(arguments: list[str], largest: int) -> None:
    """The console script where no file may be larger: a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    sys.argv = ["superrl", *arguments]
    cli.main()


def test_a_full_disk_is_one_sentence_and_nothing_is_lost(desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    """Weights fit, the optimizer's state does not; forked, so that torch need not be loaded again."""
    path, out = desk.recipe(stage(steps=2, method={"name": "sft"})), desk.folder / "limited"
    arguments = ["train", str(path), "--out", str(out)]
    process = multiprocessing.get_context("fork").Process(target=limited, args=(arguments, 20 * 1024))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking a process with threads
        process.start()
    process.join(60)
    said = capfd.readouterr().err.strip()
    assert process.exitcode == 1 and said.startswith("superrl: ") and "\n" not in said
    assert "was not written; earlier checkpoints are whole: mend that, then --resume" in said
    assert list((out / "checkpoints").iterdir()) == []
    assert cli.run([*arguments, "--resume"]) == 0
    assert [row["step"] for row in rows(out)] == [1, 2]
