"""What this machine can do at a model's shapes, what share of it decoding and training reach, and what is in the way.

    python benchmarks/limits.py [--shape smollm2|qwen|small | --model FOLDER] [--dtypes float32 bfloat16] [--out FILE]

Ceilings: a copy of 256 MiB, and matrix products of the model's own shapes, each timed alone on operands that stay where
they are (the best this machine does). Floors: all linear layers of the model one after another over their own weights,
as a pass must do them: at `--slots` rows for one decode step, and forward with both backward products at as many rows
as the training step has tokens. Decode: a step of the in-process sampler at `--slots` rows (deterministic in float32,
fast else, as in a run), prefill taken off by difference. Training: `Learner.step` on 4 groups of 4 completions of 96
tokens on 32-token prompts, AdamW included. All under the process's settings of a run. The share is floor over
measured; of the best products' rate it is that of 2 (training: 6) floating-point operations a weight and row.
Attention's products are in the measured times and in no floor. Then a profile of each: the operators that take most
CPU time themselves (torch.profiler).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import torch
from common import machine, parser, save, settings, shown, spread, table
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from workload import SHAPES, shaped

from superrl.config import OptimizerConfig
from superrl.learner.forward import head
from superrl.learner.learner import Learner, Schedule
from superrl.methods import build
from superrl.methods.hooks import Limits
from superrl.models import no_dropout
from superrl.process import settled
from superrl.records import Group, Problem, Score, Trajectory
from superrl.sampling.local import LocalSampler
from superrl.sampling.protocol import Prompt, SamplingLimits

COPY_BYTES = 2**28
GROUPS, ROLLOUTS, PROMPT, COMPLETION = 4, 4, 32, 96
TOP = 12
"""Operators of a profile that are told."""
GIGA = 1e9


def seconds(work: Callable[[], Any], repeats: int, least: float = 0.05) -> dict[str, float]:
    """Spread of the seconds of one call; fast work is called often enough to be timed."""
    calls = 1
    for _ in range(2):  # the first warms up, and tells whether a second is needed to see how long fast work takes
        began = time.perf_counter()
        work()
        once = time.perf_counter() - began
        calls = max(1, round(least / max(once, 1e-9)))
        if once > 20 * least:
            break
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        for _ in range(calls):
            work()
        found.append((time.perf_counter() - began) / calls)
    return spread(found)


def weights_of(model: nn.Module) -> list[Tensor]:
    """The weight [out, in] of every linear layer of a pass, the head's last."""
    last = cast(Tensor, head(model).weight)
    trunk = [m.weight for m in model.modules() if isinstance(m, nn.Linear) and m.weight is not last]
    return [*trunk, last]


def products(weights: Sequence[Tensor], rows: int, repeats: int) -> dict[str, dict[str, Any]]:
    """GFLOP/s of x @ W.T by shape of W, each alone."""
    found = {}
    for shape, count in Counter(tuple(w.shape) for w in weights).items():
        weight = next(w for w in weights if tuple(w.shape) == shape)
        x = torch.randn(rows, shape[1]).to(weight.dtype)
        time_ = seconds(lambda x=x, weight=weight: nn.functional.linear(x, weight), repeats)  # type: ignore[misc]
        rate = 2 * rows * weight.numel() / time_["median"] / GIGA
        found[f"{rows} x {shape[1]} -> {shape[0]}"] = {"layers": count, "gflops": rate, "seconds": time_}
    return found


def walk(weights: Sequence[Tensor], rows: Sequence[int], *, backward: bool) -> Callable[[], None]:
    """All products of a pass, `rows[i]` rows through weight i; with `backward` also those for dx and dW."""
    dtype = weights[0].dtype
    inputs = {(n, w.shape[1]): torch.randn(n, w.shape[1]).to(dtype) for n, w in zip(rows, weights, strict=True)}
    outputs = {(n, w.shape[0]): torch.randn(n, w.shape[0]).to(dtype) for n, w in zip(rows, weights, strict=True)}

    @torch.no_grad()
    def work() -> None:
        for n, weight in zip(rows, weights, strict=True):
            nn.functional.linear(inputs[n, weight.shape[1]], weight)
            if backward:
                dy = outputs[n, weight.shape[0]]
                dy @ weight
                dy.t() @ inputs[n, weight.shape[1]]

    return work


