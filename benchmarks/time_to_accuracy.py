"""Seconds of training until a held-out accuracy is reached: superrl and TRL by GRPO, and superrl with expert solutions.

    python benchmarks/time_to_accuracy.py --trl-python VENV/bin/python [--out FILE.json] [--repeats 3]
        [--task 'logic?distractors=2'] [--accuracy 0.6 0.7] [--arms grpo superrl trl] [--lr ARM=RATE ...]
        [--tune RATE RATE ...]

Arms: `grpo` and `superrl` are those methods of ours, `trl` is TRL's GRPO; only `superrl` reads the problems' expert
solutions (in place of a group that failed as a whole). All start from the shipped model `tiny`, float32, and get the
same problems, each in an order of its own, the same reward (1 if the answer is right), prompts and rollouts a step,
most tokens, temperature 1, AdamW, one update a step with tokens averaged a rollout (so no clip acts), no KL term. Every
few steps each decodes the same held-out problems greedily; side_learning.py says what is on the clock and what is not.

An accuracy counts as reached at the first evaluation that has it, if the next has it too; a run ends there (with the
highest of `--accuracy`) or after `--limit` steps. A run that ended without it counts with all its seconds, so that a
figure behind >= is a lower bound. Runs are one after the other, seed by seed, in reversed order at every other seed.
`--repeats` is the number of seeds, and figures are medians over them with quartiles; ratios are of runs of one seed.

The learning rate of each arm is the best of its own for `--tune 1e-4 2e-4 4e-4`, which does nothing but one run for
each arm and rate, on a seed that the comparison does not use (but on held-out problems that it does), and names the
rate with the fewest seconds to the highest accuracy (or the best last accuracy, if no rate got there). RATES are what
it named for the default task with 200 problems held out. Of TRL's settings micro-batches of 32, 64 and 256 rows took
the same time, and continuous batching three times as long; so the default is 32 rows and `generate`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from common import GIB, Side, Turn, machine, parser, ratio, save, settings, shown, spread, table
from side_learning import Course

RATES = {"grpo": 1e-4, "superrl": 2e-4, "trl": 2e-4}
TUNING_SEED = 100
HERE = Path(__file__).parent


def problems(task: str, split: str, count: int, file: Path) -> int:
    """Write the problems of a task for both sides to read; the most tokens that an answer may have."""
    from superrl.tasks import load

    loaded = load(f"{task}{'&' if '?' in task else '?'}n={count}", split)
    lines = [
        {
            "id": problem.id,
            "prompt": problem.messages[0]["content"],
            "answer": problem.answer,
            "demonstrations": [one.text for one in problem.demonstrations],
        }
        for problem in loaded.problems
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return int(loaded.defaults["max_new_tokens"])


def course(arm: str, lr: float, seed: int, options: argparse.Namespace, folder: Path) -> Course:
    """What one run is told; its problems are written to the folder."""
    from superrl.models import resolve

    train, held_out = folder / "train.jsonl", folder / "held-out.jsonl"
    problems(options.task, "validation", options.held_out, held_out)
    new_tokens = problems(options.task, "train", options.problems, train)
    return Course(
        arm,
        resolve("tiny").location,
        str(train),
        str(held_out),
        new_tokens,
        lr,
        seed,
        prompts=options.prompts,
        group=options.group,
        every=options.every,
        threads=options.threads,
        pack=options.pack,
        micro_batch=options.micro_batch,
    )


def run(arm: str, lr: float, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One run from the shipped weights: its curve, and its peak memory."""
    curve: list[Turn] = []
    with tempfile.TemporaryDirectory() as folder:
        path = course(arm, lr, seed, options, Path(folder)).save(Path(folder) / "course.json")
        python = options.trl_python if arm == "trl" else sys.executable
        side = Side(arm, [python, str(HERE / "side_learning.py"), str(path)], options.threads)
        try:
            while not ended(curve, options):
                curve.append(side.turn())
                told = f"step {curve[-1]['step']:4} {curve[-1]['clock']:8.2f} s  {curve[-1]['accuracy']:.3f}"
                print(f"seed {seed:3} {arm:8} lr {lr:g} {told}", file=sys.stderr, flush=True)
        finally:
            side.close()
    points = [{key: told[key] for key in ("step", "clock", "accuracy")} for told in curve]
    return {"arm": arm, "lr": lr, "seed": seed, "peak_gib": curve[-1]["peak_bytes"] / GIB, "curve": points}


