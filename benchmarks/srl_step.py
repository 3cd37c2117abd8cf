"""A step of SRL: with the steps of a trajectory in one batch, with steps of different ones, with every context computed
separately; and the whole step against TRL, given the same rows.

    python benchmarks/srl_step.py [--shape small|smollm2 | --model FOLDER] [--repeats 3] [--out FILE]
    python benchmarks/srl_step.py --shape smollm2 --trl-python VENV/bin/python [--parts trl] [--out FILE]

The batch is 10 step instances with 8 rollouts of 100 random tokens each; the problem has 200 tokens and a step 60, so
that the context of step k holds 200 + 60 (k - 1). In trajectory order (`order: trajectory`) all steps are of one
trajectory and their contexts prefixes of each other; in shuffled order they are of 10 trajectories. Either goes through
the learner twice: by the prefix forest, and separately, one sequence a row, rows of one length together, so that
nothing is padded. A step is GRPO's plan through `Learner.step`, optimizer included. The four are timed in turn, by the
clock and in CPU seconds (which a busy machine disturbs less); ratios are medians over rounds. Rollouts share nothing
but their context, which is the least a forest can find. Gradients are compared before any weight moves.

This part (`layouts`) leaves out sampling. With `--trl-python` the second part (`trl`) takes whole steps, generating and
scoring included, of superrl and of TRL on the contexts of one trajectory as ten prompts; how, and what is equal, says
`vs_trl.py`. TRL pads all contexts to the longest.

Shapes have random weights: `small` has 4 layers of width 128, `smollm2` is SmolLM2-135M's.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import against
import torch
from against import add_options, compare, summary, wanted
from common import machine, parser, ratio, save, settings, shown, spread, table
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel
from workload import SHAPES, Workload, contexts, shaped, unending

from superrl.config import OptimizerConfig
from superrl.learner.forward import token_logprobs
from superrl.learner.learner import Learner, Schedule
from superrl.methods import build
from superrl.methods.hooks import Limits, Method
from superrl.models import no_dropout
from superrl.packing import rows
from superrl.packing.pack import Pack, Tokens
from superrl.records import Group, Problem, Score, Trajectory, Update


def batch(options: argparse.Namespace, vocabulary: int, *, trajectories: int) -> list[Group]:
    """Step k of trajectory k modulo `trajectories`, for every step, with its rollouts."""
    rng = random.Random(0)

    def drawn(n: int) -> tuple[int, ...]:
        return tuple(rng.randrange(vocabulary) for _ in range(n))

    solutions = [drawn(options.problem + options.step * options.steps) for _ in range(trajectories)]
    groups = []
    for k in range(options.steps):
        context = solutions[k % trajectories][: options.problem + options.step * k]
        mask = (False,) * len(context) + (True,) * options.rollout
        rollouts = []
        for i in range(options.rollouts):
            tokens = context + drawn(options.rollout)
            rollouts.append(Trajectory(tokens, mask, (0.0,) * len(tokens), "", score=Score(i / options.rollouts)))
        problem = Problem(f"step-{k + 1}", ({"role": "user", "content": "?"},))
        groups.append(Group(problem, tuple(rollouts), key=(0, 0, 0, 0, 0, k, 0)))
    return groups


def unpadded(sequences: Sequence[Tokens], max_tokens: int) -> list[Pack]:
    """One sequence a row, rows of different lengths in different packs."""
    lengths = sorted({len(one.tokens) for one in sequences})
    found = []
    for length in lengths:
        alike = [i for i, one in enumerate(sequences) if len(one.tokens) == length]
        packs = rows.pack([sequences[i] for i in alike], max_tokens)
        found += [replace(pack, items=tuple(alike[i] for i in pack.items)) for pack in packs]
    return found


def gradient(learner: Learner, update: Update) -> torch.Tensor:
    """The policy gradient at the weights that stand, as one vector."""
    learner.model.zero_grad(set_to_none=True)
    total = sum(update.denominators["pg"])
    for pack in learner.pack(update.samples, learner.schedule.max_tokens_per_pack):
        chosen = [update.samples[i] for i in pack.items]
        credit = torch.tensor([sample.advantage[-1] * sample.weight for sample in chosen])[pack.sequence]
        logp, _ = token_logprobs(learner.model, pack, torch.float32)
        (-(credit * logp).sum() / total).backward()
    found = torch.cat([p.grad.flatten() for _, p in learner.trainable() if p.grad is not None])
    learner.model.zero_grad(set_to_none=True)
    return found


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """The norm of the difference, relative to the second."""
    return float((one - other).double().norm() / other.double().norm())


class Step(NamedTuple):
    """What one step took."""

    seconds: float
    cpu: float
    tokens: int


def step(learner: Learner, update: Update, method: Method) -> Step:
    """One train step, timed."""
    began, worked = time.perf_counter(), time.process_time()
    means = learner.step([update], method, version=0)
    ended, rested = time.perf_counter(), time.process_time()
    return Step(ended - began, rested - worked, int(means.means["tokens/computed"].total))


def load(options: argparse.Namespace) -> PreTrainedModel:
    """The model, in float32."""
    if options.model:
        model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    else:
        torch.manual_seed(0)
        context = options.problem + options.step * options.steps + options.rollout
        shape = {**SHAPES[options.shape], "max_position_embeddings": max(2048, context), "tie_word_embeddings": True}
        model = LlamaForCausalLM(LlamaConfig(**shape))
    model = model.eval()
    no_dropout(model)
    return model


def report(gaps: dict[str, float], rounds: list[dict[str, Step]]) -> dict[str, Any]:
    """Print the layouts' table, and return it as JSON can hold it."""
    found: dict[str, dict[str, Any]] = {}
    for way in sorted(rounds[0], key=lambda way: (way.startswith("shuffled"), way)):
        against = f"{way.partition(',')[0]}, separate"
        found[way] = {
            "tokens": rounds[0][way].tokens,
            "fewer_tokens": rounds[0][against].tokens / rounds[0][way].tokens,
            "seconds": spread([one[way].seconds for one in rounds]),
            "cpu_seconds": spread([one[way].cpu for one in rounds]),
            "faster": ratio([one[against].seconds for one in rounds], [one[way].seconds for one in rounds]),
            "less_cpu": ratio([one[against].cpu for one in rounds], [one[way].cpu for one in rounds]),
        }
    lines = [
        [way, row["tokens"], f"{row['fewer_tokens']:.2f}x"]
        + [shown(row[key]) for key in ("seconds", "faster", "cpu_seconds", "less_cpu")]
        for way, row in found.items()
    ]
    header = ["order, layout", "tokens", "fewer", "seconds", "times faster", "CPU seconds", "times less CPU"]
    print(table(header, lines))
    told = ", ".join(f"{gap:.1e} ({order})" for order, gap in gaps.items())
    print(f"\ngradients, forest against separate, relative L2 of the difference in float32: {told}")
    return {"gradient_gap": gaps, "ways": found}


