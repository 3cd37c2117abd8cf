"""The command line: parse, call, print. Exit status 0 done, 2 the input is wrong, 1 a failure, 130 / 143 interrupted.

Whatever goes wrong, a person reads one sentence on stderr. Only a bug leaves a traceback, in `error.log` of the run
folder. Every command imports what it needs when it runs, so that `superrl --help` starts no torch.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from superrl.errors import Interrupted, RunError, UserError

if TYPE_CHECKING:
    from superrl.comparison.plan import ComparisonConfig
    from superrl.config import PromptConfig

DEFAULT = "default"
"""The recipe of `superrl train` without an argument."""

app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Post-train language models with reinforcement learning and supervision together.",
)  # fmt: skip

_UsageError = cast("type[Exception]", typer.BadParameter.__bases__[0])
"""What the parser raises for an unknown command or option; its class lives in click or in typer, by version."""

_run_folder: list[Path] = []
"""The run folder once a command has one: where the traceback of a bug goes."""


@app.command()
def train(
    recipe: Annotated[str | None, typer.Argument(help="a shipped recipe's name or a YAML file")] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="PATH.TO.KEY=VALUE", help="settings to change: stages.0.steps=100")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="run folder (default: runs/RECIPE-TIME)")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="continue the run in --out")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="check everything, show one row, write nothing")] = False,
) -> None:
    """Train a model as a recipe says. Without one: the tiny model shipped with superrl, on the default recipe."""
    if resume and out is None:
        raise UserError("--resume needs --out DIR, the folder of the run to continue")
    changes = overrides or []
    if recipe is not None and "=" in recipe and not Path(recipe).is_file():
        recipe, changes = "", [recipe, *changes]
    source = recipe or (str(out / "config.yaml") if resume and out is not None else DEFAULT)

    from superrl.config import load

    settings = load(source, changes)
    if dry_run:
        from superrl.training import dry_run as describe

        typer.echo(describe(settings))
        return

    from superrl.report import Progress
    from superrl.runfolder import default_path
    from superrl.training import train as run

    folder = out or default_path(source)
    _run_folder[:] = [folder]
    with Progress(settings) as progress:
        run(settings, folder, resume=resume, progress=progress)


@app.command("eval")
def evaluate(
    model: Annotated[str, typer.Argument(help="model folder, run folder, .gguf file, bundled name or hub id")],
    data: Annotated[str, typer.Argument(help="tasks:NAME, a .jsonl or .parquet file, a preset or hf:ID")],
    k: Annotated[int, typer.Option("--k", min=1, help="samples a problem")] = 1,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy")] = 0.0,
    limit: Annotated[int | None, typer.Option(min=1, help="first so many problems")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="default: what the data bring")] = None,
    out: Annotated[Path | None, typer.Option(help="write the figures to this JSON file, too")] = None,
    reward: Annotated[str | None, typer.Option(help="a reward's name, or its YAML: '{name: math}'")] = None,
    prompt: Annotated[str | None, typer.Option(help="a template with {prompt}, or YAML: '{system: ...}'")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Measure a model's accuracy and pass@k. With a 95 % interval, on data of any kind superrl reads."""
    rewards, template = _reward(reward), _prompt(prompt)
    if out is not None:
        _check_writable(out)

    from superrl.evaluation import evaluate_model
    from superrl.report import Progress

    with Progress() as progress:
        progress.phase("evaluating")
        figures = evaluate_model(
            model, data, k=k, temperature=temperature, limit=limit, max_new_tokens=max_new_tokens, reward=rewards,
            prompt=template, seed=seed, heard=progress.tokens,
        )  # fmt: skip
    typer.echo(_figures(figures))
    if out is not None:
        out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


@app.command()
def compare(
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE_OR_PLAN", help="the recipe that is compared, or a plan (YAML)")
    ] = None,
    others: Annotated[
        list[str] | None, typer.Argument(metavar="RECIPE|PATH.TO.KEY=VALUE", help=
            "further recipes, of which only the stages are used; settings to change in all of them")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="run seeds 0 to N-1 (default: 3)")] = None,
    tune: Annotated[str | None, typer.Option(metavar="LR,LR,...", help="rates every arm tries, on seed 1000")] = None,
    without: Annotated[str | None, typer.Option(metavar="ARM,ARM,...", help="baselines to leave out")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="runs at a time (default: 1, or the plan's)")] = None,
    out: Annotated[Path | None, typer.Option(help="folder, also of a comparison to continue")] = None,
    report_only: Annotated[bool, typer.Option("--report-only", help="run nothing, report what is in --out")] = False,
) -> None:  # fmt: skip
    """Compare recipes fairly. With baselines, several seeds, intervals and pictures; see docs/compare.md."""
    from superrl.comparison import glance, report

    report.require()
    if report_only and out is None:
        raise UserError("--report-only needs --out DIR, the folder of a comparison")
    if report_only and out is not None:
        folder = out
    else:
        arguments = [*([] if recipe is None else [recipe]), *(others or [])]
        plan = _plan(arguments, seeds, tune, without, jobs)

        from superrl.comparison.runner import compare as carry_out
        from superrl.runfolder import default_path

        folder = out or default_path("compare")
        _run_folder[:] = [folder]
        carry_out(plan, folder, typer.echo)
    report.analyse(folder)
    glance.show(json.loads((folder / "compare.json").read_text(encoding="utf-8")), folder)