def reached(curve: Sequence[Turn], accuracy: float) -> Turn | None:
    """The first evaluation that has an accuracy which the next has, too; None if there is none (yet).

    >>> curve = [{"step": i, "accuracy": a} for i, a in enumerate([0.1, 0.5, 0.4, 0.5, 0.6])]
    >>> reached(curve, 0.5)["step"], reached(curve, 0.6)
    (3, None)
    """
    return next((one for one, after in pairwise(curve) if min(one["accuracy"], after["accuracy"]) >= accuracy), None)


def ended(curve: Sequence[Turn], options: argparse.Namespace) -> bool:
    """Whether a run has nothing more to tell."""
    return bool(curve) and (curve[-1]["step"] >= options.limit or reached(curve, max(options.accuracy)) is not None)


def effort(curve: Sequence[Turn], accuracy: float) -> Turn:
    """`seconds` and `steps` to an accuracy; where it was not reached, what the run spent, and `short` is 1."""
    found = reached(curve, accuracy)
    end = found or curve[-1]
    return {"seconds": end["clock"], "steps": end["step"], "short": float(found is None)}


def best_rates(runs: Sequence[Mapping[str, Any]], accuracy: float) -> dict[str, float]:
    """For each arm the rate with the fewest seconds to the accuracy, or else with the best last accuracy."""

    def cost(one: Mapping[str, Any]) -> tuple[float, float]:
        told = effort(one["curve"], accuracy)
        return (1.0, -one["curve"][-1]["accuracy"]) if told["short"] else (0.0, told["seconds"])

    arms = {one["arm"] for one in runs}
    return {arm: min((one for one in runs if one["arm"] == arm), key=cost)["lr"] for arm in sorted(arms)}


def summary(runs: Sequence[Mapping[str, Any]], accuracies: Sequence[float]) -> dict[str, Any]:
    """For each accuracy and arm spreads over seeds, and of TRL's effort over ours."""
    told: dict[str, Any] = {}
    for accuracy in accuracies:
        efforts: dict[str, list[Turn]] = {}
        for one in runs:  # in the order of seeds for every arm
            efforts.setdefault(one["arm"], []).append(effort(one["curve"], accuracy))
        arms: dict[str, Any] = {}
        for arm, found in efforts.items():
            arms[arm] = {key: spread([one[key] for one in found]) for key in ("seconds", "steps")}
            arms[arm] |= {"reached": sum(not one["short"] for one in found), "seeds": len(found)}
            if arm != "trl":
                arms[arm] |= times(efforts.get("trl", []), found)
        told[f"{accuracy:g}"] = arms
    return told


def times(theirs: Sequence[Turn], ours: Sequence[Turn]) -> dict[str, Any]:
    """TRL's seconds over ours, seed by seed, and what the figure is where a side did not get there: a lower bound where
    that was TRL, an upper one where it was ours, `~` where there were both. Seeds where neither did say nothing.

    >>> run = {"seconds": 10.0, "short": 0.0}
    >>> times([{"seconds": 30.0, "short": 1.0}], [run])["bound"], times([run | {"short": 1.0}], [run | {"short": 1.0}])
    ('>= ', {})
    """
    pairs = [(one, other) for one, other in zip(theirs, ours, strict=False) if not (one["short"] and other["short"])]
    if not pairs:
        return {}
    theirs_short, ours_short = (any(pair[i]["short"] for pair in pairs) for i in (0, 1))
    bound = {(False, False): "", (True, False): ">= ", (False, True): "<= ", (True, True): "~ "}[
        theirs_short, ours_short
    ]
    return {"trl_times": ratio(*([pair[i]["seconds"] for pair in pairs] for i in (0, 1))), "bound": bound}


