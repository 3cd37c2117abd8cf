"""The command line: parse, call, print. Exit status 0 done, 2 the input is wrong, 1 a failure, 130 / 143 interrupted.

Whatever goes wrong, a person reads one sentence on stderr (`exits`). Every command imports what it needs when it runs,
so that `superrl --help` starts no torch.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from superrl.arguments import check_writable, plan_of, prompt_of, reward_of, truncation_of, yaml_of
from superrl.errors import UserError
from superrl.exits import explain, run_folder, told_elsewhere
from superrl.parallel import rank, restarts

DEFAULT = "default"
"""The recipe of `superrl train` without an argument."""
CUTS = "draw likely tokens only, YAML: '{top_k: 20, top_p: 0.95, min_p: 0.05}'"
"""What --truncation is for."""
GRACE = 2.0
"""Seconds that the first of several processes has to tell what happened: torchrun ends all when one has left."""

app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Post-train language models with reinforcement learning and supervision together.",
)  # fmt: skip


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

        if rank() == 0:
            typer.echo(describe(settings))
        return
    if out is None and restarts():
        raise UserError("torchrun --max-restarts needs --out DIR, where a run that is started again finds itself")

    from superrl.report import Progress, Silent
    from superrl.runfolder import default_path
    from superrl.training import train as run

    folder = out or default_path(source)
    run_folder[:] = [folder]
    with Progress(settings) if rank() == 0 else Silent() as progress:
        run(settings, folder, resume=resume, progress=progress)


@app.command("eval")
def evaluate(
    model: Annotated[str, typer.Argument(help="model folder, run folder, .gguf file, bundled name or hub id")],
    data: Annotated[str, typer.Argument(help="tasks:NAME, a .jsonl or .parquet file, a preset or hf:ID")],
    k: Annotated[int, typer.Option("--k", min=1, help="samples a problem")] = 1,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy")] = 0.0,
    truncation: Annotated[str | None, typer.Option(help=CUTS)] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="first so many problems")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="default: what the data bring")] = None,
    out: Annotated[Path | None, typer.Option(help="write the figures to this JSON file, too")] = None,
    reward: Annotated[str | None, typer.Option(help="a reward's name, or its YAML: '{name: math}'")] = None,
    prompt: Annotated[str | None, typer.Option(help="a template with {prompt}, or YAML: '{system: ...}'")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Measure a model's accuracy and pass@k. With a 95 % interval, on data of any kind superrl reads."""
    rewards, template, cuts = reward_of(reward), prompt_of(prompt), truncation_of(truncation)
    if out is not None:
        check_writable(out)

    from superrl.evaluation import evaluate_model, step_tables
    from superrl.report import Progress

    with Progress() as progress:
        progress.phase("evaluating")
        figures = evaluate_model(
            model, data, k=k, temperature=temperature, truncation=cuts, limit=limit, max_new_tokens=max_new_tokens,
            reward=rewards, prompt=template, seed=seed, heard=progress.tokens,
        )  # fmt: skip
    typer.echo(_figures(figures))
    if "by" in figures:
        typer.echo("\n" + step_tables(figures["by"]))
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
        plan = plan_of(arguments, seeds, tune, without, jobs)

        from superrl.comparison.runner import compare as carry_out
        from superrl.runfolder import default_path

        folder = out or default_path("compare")
        run_folder[:] = [folder]
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
def steps(
    source: Annotated[str, typer.Argument(metavar="IN", help="a file of trajectories: solutions, or agents' runs")],
    out: Annotated[Path, typer.Option(help="the file of rows to write (.jsonl)")],
    format: Annotated[str, typer.Option(metavar="NAME", help="the file's format; auto recognises it")] = "auto",
    parser: Annotated[str, typer.Option(metavar="NAME", help="how written solutions are cut: titled, ...")] = "auto",
    report: Annotated[Path | None, typer.Option(help="write what was read and dropped to this JSON file")] = None,
    unresolved: Annotated[bool, typer.Option("--unresolved", help="keep what did not solve its task, too")] = False,
    drop_submit: Annotated[bool, typer.Option("--drop-submit", help="leave out an agent's closing step")] = False,
    targets: Annotated[
        str | None, typer.Option(metavar="KIND", help="write a row a step: paper, next, all or whole")
    ] = None,
    think: Annotated[
        str | None, typer.Option(metavar="MODE", help="the steps' template: prefilled, required, optional or none")
    ] = None,
) -> None:
    """Cut trajectories into steps. Any file of solutions or agents' runs in, data rows out, with a report of drops."""
    from superrl.trajectories import convert, import_options, instance_options

    importing = import_options(parser, unresolved=unresolved, submit=not drop_submit)
    chosen = instance_options(targets, think)
    typer.echo(convert(source, out, format=format, importing=importing, targets=chosen, report=report))


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
        check_writable(out)

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


