"""How a step's time and memory grow with group size, prompt length, completion length and batch.

    python benchmarks/growth.py [--shape smollm2|small | --model FOLDER] [--axes ...] [--repeats 5] [--out FILE.json]

From one base step (2 prompts of 128 tokens x 4 completions x 64 tokens), each axis is doubled several times while the
others stay. Every point is a process of its own, so that peak memory is its own; a step is GRPO's through
`superrl.train`, generating, scoring, training and the weights' way to the sampler. Printed for each axis: the exponent
p of cost = c * size ** p over all its points (a part of every step costs the same whatever its size, which pulls p
down), that of the last doubling alone, and the memory that each further unit takes. Words are random: completions of a
group share their prompt and nothing else.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import linear_regression
from typing import Any

from against import OURS, started, summary
from common import exponent, machine, parser, rounds, save, settings, shown, table
from workload import SHAPES, Workload, shaped, unending, words

BASE = {"prompts": 2, "group": 4, "prompt": 128, "completion": 64}
AXES = {
    "group": (2, 4, 8, 16, 32),
    "completion": (32, 64, 128, 256),
    "prompt": (64, 128, 256, 512, 1024),
    "prompts": (1, 2, 4, 8, 16),
}
"""What is varied: completions a prompt, tokens of each, tokens of a prompt, prompts a step."""
COSTS = ("seconds", "generate", "train")


def points(axes: Sequence[str], quick: bool) -> list[dict[str, int]]:
    """The base and every other point, each once."""
    found = [BASE]
    for axis in axes:
        for size in AXES[axis][:2] if quick else AXES[axis]:
            point = {**BASE, axis: size}
            found += [] if point in found else [point]
    return found


def workload(point: Mapping[str, int], model: str, vocabulary: int, options: argparse.Namespace) -> Workload:
    """One point's step."""
    rng = random.Random(0)
    prompts = tuple(words(point["prompt"], vocabulary, rng) for _ in range(point["prompts"]))
    limits = {"dtype": options.dtype, "threads": options.threads, "pack": options.pack}
    return Workload(model, prompts, completions=point["group"], new_tokens=point["completion"], **limits)


def along(axis: str, measured: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The points of an axis, smallest first."""
    others = [key for key in BASE if key != axis]
    chosen = [one for one in measured if all(one["point"][key] == BASE[key] for key in others)]
    return sorted(chosen, key=lambda one: one["point"][axis])


def fit(axis: str, measured: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """How costs grow along an axis; None if it has a single point."""
    line = along(axis, measured)
    sizes = [one["point"][axis] for one in line]
    if len(sizes) < 2:
        return None
    costs = {key: [one[key]["median"] for one in line] for key in COSTS}
    peaks = [one["peak_gib"] for one in line]
    return {
        "sizes": sizes,
        "exponent": {key: exponent(sizes, values) for key, values in costs.items()},
        "last_doubling": {key: exponent(sizes[-2:], values[-2:]) for key, values in costs.items()},
        "mib_a_unit": 1024 * linear_regression(sizes, peaks).slope,
    }


def report(measured: Sequence[Mapping[str, Any]], fits: Mapping[str, Any]) -> str:
    """Both tables."""
    lines = [
        [
            " x ".join(str(one["point"][key]) for key in ("prompts", "group", "completion", "prompt")),
            f"{one['generated']:.0f}",
            f"{one['logical']:.0f}",
            f"{one['computed']:.0f}",
            *(shown(one[key]) for key in COSTS),
            f"{one['peak_gib']:.2f}",
        ]
        for one in measured
    ]
    header = ["prompts x group x completion, prompt", "drawn", "tokens", "computed", "step, s", "generating, s"]
    text = table([*header, "training, s", "peak, GiB"], lines)
    rows = [
        [f"{axis}, {min(found['sizes'])} to {max(found['sizes'])}"]
        + [f"{found['exponent'][key]:.2f} ({found['last_doubling'][key]:.2f})" for key in COSTS]
        + [f"{found['mib_a_unit']:.2f}"]
        for axis, found in fits.items()
    ]
    return (
        text + "\n\n" + table(["exponent (of the last doubling)", "step", "generating", "training", "MiB a unit"], rows)
    )


def arguments() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument(
        "--model", type=Path, help="a Hugging Face folder; its prompts are then random words all the same"
    )
    made.add_argument("--shape", choices=SHAPES, default="smollm2")
    made.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES))
    made.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    made.add_argument("--pack", type=int, default=4096, help="max_tokens_per_pack")
    options = made.parse_args()
    options.repeats = 1 if options.quick else options.repeats
    return options


def main() -> None:
    options = arguments()
    measured: list[dict[str, Any]] = []
    fits: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        vocabulary = SHAPES[options.shape]["vocab_size"]
        model = unending(options.model or shaped(options.shape, folder / "shape"), folder / "endless")
        for point in points(options.axes, options.quick):
            with started([OURS], workload(point, str(model), vocabulary, options), folder, None) as sides:
                *_, turns = rounds(sides, repeats=options.repeats)
            measured.append({"point": point, **summary(turns)["sides"][OURS], "turns": turns[OURS]})
            fits = {axis: found for axis in options.axes if (found := fit(axis, measured)) is not None}
            content = {"settings": settings(options), "machine": machine(), "points": measured, "fits": fits}
            save(options.out, content)
    print(f"\n### {options.model or options.shape}, {options.dtype}, {options.threads} threads\n")
    print(report(measured, fits))


if __name__ == "__main__":
    main()