def layouts(options: argparse.Namespace) -> dict[str, Any]:
    """The train step in four ways, in this process."""
    model = load(options)
    schedule = Schedule(OptimizerConfig(lr=1e-7), 1000, 1, 1, options.pack, 0)
    method = build({"name": "grpo"}, Limits(options.rollouts, options.rollout))
    separate = Learner(deepcopy(model), torch.float32, schedule, unpadded)
    forest = Learner(model, torch.float32, schedule)
    if not forest.shares:
        raise SystemExit("this model cannot be trained over a prefix forest: there is nothing to compare")
    updates = {}
    for order, trajectories in (("trajectory", 1), ("shuffled", options.steps)):
        groups = batch(options, model.config.vocab_size, trajectories=trajectories)
        (updates[order],) = method.plan(groups, method.initial_state()).updates
    gaps = {order: apart(gradient(forest, one), gradient(separate, one)) for order, one in updates.items()}
    both = {"forest": forest, "separate": separate}
    ways = {f"{order}, {name}": (both[name], updates[order]) for order in updates for name in both}
    taken: list[dict[str, Step]] = []
    for number in range(options.repeats + 1):  # the first is warm-up
        turns = list(ways) if number % 2 else list(ways)[::-1]
        taken.append({way: step(*ways[way], method) for way in turns})
    return {**report(gaps, taken[1:]), "parameters": sum(p.numel() for p in model.parameters())}


def against_trl(options: argparse.Namespace, keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Whole steps of both systems on the contexts of one trajectory; `keep` hears the figures after every round."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        vocabulary = SHAPES[options.shape]["vocab_size"]
        source = options.model or shaped(options.shape, folder / "shape")
        work = Workload(
            str(unending(Path(source), folder / "endless")),
            tuple(contexts(options.steps, options.problem, options.step, vocabulary)),
            completions=options.rollouts,
            new_tokens=options.rollout,
            dtype=options.dtype,
            threads=options.threads,
            pack=options.pack,
            micro_batch=options.micro_batch,
        )
        for found in compare(wanted(options), work, folder, options, [{}]):
            keep({"turns": found, **summary(found)})
    print("\n" + against.report(summary(found)))
    return {"turns": found, **summary(found)}


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    content: dict[str, Any] = {"settings": settings(options), "machine": {**machine(), "torch": torch.__version__}}
    size = f"{options.steps} steps x {options.rollouts} x {options.rollout} tokens"
    print(f"\n### {options.model or options.shape}, {size}\n")
    if "layouts" in options.parts:
        content["layouts"] = layouts(options)
        save(options.out, content)
    if "trl" in options.parts and options.trl_python:
        content["trl"] = against_trl(options, lambda found: save(options.out, {**content, "trl": found}))
        save(options.out, content)


def arguments() -> argparse.Namespace:
    """The command line; the defaults are the batch that the docstring describes."""
    made = parser(__doc__, repeats=3)
    add_options(made)
    made.set_defaults(sides=["superrl", "trl"], pack=16384)
    made.add_argument("--shape", choices=SHAPES, default="small")
    made.add_argument("--model", help="a model folder, instead of a shape with random weights")
    for name, value in (("steps", 10), ("problem", 200), ("step", 60), ("rollout", 100), ("rollouts", 8)):
        made.add_argument(f"--{name}", type=int, default=value)
    made.add_argument("--parts", nargs="+", choices=("layouts", "trl"), default=["layouts", "trl"])
    made.add_argument("--warmup", type=int, default=1, help="whole steps of each side that are not measured (1)")
    options = made.parse_args()
    if options.quick:
        options.repeats, options.steps, options.rollouts, options.rollout = 1, 3, 4, 8
    return options


if __name__ == "__main__":
    main()
