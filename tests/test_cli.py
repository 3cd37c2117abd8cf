"""The command line: what it parses, what a person reads when something is wrong, and the exit status."""

import subprocess
import sys
from pathlib import Path

import pytest

from superrl import arguments, cli, exits
from superrl.config import PromptConfig, shipped
from superrl.errors import Interrupted, RunError, UserError
from superrl.truncation import Truncation

RECIPE = """
data: {train: "tasks:chain"}
stages: [{name: rl, method: {name: grpo}, steps: 2}]
"""

COMMANDS = ("train", "eval", "compare", "inspect", "show", "why", "page", "recipes", "doctor", "export")
COMMANDS += ("steps", "rewrite", "profile")


NOWHERE = ("--out", "/dev/null/out")
"""Should a comparison not be refused as it is to be, it is refused here, and does not begin."""


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nonsense"], "no such command"),
        (["train", "--nonsense"], "no such option"),
        (["show"], "missing argument"),
        (["eval", "tiny", "data.jsonl", "--k", "0"], "--k"),
        (["eval", "tiny", "data.jsonl", "--k", "many"], "--k"),
        (["eval", "tiny", "data.jsonl", "--reward", "["], "is not valid YAML"),
        (["eval", "tiny", "data.jsonl", "--reward", "{weight: 1}"], "must be a reward's name"),
        (["eval", "tiny", "data.jsonl", "--prompt", "no slot"], "template must contain {prompt}"),
        (["eval", "tiny", "data.jsonl", "--prompt", "{system: x, tempalte: y}"], "did you mean 'template'?"),
        (["eval", "tiny", "data.jsonl", "--truncation", "0.9"], "--truncation '0.9' must be a mapping"),
        (["eval", "tiny", "data.jsonl", "--truncation", "{topp: 0.9}"], "did you mean 'top_p'?"),
        (["eval", "tiny", "data.jsonl", "--truncation", "{top_k: 0}"], "--truncation: top_k: input should be greater"),
        (["eval", "tiny", "data.jsonl", "--truncation", "{}"], "--truncation: name at least one of top_k, top_p"),
        (["eval", "tiny", "data.jsonl", "--truncation", "{top_p: 0.9}"], "changes nothing at temperature 0"),
        (["eval", "tiny", "data.jsonl", "--out", "/nowhere/figures.json"], "cannot write /nowhere/figures.json"),
        (["train", "no-such-recipe"], "no recipe 'no-such-recipe'"),
        (["train", "nowhere.yaml"], "cannot read the recipe nowhere.yaml"),
        (["train", "--resume"], "--resume needs --out DIR"),
        (["compare"], "name a recipe to compare"),
        (["compare", "stages.0.steps=1"], "name a recipe to compare"),
        (["compare", "no-such-recipe"], "no recipe 'no-such-recipe'"),
        (["compare", "default", "--seeds", "0", *NOWHERE], "--seeds"),
        (["compare", "default", "--tune", "1e-4,high", *NOWHERE], "--tune '1e-4,high' must be learning rates"),
        (["compare", "default", "--tune", "-1", *NOWHERE], "tuning.lr"),
        (["compare", "default", "--without", "sftt", *NOWHERE], "no baseline 'sftt'; did you mean 'sft'?"),
        (["compare", "default", "sft-then-rl", "sft-then-rl", *NOWHERE], "two recipes are called 'sft-then-rl'"),
        (["compare", "default", "sft-then-rl", "stages.0.steps=7", *NOWHERE], "give them equal steps"),
        (["compare", "--report-only"], "--report-only needs --out DIR"),
        (["compare", "--report-only", "--out", "/nowhere"], "/nowhere holds no comparison"),
        (["show", "/nowhere"], "/nowhere is not a folder"),
        (["why", "/nowhere", "1", "a"], "/nowhere is not a folder"),
        (["why", "/nowhere", "first", "a"], "step"),
        (["page", "/nowhere"], "/nowhere is not a folder"),
    ],
)
def test_wrong_input_is_one_sentence_and_status_2(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("superrl: ") and sentence.lower() in err.lower()
    assert err.count("\n") == 1 and "Traceback" not in err


def test_help_lists_every_command_and_needs_no_argument(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in COMMANDS)
    assert cli.run(["--help"]) == 0 and capsys.readouterr().out == text
    assert "..." not in text.partition("Commands:")[2], "a command's line is too long for 80 columns"


def test_recipes_are_listed_one_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["recipes"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(shipped())


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (UserError("the data are wrong"), 2, "the data are wrong"),
        (RunError("the run failed"), 1, "the run failed"),
        (OSError(28, "No space left on device"), 1, "the disk is full: free some space, then continue with --resume"),
        (MemoryError(), 1, "out of memory: lower max_tokens_per_pack, "),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, "out of memory: "),
        (KeyboardInterrupt(), 130, "interrupted"),
        (Interrupted(15), 143, "interrupted"),
        (Interrupted(2), 130, "interrupted"),
    ],
)
def test_every_failure_has_its_sentence_and_status(error: BaseException, status: int, sentence: str) -> None:
    found, code = exits.explain(error)
    assert found.startswith(sentence) and "\n" not in found
    assert code == status


