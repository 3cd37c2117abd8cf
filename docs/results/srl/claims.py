"""The tables of README.md here, from the runs: every arm, and the four claims of PLAN.md with their intervals.

    python docs/results/srl/claims.py FOLDER FOLDER      what `superrl compare plan.yaml` and `claims.yaml` made

Prints Markdown and writes claims.json beside itself. Paired by seed; intervals are t intervals, not adjusted for four
claims (their number is stated). Needs the extra `compare`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import fmean

from superrl.comparison.statistics import claim

HERE = Path(__file__).parent
ARMS = (
    "sft-whole", "sft-steps", "grpo", "srl", "srl-grpo", "sft-grpo", "superrl", "srl-no-refill", "srl-indel",
    "srl-exact", "srl-format", "srl-other-step", "srl-other-problem", "srl-holistic",
)  # fmt: skip
PARTS = {"srl-grpo": ("srl", "grpo")}


def runs_of(folders: list[Path]) -> dict[str, dict[int, Path]]:
    """Arm -> seed -> run folder, of all finished runs."""
    found: dict[str, dict[int, Path]] = {}
    for folder in folders:
        for summary in folder.glob("runs/*/*/seed-*/summary.json"):
            run = summary.parent
            found.setdefault(run.parent.name, {})[int(run.name.removeprefix("seed-"))] = run
    return found


def test(run: Path, column: int = 0, end: str = "final") -> float:
    """Test accuracy in %: column 0 is in distribution, 1 one operation longer."""
    return 100 * list(json.loads((run / "summary.json").read_text())["test"].values())[column][end]


def best(run: Path) -> float:
    """The best validation accuracy, which chose the model, in %."""
    return 100 * json.loads((run / "summary.json").read_text())["validation"]["best"]


def pass_at_8(run: Path) -> float:
    """Share of 64 test problems that one of 8 draws at temperature 1 solves, in %."""
    correct = json.loads((run / "passes.json").read_text())["correct"].values()
    return 100 * fmean(count > 0 for count in correct)


def spent(run: Path) -> tuple[float, float, float]:
    """Generated tokens, trained tokens, seconds of processor time."""
    tokens = json.loads((run / "summary.json").read_text())["tokens"]
    timing = [json.loads(line) for line in (run / "timing.jsonl").read_text().splitlines()]
    return tokens["generated"], tokens["trained"], sum(row["time/cpu"] for row in timing)


def table(runs: dict[str, dict[int, Path]]) -> list[str]:
    """One line an arm."""
    lines = [
        "| arm | seeds | test, % (each seed) | one longer, % | pass@8, % | generated | trained | CPU s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    started = [test(run, end="start") for of_arm in runs.values() for run in of_arm.values()]
    lines.append(f"| base | | {fmean(started):.1f} | | | | | |")
    for arm in ARMS:
        own = [run for _, run in sorted(runs.get(arm, {}).items())]
        if not own:
            continue
        each = ", ".join(f"{test(run):.1f}" for run in own)
        longer, passes = fmean(test(run, 1) for run in own), fmean(map(pass_at_8, own))
        generated, trained, seconds = (fmean(column) for column in zip(*map(spent, own), strict=True))
        lines.append(
            f"| `{arm}` | {len(own)} | **{fmean(map(test, own)):.1f}** ({each}) | {longer:.1f} | {passes:.1f} | "
            f"{generated / 1e3:.0f} k | {trained / 1e3:.0f} k | {seconds:.0f} |"
        )
    return lines


def bound(value: float | None) -> float | str:
    """An end of an interval; seeds that are all alike have none."""
    return "none" if value is None else round(value, 2)


def claims(runs: dict[str, dict[int, Path]]) -> dict[str, dict[str, float | int | str]]:
    """Each claim: the two arms, the mean difference in points, its 95 % interval, the seeds."""
    better = max(PARTS["srl-grpo"], key=lambda arm: fmean(best(run) for run in runs[arm].values()))
    pairs = {
        "C1": ("srl", "sft-steps"), "C2": ("srl", "srl-format"),
        "C3": ("srl-grpo", better), "C4": ("srl-grpo", "sft-grpo"),
    }  # fmt: skip
    told: dict[str, dict[str, float | int | str]] = {}
    for name, (one, other) in pairs.items():
        seeds = sorted(set(runs[one]) & set(runs[other]))
        found = claim([test(runs[one][seed]) - test(runs[other][seed]) for seed in seeds])
        told[name] = {
            "arm": one, "against": other, "difference": round(found.mean, 2), "low": bound(found.lo),
            "high": bound(found.hi), "seeds": len(seeds),
        }  # fmt: skip
    return told


def main(folders: list[Path]) -> None:
    runs = runs_of(folders)
    print("\n".join(table(runs)), end="\n\n")
    told = claims(runs)
    (HERE / "claims.json").write_text(json.dumps(told, indent=1) + "\n")
    for name, c in told.items():
        interval = f"{c['difference']:+} [{c['low']}, {c['high']}]"
        print(f"| {name} | `{c['arm']}` minus `{c['against']}` | {interval} | {c['seeds']} |")


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