def copied(dtype: torch.dtype, repeats: int) -> float:
    """GB/s of a copy, bytes read and written both counted."""
    source = torch.ones(COPY_BYTES // dtype.itemsize, dtype=dtype)
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / seconds(lambda: target.copy_(source), repeats)["median"] / GIGA


def groups(vocabulary: int) -> list[Group]:
    """Random groups whose rollouts share their prompt and nothing else."""
    draw = torch.Generator().manual_seed(0)
    found = []
    for number in range(GROUPS):
        context = torch.randint(4, vocabulary, (PROMPT,), generator=draw).tolist()
        rollouts = []
        for i in range(ROLLOUTS):
            tokens = tuple(context + torch.randint(4, vocabulary, (COMPLETION,), generator=draw).tolist())
            mask = (False,) * PROMPT + (True,) * COMPLETION
            rollouts.append(Trajectory(tokens, mask, (0.0,) * len(tokens), "", score=Score(i / ROLLOUTS)))
        problem = Problem(str(number), ({"role": "user", "content": "?"},))
        found.append(Group(problem, tuple(rollouts), key=(0, 0, 0, 0, 0, number, 0)))
    return found


def profiled(work: Callable[[], Any]) -> list[dict[str, Any]]:
    """The operators that took most time themselves, with their share of all."""
    with profile(activities=[ProfilerActivity.CPU]) as taken:
        work()
    events = taken.key_averages()
    whole = sum(event.self_cpu_time_total for event in events)
    ranked = sorted(events, key=lambda event: -event.self_cpu_time_total)[:TOP]
    return [
        {
            "operator": event.key,
            "calls": event.count,
            "milliseconds": event.self_cpu_time_total / 1e3,
            "share": event.self_cpu_time_total / whole,
        }
        for event in ranked
    ]


def decode(model: PreTrainedModel, tokenizer: Any, dtype: torch.dtype, options: argparse.Namespace) -> dict[str, Any]:
    """One step at `slots` rows: floor, measured, share, profile."""
    slots, length = options.slots, options.new_tokens
    exact = dtype == torch.float32  # as in a run
    sampler = LocalSampler(
        deepcopy(model), tokenizer, eos_ids=[], slots=slots, deterministic=exact, compute_dtype=dtype
    )
    prompts = [Prompt(tuple(range(10 + i, 110 + i)), 8, (0, i)) for i in range(-(-slots // 8))]

    def sample(tokens: int) -> Callable[[], Any]:
        return lambda: sampler.sample(prompts, SamplingLimits(tokens))

    sample(2)()
    runs = []
    for _ in range(options.repeats):
        marks = [time.perf_counter()]
        for tokens in (1, 1 + length):
            sample(tokens)()
            marks.append(time.perf_counter())
        runs.append((marks[2] - 2 * marks[1] + marks[0]) / length)
    weights = [w.detach().to(dtype) for w in weights_of(model)]
    floor = seconds(walk(weights, [slots] * len(weights), backward=False), options.repeats)
    operations = 2 * slots * sum(w.numel() for w in weights)
    return {**compared(spread(runs), floor, operations), "profile": profiled(sample(1 + min(8, length)))}


def training(model: PreTrainedModel, dtype: torch.dtype, options: argparse.Namespace) -> dict[str, Any]:
    """One optimizer step: floor, measured, share, profile."""
    schedule = Schedule(OptimizerConfig(lr=1e-7), 1000, 1, 1, options.pack, 0)
    method = build({"name": "grpo"}, Limits(ROLLOUTS, COMPLETION))
    learner = Learner(deepcopy(model), dtype, schedule)
    (update,) = method.plan(groups(model.config.vocab_size), method.initial_state()).updates
    packs = learner.pack(update.samples, options.pack)
    through, edges = sum(pack.computed for pack in packs), sum(len(pack.target) for pack in packs)

    def step() -> Any:
        return learner.step([update], method, version=0)

    step()  # the heap grows to its size
    measured = seconds(step, options.repeats, least=0.0)
    taken = profiled(step)
    weights = [w.detach().to(dtype) for w in weights_of(model)]
    rows = [through] * (len(weights) - 1) + [edges]
    floor = seconds(walk(weights, rows, backward=True), options.repeats)
    operations = 6 * sum(n * w.numel() for n, w in zip(rows, weights, strict=True))
    return {**compared(measured, floor, operations), "tokens": through, "profile": taken}


def compared(measured: dict[str, float], floor: dict[str, float], operations: float) -> dict[str, Any]:
    """Seconds, rates and shares."""
    return {
        "seconds": measured,
        "floor_seconds": floor,
        "share_of_floor": floor["median"] / measured["median"],
        "gflops": operations / measured["median"] / GIGA,
        "floor_gflops": operations / floor["median"] / GIGA,
    }


def report(found: dict[str, Any]) -> str:
    """The tables."""
    shapes = [
        [f"{name}, {dtype}", one["layers"], f"{one['gflops']:.0f}"]
        for dtype, result in found.items()
        for kind in ("decode", "training")
        for name, one in result["products"][kind].items()
    ]
    lines, tables = [], []
    for dtype, result in found.items():
        print_copy = f"{result['copy_gbs']:.1f} GB/s"
        for kind in ("decode", "training"):
            one = result[kind]
            lines.append(
                [
                    f"{kind}, {dtype}",
                    shown({key: 1e3 * value for key, value in one["seconds"].items()}, 1),
                    f"{1e3 * one['floor_seconds']['median']:.1f}",
                    f"{one['share_of_floor']:.1%}",
                    f"{one['gflops']:.0f}",
                    f"{one['floor_gflops']:.0f}",
                    f"{result['best'][kind]:.0f}",
                    f"{one['gflops'] / result['best'][kind]:.1%}",
                    print_copy,
                ]
            )
            rows = [
                [o["operator"], o["calls"], f"{o['milliseconds']:.0f}", f"{o['share']:.1%}"] for o in one["profile"]
            ]
            tables.append(f"{kind}, {dtype}, profile\n\n" + table(["operator", "calls", "self CPU, ms", "share"], rows))
    header = ["", "step, ms", "floor, ms", "floor / step", "GFLOP/s", "floor's", "best product's", "share", "copy"]
    parts = [table(["product alone", "layers", "GFLOP/s"], shapes), table(header, lines), *tables]
    return "\n\n".join(parts)


def arguments() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--model", type=Path, help="a Hugging Face folder; default: random weights of --shape")
    made.add_argument("--shape", choices=SHAPES, default="smollm2")
    made.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    made.add_argument("--slots", type=int, default=64, help="rows of a decode step")
    made.add_argument("--new-tokens", type=int, default=32, help="decode steps timed at a time")
    made.add_argument("--pack", type=int, default=4096, help="max_tokens_per_pack")
    options = made.parse_args()
    if options.quick:
        options.repeats, options.new_tokens = 1, 4
    return options


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        source = options.model or shaped(options.shape, Path(folder) / "shape")
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
        no_dropout(model)
        tokenizer = AutoTokenizer.from_pretrained(source)
    tokens = GROUPS * (PROMPT + ROLLOUTS * COMPLETION)
    with settled("cpu"):
        for name in options.dtypes:
            dtype = getattr(torch, name)
            weights = [w.detach().to(dtype) for w in weights_of(model)]
            alone = {
                kind: products(weights, rows, options.repeats)
                for kind, rows in (("decode", options.slots), ("training", tokens))
            }
            found[name] = {
                "copy_gbs": copied(dtype, options.repeats),
                "products": alone,
                "best": {kind: max(one["gflops"] for one in shapes.values()) for kind, shapes in alone.items()},
                "decode": decode(model, tokenizer, dtype, options),
                "training": training(model, dtype, options),
            }
            save(options.out, {"settings": settings(options), "machine": machine(), "dtypes": found})
    print(f"\n### {options.model or options.shape}, {options.threads} threads\n")
    print(report(found))


if __name__ == "__main__":
    main()
