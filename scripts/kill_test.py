"""Kill a run at random moments, resume it each time, and compare what it leaves with the uninterrupted run's, byte by
byte.

    python scripts/kill_test.py --kills 5 --seed 0 default stages.0.steps=40
    python scripts/kill_test.py --out kills my-recipe.yaml

Runs `superrl train RECIPE checkpoint.every=5 OVERRIDES` as processes of their own. Exit status 1 on any difference, 2
if the recipe does not run. Leaves out signals a program may answer to: SIGKILL is the one it may not.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

COMPARED = ("metrics.jsonl", "evaluations.jsonl", "rollouts.jsonl")


class Whole(NamedTuple):
    """What the uninterrupted run came to."""

    steps: int
    seconds: float


def main() -> int:
    """Parse, run, compare; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="default", help="a shipped recipe's name or a YAML file")
    parser.add_argument("overrides", nargs="*", help="path.to.key=value, as for superrl train")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, help="where the two run folders stay (default: a temporary folder)")
    given = parser.parse_args()
    arguments = [given.recipe, "checkpoint.every=5", *given.overrides]
    with tempfile.TemporaryDirectory() as temporary:
        root = given.out or Path(temporary)
        whole, parts = root / "whole", root / "parts"
        started = time.monotonic()
        if status := process(arguments, whole).wait():
            print(f"the uninterrupted run ended with status {status}", file=sys.stderr)
            return 2
        done = Whole(steps(whole), time.monotonic() - started)
        print(f"uninterrupted: {done.steps} steps in {done.seconds:.0f} s", flush=True)
        killed = kill_and_resume(arguments, parts, random.Random(given.seed), given.kills, done)
        return report(whole, parts, killed)


def kill_and_resume(arguments: list[str], out: Path, moments: random.Random, kills: int, whole: Whole) -> int:
    """Run to the end in spite of `kills` kills; how many of them hit a living process.

    Every moment is drawn as a number of steps that are done, different for each kill, and a wait of up to two steps'
    time from there.
    """
    hits = 0
    for number, done in enumerate(sorted(moments.sample(range(whole.steps), min(kills, whole.steps))), start=1):
        running = process(arguments, out, resume=(out / "config.yaml").exists())
        while running.poll() is None and (steps(out) < done or not (out / "config.yaml").exists()):
            time.sleep(0.01)
        try:
            running.wait(moments.uniform(0.0, 2.0 * whole.seconds / whole.steps))
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()
            hits += 1
        print(f"kill {number}: {steps(out)} steps done", flush=True)
    if status := process(arguments, out, resume=(out / "config.yaml").exists()).wait():
        print(f"the last resume ended with status {status}", file=sys.stderr)
    return hits


def report(whole: Path, parts: Path, killed: int) -> int:
    """Print the table; the exit status."""
    weights = Path("checkpoints") / (max(path.name for path in (whole / "checkpoints").iterdir()))
    names = [str(weights / "model.safetensors"), str(weights / "trainer.safetensors"), *COMPARED]
    equal = {name: content(whole / name) == content(parts / name) for name in names}
    width = max(map(len, names))
    print(f"\n{killed} kills, {steps(whole)} steps")
    for name, same in equal.items():
        print(f"{name:{width}}  {content(whole / name)[:12]:12}  {'equal' if same else 'DIFFERENT'}")
    return 0 if all(equal.values()) else 1


def process(arguments: list[str], out: Path, *, resume: bool = False) -> subprocess.Popen[bytes]:
    """`superrl train` in the background, silent but for its errors."""
    command = [sys.executable, "-c", "from superrl.cli import main; main()", "train", *arguments, "--out", str(out)]
    return subprocess.Popen([*command, *["--resume"] * resume], stdout=subprocess.DEVNULL)


def steps(out: Path) -> int:
    """Rows of metrics.jsonl."""
    path = out / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def content(path: Path) -> str:
    """The hash of a file, `absent` if there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "absent"


if __name__ == "__main__":
    sys.exit(main())
