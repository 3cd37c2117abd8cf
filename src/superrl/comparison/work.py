"""One run of a comparison, in a worker process: begun or continued, and its distance from the base measured.

Leaves out which runs there are and what becomes of one that fails (`runner`).
"""

from __future__ import annotations

import json
import math
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from superrl.comparison.crew import Stop
from superrl.config import Recipe, parse, read_yaml
from superrl.errors import Interrupted, UserError
from superrl.report import Silent
from superrl.runfolder import RunFolder

LOOK = 0.2
"""Seconds between two looks at whether to stop."""
FREE = ("checkpoint", "log")
"""Keys of a recipe that change nothing about a run's numbers."""


@dataclass(frozen=True, slots=True)
class Job:
    """One run to do, in its folder. `measured`: with its distance from the base, which only reported runs need."""

    folder: Path
    recipe: Recipe
    label: str
    measured: bool

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        if not (self.folder / "summary.json").is_file():
            return (self.folder / "failed.json").is_file()
        return not self.measured or (self.folder / "kl.json").is_file()

    def check(self) -> None:
        """Refuse a folder that holds a run of another recipe: it must not pass as this one's."""
        config = self.folder / "config.yaml"
        if not config.is_file():
            return
        before, now = parse(read_yaml(config), str(config)).dump(), self.recipe.dump()
        if changed := [key for key in now if key not in FREE and before[key] != now[key]]:
            raise UserError(
                f"{self.folder} holds a run of another recipe ({changed[0]} differs): choose another --out, or remove "
                "that folder to have the run done again"
            )


class Asked(Silent):
    """Leaves the run, which then saves, when the comparison wants to stop."""

    def __init__(self, stop: Stop) -> None:
        self.stop, self.next = stop, 0.0

    def tokens(self, k: int) -> None:
        self._look()

    def phase(self, name: str, total: int | None = None) -> None:
        self._look()

    def _look(self) -> None:
        if (now := time.monotonic()) >= self.next:
            self.next = now + LOOK
            if self.stop():
                raise Interrupted(signal.SIGTERM)


def share_the_machine(jobs: int) -> None:
    """In a new worker: its part of the threads that torch would take; its bars are nobody's."""
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(max(1, torch.get_num_threads() // jobs))


def work(job: Job, stop: Stop) -> str:
    """Do what is left of a job; what to tell about it."""
    from superrl.training import train

    asked = Asked(stop)
    if not (job.folder / "summary.json").is_file():
        (job.folder / "kl.json").unlink(missing_ok=True)
        train(job.recipe, job.folder, resume=(job.folder / "config.yaml").is_file(), progress=asked)
    unknown = _measure(job, asked) if job.measured else None
    summary = json.loads((job.folder / "summary.json").read_text(encoding="utf-8"))
    accuracy = next(iter(summary["test"].values()), {"final": None})["final"]
    told = f"{summary['steps']} steps, {summary['wall_seconds']:.0f} s, test {accuracy}"
    return f"{told}; its distance from the base is unknown: {unknown}" if unknown else told


def _measure(job: Job, asked: Asked) -> str | None:
    """Write kl.json; why there is no number, if so: the run is finished with or without it."""
    from superrl.comparison.drift import kl_from_base

    found, why = None, None
    try:
        found = kl_from_base(job.recipe, RunFolder(job.folder), asked.tokens)
        if found is not None and not math.isfinite(found):
            found, why = None, f"it came out as {found}"
    except (ValueError, RuntimeError, OSError, MemoryError) as error:  # data, checkpoint, device, disk, memory
        why = " ".join(str(error).split())
    write_json(job.folder / "kl.json", {"kl_from_base": found, **({"why": why} if why else {})})
    return why


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file whole."""
    write(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write(path: Path, text: str) -> None:
    """Replace a file whole, in a folder that is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
