"""What the benchmarks share: sides that take turns in processes of their own, medians, tables, files.

A side is a process that does one unit of work (a step, an epoch) when it reads a line, tells what it took in one, and
sleeps until the next. So two systems, each in its own environment, alternate within one run on a machine whose speed
drifts, and each has its own peak memory. Needs the standard library only: it is imported in environments without
superrl. Leaves out what the work is (`workload.py`, `side_superrl.py`, `side_trl.py`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

MARK = "@turn "
"""Begins the lines that a side means for us; whatever else it prints is passed over."""
GIB = 2.0**30

Turn = dict[str, float]


class Side:
    """A process that works when asked: `turn` asks, waits, and returns what was told."""

    def __init__(self, name: str, command: Sequence[str], threads: int) -> None:
        self.name = name
        self._complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRL_EXPERIMENTAL_SILENCE": "1"}
        environment = {**os.environ, **quiet, "OMP_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
            env=environment,
        )

    def turn(self, **changes: Any) -> Turn:
        """One unit of work; `changes` reach the side as keywords."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(changes) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._fail()
        for line in self._process.stdout:
            if line.startswith(MARK):
                told: Turn = json.loads(line.removeprefix(MARK))
                return told
        self._fail()

    def _fail(self) -> NoReturn:
        self._process.wait()
        self._complaints.seek(0)
        last = "".join(self._complaints.readlines()[-30:])
        raise SystemExit(
            f"{last}\nthe side {self.name} ended with status {self._process.returncode}; its last words are above"
        )

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        assert self._process.stdin is not None
        return self._process.stdin.closed

    def close(self) -> None:
        """End the process; a second time it does nothing."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()


class Turns:
    """The other end, inside a side: `wait` until it is our turn, `done` with what it took."""

    def __init__(self) -> None:
        self.changes: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}
        self.began = self.cpu = 0.0

    def wait(self) -> None:
        """Sleep until asked; leave when nobody will ask any more."""
        line = sys.stdin.readline()
        if not line:
            raise SystemExit(0)
        self.changes = json.loads(line)
        self.seconds = {}
        self.began, self.cpu = time.perf_counter(), time.process_time()

    def done(self, told: Mapping[str, float | None]) -> None:
        """Tell what the unit took, and wait for the next. `seconds` is from being asked to now."""
        whole = {"seconds": time.perf_counter() - self.began, "cpu": time.process_time() - self.cpu}
        print("\n" + MARK + json.dumps({**whole, **told, "peak_bytes": peak_memory()}), flush=True)
        self.wait()


def peak_memory() -> int:
    """The most resident memory this process has had, in bytes, without what it was before it became this program."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def rounds(
    sides: Sequence[Side], *, repeats: int, warmup: int = 1, changes: Sequence[Mapping[str, Any]] = ({},)
) -> Iterator[dict[str, list[Turn]]]:
    """Let sides take turns, the order reversed every round, and yield what was told so far after every measured round.

    Every side does `warmup` units that are not kept. With several `changes` a round is one unit under each of them. A
    side that was closed meanwhile is left out from then on.
    """
    found: dict[str, list[Turn]] = {side.name: [] for side in sides}
    for number in range(-warmup, repeats):
        for change in changes if number >= 0 else changes[:1]:
            for side in sides if number % 2 == 0 else list(reversed(sides)):
                if side.closed:
                    continue
                told = side.turn(**change)
                label = "".join(f" {key} {value}" for key, value in change.items())
                kind = "warm-up" if number < 0 else f"round {number + 1}"
                print(f"{kind:8} {side.name:16} {told['seconds']:8.2f} s{label}", file=sys.stderr, flush=True)
                if number >= 0:
                    found[side.name].append({**told, **change})
        if number >= 0:
            yield found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles and count.

    >>> spread([1.0, 2.0, 4.0])
    {'median': 2.0, 'q25': 1.5, 'q75': 3.0, 'n': 3}
    """
    if len(values) == 1:
        return {"median": values[0], "q25": values[0], "q75": values[0], "n": 1}
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": middle, "q25": low, "q75": high, "n": len(values)}


def ratio(over: Sequence[float], under: Sequence[float]) -> dict[str, float]:
    """Spread of the ratios of neighbouring measurements, as far as both were measured."""
    return spread([a / b for a, b in zip(over, under, strict=False)])


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The p of cost = c * size**p that fits best (least squares of logarithms).

    >>> round(exponent([1, 2, 4], [3, 12, 48]), 6)
    2.0
    """
    fit = statistics.linear_regression(*([math.log(v) for v in column] for column in (sizes, costs)))
    return fit.slope


def shown(found: Mapping[str, float], digits: int = 2) -> str:
    """A spread as `median [q25, q75]`."""
    return f"{found['median']:.{digits}f} [{found['q25']:.{digits}f}, {found['q75']:.{digits}f}]"


def table(header: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    """A Markdown table, padded so that it reads as it stands; all but the first column to the right.

    >>> print(table(["side", "s"], [["ours", 1.5]]))
    | side |   s |
    |:-----|----:|
    | ours | 1.5 |
    """
    cells = [[str(cell) for cell in line] for line in [header, *lines]]
    widths = [max(len(line[i]) for line in cells) for i in range(len(header))]

    def row(line: Sequence[str]) -> str:
        padded = [
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join(":" + "-" * (w + 1) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return "\n".join([row(cells[0]), rule, *map(row, cells[1:])])


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    model = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {"cpu": model, "cores": os.cpu_count(), "python": platform.python_version(), "load": os.getloadavg()[0]}


def parser(description: str | None, *, repeats: int = 5) -> argparse.ArgumentParser:
    """A command line with what every benchmark takes."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--out", type=Path, help="write everything measured to this JSON file")
    made.add_argument(
        "--repeats", type=int, default=repeats, help=f"measurements of each, of which medians are shown ({repeats})"
    )
    made.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of each side (all cores)")
    made.add_argument("--quick", action="store_true", help="one repeat of something small: does it run?")
    return made


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """The command line, as JSON can hold it."""
    return {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}


def save(path: Path | None, content: Mapping[str, Any]) -> None:
    """Write a JSON file, if one was asked for."""
    if path is not None:
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
