"""superrl and TRL on one workload: start the sides, let them take turns, put the medians beside each other.

TRL's variants: `trl` (float32 weights, autocast, `generate`: what it does with a path), `trl-bfloat16` (the weights
themselves in bfloat16) and `trl-continuous` (transformers' continuous batching). Variants whose first measured step is
more than DISMISSED times that of the fastest one do not go on; ratios are against the fastest that did.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from common import GIB, Side, Turn, ratio, rounds, shown, spread, table
from workload import Workload

OURS = "superrl"
VARIANTS: dict[str, list[str]] = {
    "trl": [],
    "trl-bfloat16": ["--weights", "bfloat16"],
    "trl-continuous": ["--continuous"],
}
DISMISSED = 1.15
HERE = Path(__file__).parent


def add_options(parser: argparse.ArgumentParser) -> None:
    """What a comparison with TRL takes besides."""
    parser.add_argument(
        "--trl-python", help="the interpreter of an environment with TRL; without it only ours is timed"
    )
    parser.add_argument("--sides", nargs="+", choices=[OURS, *VARIANTS], default=[OURS, *VARIANTS])
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="what both compute in")
    parser.add_argument("--pack", type=int, help="our max_tokens_per_pack (as many as there are in a micro-batch)")
    parser.add_argument("--micro-batch", type=int, default=8, help="their per_device_train_batch_size")


def as_many(work: Workload, pack: int | None) -> Workload:
    """The work with packs of ours that hold as many tokens as a micro-batch of theirs, padding included; or of `pack`.
    What takes part in a backward pass is most of what a step needs of memory."""
    from transformers import AutoTokenizer

    if pack is None:
        tokenizer = AutoTokenizer.from_pretrained(work.model)
        texts = [a + b for a, b in zip_longest(work.prompts, work.demonstrations, fillvalue="")]
        longest = max(len(tokenizer(text)["input_ids"]) for text in texts)
        pack = work.micro_batch * (longest + (0 if work.demonstrations else work.new_tokens))
    return replace(work, pack=pack)


def wanted(options: argparse.Namespace, *, supervised: bool = False) -> list[str]:
    """The sides that a workload has: none of TRL's without its interpreter, no kind twice that is the same work."""
    same = {"trl-bfloat16"} if options.dtype == "float32" else set()
    same |= {"trl-continuous"} if supervised else set()
    return [name for name in options.sides if name not in same and (name == OURS or options.trl_python)]


@contextmanager
def started(names: Sequence[str], work: Workload, folder: Path, trl_python: str | None) -> Iterator[list[Side]]:
    """The sides, each a process that waits; ended when the block is left."""
    path = work.save(folder / "workload.json")
    sides: list[Side] = []
    try:
        for name in names:
            program = [sys.executable, str(HERE / "side_superrl.py"), str(path)]
            if name != OURS:
                program = [str(trl_python), str(HERE / "side_trl.py"), str(path), *VARIANTS[name]]
            sides.append(Side(name, program, work.threads))
        yield sides
    finally:
        for side in sides:
            side.close()


def compare(
    names: Sequence[str],
    work: Workload,
    folder: Path,
    options: argparse.Namespace,
    changes: Sequence[Mapping[str, Any]],
) -> Iterator[dict[str, list[Turn]]]:
    """Everything told so far, after every round; slow variants of TRL are dismissed after the first."""
    with started(names, work, folder, options.trl_python) as sides:
        for found in rounds(sides, repeats=options.repeats, warmup=options.warmup, changes=changes):
            for side in sides:
                if not side.closed and side.name in dismissed(found):
                    print(f"{side.name} does not go on: slower than the fastest of TRL's", file=sys.stderr)
                    side.close()
            yield found


def dismissed(found: Mapping[str, Sequence[Turn]]) -> set[str]:
    """The variants that are clearly not the fastest, by their first step."""
    first = {name: turns[0]["seconds"] for name, turns in found.items() if name != OURS and turns}
    return {name for name, seconds in first.items() if seconds > DISMISSED * min(first.values())}


def fastest(found: Mapping[str, Sequence[Turn]]) -> str | None:
    """The variant of TRL that went on and has the lowest median step; None if there is none."""
    gone = dismissed(found)
    medians = {
        name: statistics.median(turn["seconds"] for turn in turns)
        for name, turns in found.items()
        if name != OURS and name not in gone and turns
    }
    return min(medians, key=lambda name: medians[name]) if medians else None


def summary(found: Mapping[str, Sequence[Turn]]) -> dict[str, Any]:
    """Spreads of every side, and of the ratios best of theirs : ours."""
    sides: dict[str, Any] = {}
    for name, turns in found.items():
        timed = {key: spread([t[key] for t in turns]) for key in ("seconds", "generate", "train") if key in turns[0]}
        sides[name] = {**timed, "peak_gib": max(t["peak_bytes"] for t in turns) / GIB}
        counts = ("generated", "trained", "logical", "computed", "live_groups", "dead_share")
        sides[name] |= {key: turns[-1][key] for key in counts if key in turns[-1]}
    best = fastest(found)
    if best is None or OURS not in found:
        return {"sides": sides}
    ours, theirs = found[OURS], found[best]
    ratios: dict[str, Any] = {
        key: ratio([t[key] for t in theirs], [t[key] for t in ours])
        for key in ("seconds", "generate", "train")
        if ours[0][key] > 0.0 and theirs[0][key] > 0.0
    }
    ratios["peak_memory"] = sides[best]["peak_gib"] / sides[OURS]["peak_gib"]
    if drawn := ours[-1].get("generated"):
        ratios["tokens_theirs_to_ours"] = theirs[-1]["generated"] / drawn
    return {"sides": sides, "against": best, "ratios": ratios}


def report(result: Mapping[str, Any]) -> str:
    """`summary` as Markdown."""
    lines = []
    for name, side in result["sides"].items():
        step, generate, train = (shown(side[key]) for key in ("seconds", "generate", "train"))
        drawn = f"{side.get('generated') or side['trained']:.0f}"
        lines.append([name, step, generate, train, drawn, f"{side['logical']:.0f}", f"{side['peak_gib']:.2f}"])
    header = ["side", "step, s", "generating, s", "training, s", "tokens drawn or trained", "in all", "peak, GiB"]
    text = table(header, lines)
    if "ratios" in result:
        told = {"seconds": "whole step", "generate": "generating", "train": "training"}
        parts = [f"{label} {shown(result['ratios'][key])}" for key, label in told.items() if key in result["ratios"]]
        text += (
            f"\n\n{result['against']} takes, times ours (median [quartiles] of neighbouring steps): {', '.join(parts)}"
        )
        text += f"; peak memory {result['ratios']['peak_memory']:.2f}"
    return text
