"""A train step of SRL with the steps of a trajectory in one batch, with steps of different ones, and with every context
computed separately: tokens through the model, wall-clock, gradients.

    python benchmarks/srl_step.py [--shape small|smollm2 | --model FOLDER] [--repeats 3] [--json FILE]

The batch is 10 step instances with 8 rollouts of 100 random tokens each; the problem has 200 tokens and a step 60, so
that the context of step k holds 200 + 60 (k - 1). In trajectory order (`order: trajectory`) all steps are of one
trajectory and their contexts prefixes of each other; in shuffled order they are of 10 trajectories. Either goes through
the learner twice: by the prefix forest, and separately, one sequence a row, rows of one length together, so that
nothing is padded. A step is GRPO's plan through `Learner.step`, optimizer included. The four are timed in turn, by the
clock and in CPU seconds (which a busy machine disturbs less); ratios are medians over rounds. Rollouts share nothing
but their context, which is the least a forest can find. Gradients are compared before any weight moves.

Shapes have random weights: `small` has 4 layers of width 128, `smollm2` is SmolLM2-135M's. Leaves out sampling.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from superrl.config import OptimizerConfig
from superrl.learner.forward import token_logprobs
from superrl.learner.learner import Learner, Schedule
from superrl.methods import build
from superrl.methods.hooks import Limits, Method
from superrl.models import no_dropout
from superrl.packing import rows
from superrl.packing.pack import Pack, Tokens
from superrl.records import Group, Problem, Score, Trajectory, Update

SHAPES: dict[str, dict[str, Any]] = {
    "small": {
        "vocab_size": 4096,
        "hidden_size": 128,
        "intermediate_size": 352,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "smollm2": {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "rope_theta": 100000.0,
    },
}


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


def main() -> None:
    options = arguments()
    model = load(options)
    schedule = Schedule(OptimizerConfig(lr=1e-7), 1000, 1, 1, options.max_tokens, 0)
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
    layouts = {"forest": forest, "separate": separate}
    ways = {f"{order}, {name}": (layouts[name], updates[order]) for order in updates for name in layouts}
    rounds: list[dict[str, Step]] = []
    for number in range(options.repeats + 1):  # the first is warm-up
        turns = list(ways) if number % 2 else list(ways)[::-1]
        rounds.append({way: step(*ways[way], method) for way in turns})
    report(options, gaps, rounds[1:], sum(p.numel() for p in model.parameters()))


def report(options: argparse.Namespace, gaps: dict[str, float], rounds: list[dict[str, Step]], parameters: int) -> None:
    """The table, and the same as JSON."""
    found: dict[str, dict[str, Any]] = {}
    for way in sorted(rounds[0], key=lambda way: (way.startswith("shuffled"), way)):
        against = f"{way.partition(',')[0]}, separate"
        faster = [one[against].seconds / one[way].seconds for one in rounds]
        found[way] = {
            "tokens": rounds[0][way].tokens,
            "fewer_tokens": rounds[0][against].tokens / rounds[0][way].tokens,
            "seconds": statistics.median(one[way].seconds for one in rounds),
            "cpu_seconds": statistics.median(one[way].cpu for one in rounds),
            "faster": statistics.median(faster),
            "faster_range": [min(faster), max(faster)],
            "less_cpu": statistics.median(one[against].cpu / one[way].cpu for one in rounds),
        }
    print(f"{'order, layout':22}{'tokens':>8}{'fewer':>8}{'seconds':>9}{'faster':>8}{'range':>13}{'CPU s':>8}")
    for way, row in found.items():
        span = "{:.2f}-{:.2f}".format(*row["faster_range"])
        print(
            f"{way:22}{row['tokens']:8,}{row['fewer_tokens']:7.2f}x{row['seconds']:9.2f}{row['faster']:7.2f}x"
            f"{span:>13}{row['cpu_seconds']:8.2f} ({row['less_cpu']:.2f}x less)"
        )
    told = ", ".join(f"{gap:.1e} ({order})" for order, gap in gaps.items())
    print(f"gradients, forest against separate, relative L2 of the difference in float32: {told}")
    if options.json:
        settings = {key: value for key, value in vars(options).items() if key != "json"}
        machine = {"torch": torch.__version__, "threads": torch.get_num_threads(), "parameters": parameters}
        text = {**settings, **machine, "gradient_gap": gaps, "ways": found}
        Path(options.json).write_text(json.dumps(text, indent=2) + "\n", encoding="utf-8")


def arguments() -> argparse.Namespace:
    """The command line; the defaults are the batch that the docstring describes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--model", help="a model folder, instead of a shape with random weights")
    for name, value in (("steps", 10), ("problem", 200), ("step", 60), ("rollout", 100), ("rollouts", 8)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=16384, help="a pack's tokens (max_tokens_per_pack)")
    parser.add_argument("--json", help="write the figures to this file, too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