@app.command()
def inspect(
    data: Annotated[str, typer.Argument(help="tasks:NAME, a .jsonl or .parquet file, a preset or hf:ID")],
    model: Annotated[str, typer.Option(help="whose tokenizer and chat template to use")] = "tiny",
) -> None:
    """Show what would be trained on. Rendered prompts, trained tokens, lengths, dropped rows, scored gold answers."""
    from superrl.inspection import inspect as describe

    typer.echo(describe(data, model))


@app.command()
def show(run: Annotated[Path, typer.Argument(help="a run folder, finished or not")]) -> None:
    """Show what happened in a run, and why. Curves, the switch over time, sampled groups."""
    from superrl.show import show as display

    display(run)


@app.command()
def why(
    run: Annotated[Path, typer.Argument(help="a run folder, finished or not")],
    step: Annotated[int, typer.Argument(help="a step, counted from 1 over all stages")],
    problem: Annotated[str, typer.Argument(help="a problem's id, or enough of its beginning")],
) -> None:
    """Tell one problem's fate in one step. Rolled out, scored, decided, learnt, and its next visit."""
    from superrl.why import why as tell

    tell(run, step, problem)


@app.command()
def page(
    run: Annotated[Path, typer.Argument(help="a run folder, finished or not")],
    out: Annotated[Path | None, typer.Option(help="the HTML file to write (default: RUN/report.html)")] = None,
) -> None:
    """Write a run as one HTML page. Curves, the switch raster, groups; works without a network."""
    if out is not None:
        _check_writable(out)

    from superrl.page import write

    typer.echo(f"wrote {write(run, out)}")


@app.command()
def recipes() -> None:
    """List the shipped recipes."""
    from superrl.config import shipped

    found = shipped()
    width = max(map(len, found), default=0)
    for name, line in found.items():
        typer.echo(f"{name:{width}}  {line}")


@app.command()
def doctor() -> None:
    """Show versions, devices, what is missing. And the command that gets it."""
    from superrl.doctor import report

    text, healthy = report()
    typer.echo(text)
    if not healthy:
        raise typer.Exit(1)


@app.command()
def export(
    source: Annotated[Path, typer.Argument(metavar="RUN_OR_CHECKPOINT", help="a run folder or one of its checkpoints")],
    out: Annotated[Path, typer.Argument(help="the model folder to write")],
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16")] = "bfloat16",
) -> None:
    """Write a checkpoint's model to a folder. In the precision to serve it in, without the trainer's state."""
    from superrl.checkpoint import export as write

    write(source, out, dtype)
    typer.echo(f"wrote {out}")


