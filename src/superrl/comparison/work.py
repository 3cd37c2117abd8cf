"""One run of a comparison, in a worker process: begun or continued, and its model looked at when it has ended.

Leaves out which runs there are and what becomes of one that fails (`runner`).
"""

from __future__ import annotations

import json
import platform
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
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


WORDS = {"kl": "its distance from the base", "imitation": "what it took from the expert", "passes": "its pass@k"}
"""What a measure tells, by the name of its file (`measure.MEASURES`)."""
MADE_WITH = "made-with.json"
"""Versions and device of the process that ended a run."""


@dataclass(frozen=True, slots=True)
class Job:
    """One run to do, in its folder, or, where nothing `trains`, a base to look at. `measures`: what is to be measured
    of the model, and how; results are kept in a file each."""

    folder: Path
    recipe: Recipe
    label: str
    measures: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    trains: bool = True

    @property
    def trained(self) -> bool:
        """Whether the run has ended, or needs none."""
        return not self.trains or (self.folder / "summary.json").is_file()

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return not self.unmeasured if self.trained else (self.folder / "failed.json").is_file()

    @property
    def unmeasured(self) -> list[str]:
        """The measures that are not there, or were made otherwise than is asked for now."""
        return [name for name, asked in self.measures.items() if _asked_before(self.folder / f"{name}.json") != asked]

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
    if not job.trained:
        for name in WORDS:
            (job.folder / f"{name}.json").unlink(missing_ok=True)
        train(job.recipe, job.folder, resume=(job.folder / "config.yaml").is_file(), progress=asked)
        write_json(job.folder / MADE_WITH, made_with(job.recipe))
    unknown = _measure(job, asked)
    return "; ".join([_told(job), *(f"{WORDS[name]} is unknown: {why}" for name, why in unknown.items())])


def _told(job: Job) -> str:
    if not job.trains:
        return "the base, looked at"
    summary = json.loads((job.folder / "summary.json").read_text(encoding="utf-8"))
    accuracy = next(iter(summary["test"].values()), {"final": None})["final"]
    return f"{summary['steps']} steps, {summary['wall_seconds']:.0f} s, test {accuracy}"


def _measure(job: Job, asked: Asked) -> dict[str, str]:
    """Write the files of the measures that are missing; why there is nothing in one, if so: the run is finished with or
    without it."""
    from superrl.comparison.measure import MEASURES
    from superrl.comparison.subject import open_base, open_final

    subject, unknown = None, {}
    for name in job.unmeasured:
        wanted, found = dict(job.measures[name]), {}
        try:
            subject = subject or (
                open_final(job.recipe, RunFolder(job.folder)) if job.trains else open_base(job.recipe)
            )
            found = MEASURES[name](subject, wanted, asked.tokens)
            json.dumps(found, allow_nan=False)  # of a model that has diverged
        except (ValueError, RuntimeError, OSError, MemoryError) as error:  # data, checkpoint, device, disk, memory
            unknown[name] = " ".join(str(error).split())
            found = {"why": unknown[name]}
        write_json(job.folder / f"{name}.json", {**({"asked": wanted} if wanted else {}), **found})
    return unknown


def _asked_before(path: Path) -> Mapping[str, Any] | None:
    """What a measure's file was made for; None if there is none."""
    if not path.is_file():
        return None
    asked: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8")).get("asked", {})
    return asked


def made_with(recipe: Recipe) -> dict[str, Any]:
    """What a run of this process is made with, for those who describe it."""
    import torch

    from superrl.models import device

    used = device(recipe.model)
    name = torch.cuda.get_device_name(used) if used.type == "cuda" else used.type
    versions = {package: _version(package) for package in ("superrl", "torch", "transformers")}
    return {**versions, "python": platform.python_version(), "device": name, "threads": torch.get_num_threads()}


def _version(package: str) -> str | None:
    """None for one that runs from its sources."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file whole."""
    write(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write(path: Path, text: str) -> None:
    """Replace a file whole, in a folder that is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
