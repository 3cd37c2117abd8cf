"""Problems from anywhere: `load(["tasks:chain", "rows.jsonl", "gsm8k:train.jsonl", "hf:owner/name"], "train")`.

A source is one of `tasks:SPEC`, a file, a preset, `PRESET:FILE` or `hf:ID`; all but tasks take `?split=` (hub) and
`?rows=START:STOP`. Demonstrations are joined to their prompts here; whether they fit and pass is `prepare`'s question.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from superrl import tasks
from superrl.data import files, hub
from superrl.data.files import Row
from superrl.data.presets import PRESETS, Preset
from superrl.data.rows import problems_of
from superrl.errors import UserError, nearest
from superrl.records import Problem

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True, slots=True)
class Loaded:
    """Problems, the `defaults` their sources bring for a stage, and demonstrations dropped while reading, by reason.

    A default stands if all sources bring the same (the largest `max_new_tokens`); `disagree` names the others.
    """

    problems: tuple[Problem, ...]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    disagree: tuple[str, ...] = ()


def load(sources: str | Sequence[str], split: Split) -> Loaded:
    """All problems of all sources, in order; `split` is what a source is asked for that names none itself."""
    names = [sources] if isinstance(sources, str) else list(sources)
    if not names:
        raise UserError(f"no data is named for {split}: give tasks:NAME, a file, a preset or hf:ID")
    parts = [_load_one(name, split) for name in names]
    problems = [problem for part in parts for problem in part.problems]
    _refuse_twins(names, parts)
    dropped = sum((Counter(part.dropped) for part in parts), Counter[str]())
    agreed, disagree = _common_defaults([part.defaults for part in parts])
    return Loaded(tuple(problems), agreed, dict(dropped), disagree)


def _load_one(name: str, split: Split) -> Loaded:
    if name.startswith("tasks:"):
        made = tasks.load(name.removeprefix("tasks:"), split)
        return Loaded(made.problems, made.defaults)
    place, options = _query(name)
    preset_name, _, path = place.partition(":")
    if place.startswith("hf:"):
        rows = hub.read_rows(path, options.pop("split", split), options.pop("config", None))
        return _from_rows(name, _slice(rows, name, options), options)
    if preset_name in PRESETS:
        preset = PRESETS[preset_name]
        rows = files.read_rows(path) if path else _hub_rows(preset_name, preset, split, options)
        return _from_preset(name, preset, _slice(rows, name, options), options)
    if not files.is_file_name(place) and "/" not in place:
        known = nearest(preset_name, PRESETS)
        raise UserError(f"{name!r} is no source of data: give tasks:NAME, a file, hf:ID or a preset ({known})")
    return _from_rows(name, _slice(files.read_rows(place), name, options), options)


def _common_defaults(every: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What all sources bring alike, the largest `max_new_tokens` if all bring one, and the keys they differ on."""
    agreed: dict[str, Any] = {}
    keys = dict.fromkeys(key for defaults in every for key in defaults)
    for key in keys:
        values = [defaults[key] for defaults in every if key in defaults]
        if len(values) < len(every):
            continue
        if key == "max_new_tokens":
            agreed[key] = max(values)
        elif all(value == values[0] for value in values):
            agreed[key] = values[0]
    return agreed, tuple(key for key in keys if key not in agreed)


def _from_rows(name: str, rows: Sequence[Row], options: Mapping[str, str]) -> Loaded:
    _refuse_unknown(name, options, ())
    dropped: Counter[str] = Counter()
    return Loaded(tuple(problems_of(rows, dropped)), {}, dropped)


def _from_preset(name: str, preset: Preset, rows: Sequence[Row], options: Mapping[str, str]) -> Loaded:
    _refuse_unknown(name, options, preset.options)
    return Loaded(tuple(preset.convert(row, options) for row in rows), preset.defaults)


def _hub_rows(name: str, preset: Preset, split: Split, options: dict[str, str]) -> list[Row]:
    wanted = options.pop("split", preset.splits.get(split))
    if wanted is None:
        known = " and ".join(preset.splits.values())
        raise UserError(f"{name} has no {split} split, only {known}: hold rows out, as in {name}?split=train[-500:]")
    return hub.read_rows(preset.hub, wanted, preset.config)


def _query(name: str) -> tuple[str, dict[str, str]]:
    """`place?key=value&...` taken apart."""
    place, _, query = name.partition("?")
    options: dict[str, str] = {}
    for pair in filter(None, query.split("&")):
        key, equals, value = pair.partition("=")
        if not equals or not value or key in options:
            raise UserError(f"{name} has {pair!r} where one key=value is expected")
        options[key] = value
    return place, options


def _slice(rows: Sequence[Row], name: str, options: dict[str, str]) -> Sequence[Row]:
    """`rows=START:STOP`, counted from 0, as in Python."""
    if "rows" not in options:
        return rows
    start, colon, stop = options.pop("rows").partition(":")
    if not colon or not all(part.removeprefix("-").isdecimal() or not part for part in (start, stop)):
        raise UserError(f"{name}: rows must read START:STOP, e.g. rows=0:500 or rows=-500:")
    chosen = rows[int(start) if start else None : int(stop) if stop else None]
    if not chosen:
        raise UserError(f"{name} chooses none of its {len(rows)} rows: change `rows`")
    return chosen


def _refuse_unknown(name: str, options: Mapping[str, str], own: Sequence[str]) -> None:
    for key in options:
        if key not in own:
            raise UserError(f"{name} has the unknown parameter {key!r}: {nearest(key, ('rows', *own))}")


def _refuse_twins(names: Sequence[str], parts: Sequence[Loaded]) -> None:
    """Ids name problems in logs and in every method's memory, so two problems may not share one."""
    seen: dict[str, str] = {}
    for name, part in zip(names, parts, strict=True):
        for problem in part.problems:
            if problem.id in seen:
                where = f"twice in {name}" if seen[problem.id] == name else f"in {seen[problem.id]} and again in {name}"
                raise UserError(f"the id {problem.id!r} stands {where}: give every row an `id` of its own")
            seen[problem.id] = name


__all__ = ["Loaded", "Split", "load"]