def main() -> None:
    """The console script: run a command, turn what it raises into one sentence and an exit status."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command; the exit status."""
    _run_folder.clear()
    try:
        status = app(list(arguments) or ["--help"], prog_name="superrl", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the interpreter's own flush at exit
        return 1
    except (Exception, KeyboardInterrupt) as error:
        sentence, status = explain(error)
        print(f"superrl: {sentence}", file=sys.stderr)
    return status if isinstance(status, int) else 0


def explain(error: BaseException) -> tuple[str, int]:
    """What to tell a person about an exception, and the exit status. A bug's traceback goes to the run's error.log."""
    if isinstance(error, UserError | RunError):
        again = _again() if isinstance(error, RunError) and _is_comparison() else None
        return f"{error}; continue with: {again}" if again else str(error), error.exit_code
    if isinstance(error, Interrupted | KeyboardInterrupt | typer.Abort):
        return _interrupted(error)
    if isinstance(error, _UsageError):
        message = cast("Any", error).format_message()
        return f"{message[0].lower()}{message[1:].rstrip('.')}; see superrl --help", 2
    if "No space left on device" in str(error):
        return "the disk is full: free some space, then continue with --resume", 1
    if isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__ or "DefaultCPUAllocator" in str(error):
        return "out of memory: lower max_tokens_per_pack, prompts_per_step or max_new_tokens, or the model's size", 1
    return _bug(error)


def _interrupted(error: BaseException) -> tuple[str, int]:
    status = error.exit_code if isinstance(error, Interrupted) else 130
    if not isinstance(error, Interrupted) or not _run_folder:
        return "interrupted", status
    return f"interrupted; continue with: {_again()}", status


def _is_comparison() -> bool:
    return bool(_run_folder) and (_run_folder[0] / "comparison.yaml").is_file()


def _again() -> str:
    folder = _run_folder[0]
    if _is_comparison():
        return f"superrl compare {folder}/comparison.yaml --out {folder}"
    return f"superrl train {folder}/config.yaml --out {folder} --resume"


def _bug(error: BaseException) -> tuple[str, int]:
    """An exception nobody planned: the traceback is kept where the report of a bug needs it."""
    trace = "".join(traceback.format_exception(error))
    sentence = f"unexpected {type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"
    if _run_folder and _run_folder[0].is_dir():
        log = _run_folder[0] / "error.log"
        try:
            log.write_text(trace, encoding="utf-8")
        except OSError:
            return f"{sentence}\n{trace}", 1
        return f"{sentence} (traceback in {log})", 1
    return f"{sentence}\n{trace}", 1


def _plan(
    arguments: Sequence[str], seeds: int | None, tune: str | None, without: str | None, jobs: int | None
) -> ComparisonConfig:
    """A plan from its file, which then says all but `jobs`, or from recipes and options."""
    from superrl.comparison.plan import is_plan, planned, read_plan

    overrides = [argument for argument in arguments if "=" in argument and not Path(argument).is_file()]
    recipes = [argument for argument in arguments if argument not in overrides]
    if not recipes:
        raise UserError("name a recipe to compare, such as `superrl compare default`, or a plan")
    if plans := [recipe for recipe in recipes if is_plan(Path(recipe))]:
        if len(arguments) > 1 or seeds is not None or tune is not None or without is not None:
            raise UserError(f"{plans[0]} is a plan, which says all but --jobs: put recipes, seeds and settings there")
        return read_plan(Path(plans[0]), **({} if jobs is None else {"jobs": jobs}))
    try:
        rates = [float(rate) for rate in tune.split(",")] if tune is not None else []
    except ValueError:
        raise UserError(f"--tune {tune!r} must be learning rates, such as 1e-5,3e-5,1e-4") from None
    leave_out = [arm.strip() for arm in without.split(",")] if without is not None else []
    return planned(recipes, overrides, seeds or 3, rates, leave_out, jobs or 1)


def _yaml(option: str, text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"{option} {text!r} is not valid YAML") from None


def _reward(text: str | None) -> dict[str, Any] | list[dict[str, Any]] | None:
    """`math` or `{name: math}` or a list of such, as a recipe would hold it."""
    if text is None:
        return None
    value = _yaml("--reward", text)
    values = value if isinstance(value, list) else [value]
    items = [{"name": item} if isinstance(item, str) else item for item in values]
    if not items or not all(isinstance(item, dict) and "name" in item for item in items):
        raise UserError(f"--reward {text!r} must be a reward's name, or YAML such as '{{name: math}}'")
    return items if isinstance(value, list) else items[0]


def _prompt(text: str | None) -> PromptConfig | None:
    """A template such as `Question: {prompt}`, or the whole mapping in YAML."""
    if text is None:
        return None
    from pydantic import ValidationError

    from superrl.complaint import explain
    from superrl.config import PromptConfig

    is_mapping = text.lstrip().startswith(("{system:", "{template:", "{chat:"))
    try:
        return PromptConfig.model_validate(_yaml("--prompt", text) if is_mapping else {"template": text})
    except ValidationError as error:
        raise UserError(explain(error, PromptConfig, "--prompt")) from None


def _check_writable(path: Path) -> None:
    """Before minutes of work, not after."""
    if path.is_dir() or not path.parent.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UserError(f"cannot write {path}: --out must be a file in a folder that exists and may be written to")


def _figures(figures: dict[str, Any]) -> str:
    """`accuracy 0.165 [0.121, 0.220], pass@4 0.310, mean reward 0.165, n 200`."""
    parts = []
    if figures["accuracy"] is not None:
        low, high = figures["ci95"]
        parts.append(f"accuracy {figures['accuracy']:.3f} [{low:.3f}, {high:.3f}]")
        if figures["k"] > 1:
            parts.append(f"pass@{figures['k']} {figures['pass@k']:.3f}")
    return ", ".join([*parts, f"mean reward {figures['reward']:.3f}", f"n {figures['n']}"])


if __name__ == "__main__":
    main()