@app.command()
def rewrite(
    source: Annotated[str, typer.Argument(metavar="IN", help="rows with written solutions: a file, preset or hf:ID")],
    endpoint: Annotated[str, typer.Option(metavar="URL", help="as in http://localhost:8000/v1")],
    model: Annotated[str, typer.Option(help="the model's name there")],
    out: Annotated[Path, typer.Option(help="the .jsonl file to write")],
    report: Annotated[Path | None, typer.Option(help="write counts and dropped replies to this JSON file")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="first so many rows")] = None,
    reward: Annotated[str | None, typer.Option(help="what checks the answers (default: the data's, else math)")] = None,
    question: Annotated[str | None, typer.Option(help="the column that holds it, if not `prompt`")] = None,
    solution: Annotated[str | None, typer.Option(help="the column that holds it, if not `demonstrations`")] = None,
    answer: Annotated[str | None, typer.Option(help="the column that holds it, if not `answer`")] = None,
    key_env: Annotated[str, typer.Option(help="the environment variable with the key, if any")] = "OPENAI_API_KEY",
    concurrency: Annotated[int, typer.Option(min=1, help="requests at a time")] = 16,
    timeout: Annotated[float, typer.Option(min=1.0, help="seconds for one reply")] = 300.0,
    retries: Annotated[int, typer.Option(min=0, help="further tries of a request that fails")] = 6,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="longest reply (default: the server's)")] = None,
    body: Annotated[str, typer.Option(help="fields of every request, YAML: '{temperature: null, seed: 1}'")] = "{}",
    kept: Annotated[Path | None, typer.Option(help="where replies are kept (default: in the cache folder)")] = None,
) -> None:
    """Put solutions into titled steps. By a language model behind an OpenAI-compatible endpoint."""
    fields = yaml_of("--body", body)
    if not isinstance(fields, dict):
        raise UserError(f"--body {body!r} must be a mapping such as '{{temperature: 0.7}}'")
    if report is not None:
        check_writable(report)

    from superrl import rewrite as rewriting
    from superrl.data.written import check_out
    from superrl.endpoint import endpoint as opened
    from superrl.report import Progress

    check_out(out, source, report=report, kept=kept)
    where = opened(
        endpoint, model, key_env=key_env, concurrency=concurrency, timeout=timeout, retries=retries, body=fields
    )
    columns = rewriting.Columns(question, solution, answer)
    with Progress() as progress:
        found = rewriting.rewrite(
            source, out, where, columns=columns, reward=reward_of(reward), limit=limit, kept=kept,
            max_tokens=max_tokens, heard=rewriting.Counted(progress.phase).heard, note=progress.note,
        )  # fmt: skip
    typer.echo(found.text())
    if report is not None:
        report.write_text(json.dumps(found.row(), indent=2) + "\n", encoding="utf-8")
    if not found.kept:
        raise UserError(f"no solution of {source} survived, so {out} was not written")


@app.command()
def profile(
    model: Annotated[str, typer.Argument(help="model folder, run folder, .gguf file, bundled name or hub id")],
    data: Annotated[str, typer.Argument(help="steps:SOURCE, or anything else that train reads")],
    out: Annotated[Path, typer.Option(help="the .jsonl file to write the kept rows to")],
    rollouts: Annotated[int, typer.Option(min=2, help="rollouts a problem")] = 8,
    below: Annotated[float, typer.Option(help="keep those whose mean reward is below this")] = 0.9,
    report: Annotated[Path | None, typer.Option(help="write id, mean, variance, kept of every problem here")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="first so many problems")] = None,
    temperature: Annotated[float, typer.Option(min=0.01)] = 1.0,
    truncation: Annotated[str | None, typer.Option(help=CUTS)] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="default: what the data bring")] = None,
    max_context: Annotated[int | None, typer.Option(min=1, help="leave out what is longer, reply included")] = None,
    reward: Annotated[str | None, typer.Option(help="a reward's name, or its YAML: '{name: step_similarity}'")] = None,
    prompt: Annotated[str | None, typer.Option(help="a template with {prompt}, or YAML: '{system: ...}'")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Keep the problems a model can learn from. Those whose rollouts differ in reward, and are not yet good."""
    rewards, template, cuts = reward_of(reward), prompt_of(prompt), truncation_of(truncation)
    if report is not None:
        check_writable(report)

    from superrl import pivots
    from superrl.data.written import check_out
    from superrl.report import Progress

    check_out(out, data, report=report)
    with Progress() as progress:
        progress.phase("profiling")
        found = pivots.profile_model(
            model, data, out, rollouts=rollouts, below=below, report=report, limit=limit, temperature=temperature,
            truncation=cuts, max_new_tokens=max_new_tokens, max_context=max_context, reward=rewards, prompt=template,
            seed=seed, heard=progress.tokens,
        )  # fmt: skip
    typer.echo(found)


def main() -> None:
    """The console script: run a command, turn what it raises into one sentence and an exit status."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command; the exit status."""
    run_folder.clear()
    try:
        status = app(list(arguments) or ["--help"], prog_name="superrl", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the interpreter's own flush at exit
        return 1
    except (Exception, KeyboardInterrupt) as error:
        if told_elsewhere(error):
            time.sleep(GRACE)
        sentence, status = explain(error)
        if not told_elsewhere(error):
            print(f"superrl: {sentence}", file=sys.stderr)
    return status if isinstance(status, int) else 0


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