def test_a_bug_leaves_its_traceback_in_the_run_folder(tmp_path: Path) -> None:
    exits.run_folder[:] = [tmp_path]
    try:
        sentence, status = exits.explain(ZeroDivisionError("a bug"))
    finally:
        exits.run_folder.clear()
    assert (sentence, status) == (f"unexpected ZeroDivisionError: a bug (traceback in {tmp_path / 'error.log'})", 1)
    assert "ZeroDivisionError: a bug" in (tmp_path / "error.log").read_text()


def test_a_bug_without_a_run_folder_shows_its_traceback() -> None:
    sentence, status = exits.explain(ZeroDivisionError("a bug"))
    assert sentence.startswith("unexpected ZeroDivisionError: a bug\n") and status == 1


def test_an_interrupted_run_says_how_to_continue(tmp_path: Path) -> None:
    exits.run_folder[:] = [tmp_path]
    try:
        sentence, status = exits.explain(Interrupted(15))
    finally:
        exits.run_folder.clear()
    assert sentence == f"interrupted; continue with: superrl train {tmp_path}/config.yaml --out {tmp_path} --resume"
    assert status == 143


def test_an_argument_with_an_equals_sign_is_an_override(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "a=b.yaml"
    recipe.write_text(RECIPE)
    assert cli.run(["train", str(recipe), "stages.rl.stepz=3", "--dry-run"]) == 2
    assert "unknown key 'stages.0.stepz'; did you mean 'steps'?" in capsys.readouterr().err
    assert cli.run(["train", str(recipe), "steps", "--dry-run"]) == 2
    assert "override 'steps' must read path.to.key=value" in capsys.readouterr().err


def test_resuming_without_a_recipe_reads_the_run_s_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["train", "--out", str(tmp_path), "--resume"]) == 2
    assert f"cannot read the recipe {tmp_path / 'config.yaml'}" in capsys.readouterr().err


def test_rewards_and_prompts_may_be_short_or_yaml() -> None:
    assert arguments.reward_of(None) is None and arguments.prompt_of(None) is None
    assert arguments.reward_of("math") == {"name": "math"}
    assert arguments.reward_of("{name: qa, weight: 2}") == {"name": "qa", "weight": 2}
    assert arguments.reward_of("[math, {name: qa}]") == [{"name": "math"}, {"name": "qa"}]
    assert arguments.prompt_of("Q: {prompt}\nA:") == PromptConfig(template="Q: {prompt}\nA:")
    assert arguments.prompt_of("{prompt}") == PromptConfig()
    assert arguments.truncation_of(None) is None
    assert arguments.truncation_of("{top_k: 20, top_p: 0.95}") == Truncation(top_k=20, top_p=0.95)
    assert arguments.prompt_of("{system: Be brief., chat: always}") == PromptConfig(system="Be brief.", chat="always")


def test_figures_are_printed_with_their_interval() -> None:
    figures = {"accuracy": 0.165, "pass@k": 0.31, "ci95": [0.121, 0.22], "n": 200, "k": 4, "reward": 0.2}
    assert cli._figures(figures) == "accuracy 0.165 [0.121, 0.220], pass@4 0.310, mean reward 0.200, n 200"
    unjudged = figures | {"accuracy": None, "ci95": None, "pass@k": None}
    assert cli._figures(unjudged) == "mean reward 0.200, n 200"


def test_a_plan_says_all_but_the_jobs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text("recipes: [no-such-recipe]\nseeds: [5, 6]\n")
    for more in (["--seeds", "2"], ["--tune", "1e-4"], ["--without", "sft"], ["default"], ["stages.0.steps=1"]):
        assert cli.run(["compare", str(plan), *more]) == 2
        assert f"{plan} is a plan, which says all but --jobs" in capsys.readouterr().err
    assert cli.run(["compare", str(plan), "--jobs", "2"]) == 2
    assert "no recipe 'no-such-recipe'" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["matplotlib", "scipy"])
def test_what_a_report_needs_is_missed_before_the_first_run(module: str, tmp_path: Path) -> None:
    code = f"import sys; sys.modules[{module!r}] = None; from superrl.cli import main; sys.argv = sys.argv[1:]; main()"
    command = [sys.executable, "-c", code, "superrl", "compare", "default", "--out", str(tmp_path / "out")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and not (tmp_path / "out").exists()
    assert f"need {module}" in ended.stderr and ended.stderr.endswith("pip install 'superrl[compare]'\n")


def test_an_interrupted_comparison_says_how_to_continue(tmp_path: Path) -> None:
    (tmp_path / "comparison.yaml").touch()
    exits.run_folder[:] = [tmp_path]
    try:
        found = [exits.explain(error) for error in (Interrupted(2), RunError("a worker died"), UserError("bad data"))]
    finally:
        exits.run_folder.clear()
    again = f"superrl compare {tmp_path}/comparison.yaml --out {tmp_path}"
    assert found == [
        (f"interrupted; continue with: {again}", 130),
        (f"a worker died; continue with: {again}", 1),
        ("bad data", 2),
    ]


def test_a_closed_pipe_is_no_error() -> None:
    code = "import sys; from superrl.cli import main; sys.argv = ['superrl', '--help']; main()"
    ended = subprocess.run(
        f'"{sys.executable}" -c "{code}" | true', shell=True, capture_output=True, text=True, check=False
    )
    assert ended.stderr == ""