def report(runs: Sequence[Mapping[str, Any]], accuracies: Sequence[float]) -> str:
    """`summary` as Markdown."""
    lines = []
    for accuracy, arms in summary(runs, accuracies).items():
        for arm, found in arms.items():
            own = [one for one in runs if one["arm"] == arm]
            step = spread([one["curve"][-1]["clock"] / one["curve"][-1]["step"] for one in own])
            short = "" if found["reached"] == found["seeds"] else ">= "
            peak = max(one["peak_gib"] for one in own)
            cells = [
                arm,
                f"{100 * float(accuracy):g} %",
                f"{own[0]['lr']:g}",
                f"{found['reached']} of {found['seeds']}",
            ]
            cells += [short + shown(found["seconds"], 1), short + shown(found["steps"], 0), shown(step)]
            cells += [found["bound"] + shown(found["trl_times"]) if "trl_times" in found else "", f"{peak:.2f}"]
            lines.append(cells)
    header = ["arm", "accuracy", "lr", "reached", "seconds to it", "steps to it", "s a step", "TRL's seconds / these"]
    return table([*header, "peak, GiB"], lines)


def arguments() -> argparse.Namespace:
    made = parser(__doc__, repeats=3)
    made.add_argument("--trl-python", help="the interpreter of an environment with TRL; without it only ours run")
    made.add_argument("--arms", nargs="+", choices=list(RATES), default=list(RATES))
    made.add_argument("--task", default="logic?distractors=2", help="as after `tasks:` in a recipe (%(default)s)")
    made.add_argument("--problems", type=int, default=1024, help="to learn from (%(default)s)")
    made.add_argument("--held-out", type=int, default=400, help="to evaluate on (%(default)s)")
    made.add_argument("--accuracy", type=float, nargs="+", default=[0.6, 0.7], help="to be reached (%(default)s)")
    made.add_argument("--every", type=int, default=5, help="steps between evaluations (%(default)s)")
    made.add_argument("--limit", type=int, default=80, help="steps of a run at most (%(default)s)")
    made.add_argument("--prompts", type=int, default=32, help="a step (%(default)s)")
    made.add_argument("--group", type=int, default=8, help="rollouts a prompt (%(default)s)")
    made.add_argument("--lr", nargs="+", default=[], metavar="ARM=RATE", help="other learning rates than RATES")
    made.add_argument("--tune", type=float, nargs="+", metavar="RATE", help="only find the best rate of each arm")
    made.add_argument("--pack", type=int, default=4096, help="our max_tokens_per_pack")
    made.add_argument("--micro-batch", type=int, default=32, help="their per_device_train_batch_size")
    options = made.parse_args()
    if options.trl_python is None:
        options.arms = [arm for arm in options.arms if arm != "trl"]
    options.lr = RATES | {arm: float(rate) for arm, _, rate in (one.partition("=") for one in options.lr)}
    if unknown := set(options.lr) - set(RATES):
        made.error(f"--lr: there is no arm {min(unknown)}, only {', '.join(RATES)}")
    if options.quick:
        options.repeats, options.limit, options.every, options.problems, options.held_out = 1, 2, 1, 16, 16
        options.prompts, options.group = 4, 4
    return options


def plan(options: argparse.Namespace) -> list[tuple[str, float, int]]:
    """Arm, rate and seed of every run, in order."""
    if options.tune:
        return [(arm, rate, TUNING_SEED) for rate in options.tune for arm in options.arms]
    order = [options.arms if seed % 2 == 0 else options.arms[::-1] for seed in range(options.repeats)]
    return [(arm, options.lr[arm], seed) for seed, arms in enumerate(order) for arm in arms]


def main() -> None:
    options = arguments()
    runs: list[dict[str, Any]] = []
    content: dict[str, Any] = {"settings": settings(options), "machine": machine(), "runs": runs}
    for arm, rate, seed in plan(options):
        runs.append(run(arm, rate, seed, options))
        if options.tune:
            content["best"] = best_rates(runs, max(options.accuracy))
        else:
            content["summary"] = summary(runs, options.accuracy)
        save(options.out, content)
    if options.tune:
        print(" ".join(f"{arm}={rate:g}" for arm, rate in content["best"].items()))
    else:
        print(f"\n### {options.task}, {options.threads} threads, {options.repeats} seeds\n")
        print(report(runs, options.accuracy))


if __name__ == "__main__":
    main()
