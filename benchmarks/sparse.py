"""What a step costs when rewards are sparse: 0, 50 and 90 % of the groups have nothing to tell apart.

    python benchmarks/sparse.py --trl-python VENV/bin/python [--model FOLDER] [--out FILE.json]

A step of 10 groups of 8 completions on prompts of about 100 tokens. The first so many groups are dead: all their
completions get reward 0, so that their advantages are 0 and they have no gradient. We leave them out of the forward and
backward pass (but for one rollout each, by which policy/kl is watched) and keep counting them in the denominator; TRL
trains on them all. Generating costs the same either way. Sides and their settings: `vs_trl.py`. Counts of live groups
are told by our metrics and by TRL's own (`frac_reward_zero_std`), and printed.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from against import add_options, compare, summary, wanted
from common import Turn, machine, parser, save, settings, shown, table
from workload import SHAPES, Workload, shaped, unending, word_problems, words

GROUPS = 10
SHARES = (0.0, 0.5, 0.9)


def workload(options: argparse.Namespace, folder: Path) -> Workload:
    """10 groups."""
    rng = random.Random(0)
    vocabulary = SHAPES[options.shape]["vocab_size"]
    model = options.model or shaped(options.shape, folder / "shape")
    prompts = word_problems(GROUPS) if options.model else [words(100, vocabulary, rng) for _ in range(GROUPS)]
    return Workload(
        str(unending(Path(model), folder / "endless")),
        tuple(prompts),
        completions=options.completions,
        new_tokens=options.new_tokens,
        dtype=options.dtype,
        threads=options.threads,
        pack=options.pack,
        micro_batch=options.micro_batch,
    )


def by_share(found: Mapping[str, Sequence[Turn]]) -> dict[str, Any]:
    """A `summary` for every share of dead groups."""
    shares: dict[str, Any] = {}
    for share in SHARES:
        dead = round(share * GROUPS)
        chosen = {name: [turn for turn in turns if turn["dead"] == dead] for name, turns in found.items()}
        shares[f"{share:.0%}"] = summary({name: turns for name, turns in chosen.items() if turns})
    return shares


def report(shares: Mapping[str, Any]) -> str:
    """The table."""
    lines = []
    for share, result in shares.items():
        for name, side in result["sides"].items():
            live = side.get("live_groups", GROUPS * (1.0 - side.get("dead_share", 0.0)))
            times = [shown(side[key]) for key in ("seconds", "generate", "train")]
            against = name == result.get("against")
            times += [shown(result["ratios"][key]) if against else "" for key in ("seconds", "train")]
            lines.append([f"{share} dead, {name}", f"{live:.0f}", *times])
    header = ["groups, side", "live", "step, s", "generating, s", "training, s", "step / ours", "training / ours"]
    return table(header, lines)


def arguments() -> argparse.Namespace:
    made = parser(__doc__)
    add_options(made)
    made.set_defaults(sides=["superrl", "trl"], pack=4096)
    made.add_argument("--model", type=Path, help="a Hugging Face folder; default: random weights of --shape")
    made.add_argument("--shape", choices=SHAPES, default="smollm2")
    made.add_argument("--completions", type=int, default=8)
    made.add_argument("--new-tokens", type=int, default=48)
    made.add_argument("--warmup", type=int, default=1)
    options = made.parse_args()
    if options.quick:
        options.repeats, options.new_tokens, options.completions = 1, 8, 4
    return options


def main() -> None:
    options = arguments()
    changes = [{"dead": round(share * GROUPS)} for share in SHARES]
    with tempfile.TemporaryDirectory() as folder:
        work = workload(options, Path(folder))
        for found in compare(wanted(options), work, Path(folder), options, changes):
            shares = by_share(found)
            content = {"settings": settings(options), "machine": machine(), "turns": found, "shares": shares}
            save(options.out, content)
    print(f"\n### {GROUPS} groups x {options.completions} x {options.new_tokens} tokens, {options.dtype}\n")
    print(report(shares))


if __name__ == "__main__":
    main()
