"""`superrl steps`: a file of trajectories in, data rows out, and a report of what was dropped and why.

A row is a trajectory with its steps, or, with targets, one instance of one step; `data.load` reads either back to the
same problems. Leaves out reading and cutting (`data.importers`), what an instance is (`data.instances`), what a row is
(`data.written`), and rewriting solutions that do not parse (`superrl.rewrite`).
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast, get_args, get_type_hints

from superrl.data.importers import Imported, ImportOptions, Parser, load_trajectories
from superrl.data.importers.report import figures, summary
from superrl.data.instances import InstanceOptions, instances
from superrl.data.written import check_out, row_of, write_rows
from superrl.errors import UserError, nearest
from superrl.records import Problem
from superrl.steps.think import Think


def convert(
    source: str,
    out: Path,
    *,
    format: str = "auto",
    importing: ImportOptions | None = None,
    targets: InstanceOptions | None = None,
    report: Path | None = None,
) -> str:
    """Write the rows of a file of trajectories, and the report if asked for; the summary to print.

    `targets`: write instances, chosen so; None: trajectories.
    """
    importing = importing or ImportOptions()
    _check(source, out, report)
    imported = load_trajectories(source, format, importing)
    problems: Iterable[Problem] = imported.problems
    if targets is not None:
        problems = instances(imported.problems, targets, imported.drops.counts)
    rows = map(row_of, problems)
    first = next(rows, None)
    if first is None:
        raise UserError(_nothing(source, imported))
    written = write_rows(out, itertools.chain([first], rows))
    settings = asdict(importing) | ({} if targets is None else asdict(targets))
    told = figures(imported, source, settings, None if targets is None else written)
    if report is not None:
        report.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return summary(told, str(out))


def import_options(parser: str, *, unresolved: bool, submit: bool) -> ImportOptions:
    """The options of the command line, checked."""
    return ImportOptions(cast("Parser", _one_of(parser, Parser, "--parser")), unresolved, submit)


def instance_options(targets: str | None, think: str | None) -> InstanceOptions | None:
    """Which steps become rows, as the command line says it; None if trajectories do."""
    if targets is None:
        if think is not None:
            raise UserError(f"--think {think} is about rows of one step each: add --targets, or leave it out")
        return None
    chosen = InstanceOptions(targets=_one_of(targets, get_type_hints(InstanceOptions)["targets"], "--targets"))
    return chosen if think is None else replace(chosen, think=_one_of(think, Think, "--think"))


def _one_of(value: str, kind: Any, option: str) -> Any:
    """`value`, if the literal type `kind` has it."""
    if value not in get_args(kind):
        raise UserError(f"{option} {value!r}: {nearest(value, get_args(kind))}")
    return value


def _check(source: str, out: Path, report: Path | None) -> None:
    """Before any work: that the files to write may be written, and are not the one that is read."""
    check_out(out, source, report=report)
    for option, path in (("--out", out), ("--report", report)):
        if path is not None and (path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK)):
            raise UserError(f"cannot write {path}: {option} must be a file in a folder that may be written to")


def _nothing(source: str, imported: Imported) -> str:
    drops = imported.drops
    counted = ", ".join(f"{count} {reason}" for reason, count in drops.counts.most_common() if count)
    first = next((places[0] for places in drops.examples.values()), "")
    where = f"; first: {first}" if first else ""
    unresolved = ", or pass --unresolved" if drops.counts["unresolved"] else ""
    return (
        f"{source}, read as {imported.format}, leaves nothing to write ({counted}{where}): "
        f"choose another --format or --parser{unresolved}"
    )
