"""Problems from anywhere: `load(["tasks:chain", "rows.jsonl", "gsm8k:train.jsonl", "hf:owner/name"], "train")`.

A source is one of `tasks:SPEC`, a file, a preset, `PRESET:FILE` or `hf:ID`; all but tasks take `?split=` (hub) and
`?rows=START:STOP`. `steps:SOURCE` is every step of their demonstrations as a problem of its own. Demonstrations are
joined to their prompts here; whether they fit and pass is `prepare`'s question.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from superrl import tasks
from superrl.data import files, hub, steps_source
from superrl.data.files import Row
from superrl.data.presets import PRESETS, Preset
from superrl.data.query import chosen_rows, parse_query, refuse_unknown
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
    if name.startswith(steps_source.PREFIX):
        place, query = parse_query(name)
        stepped = steps_source.load(name, place.removeprefix(steps_source.PREFIX), query, split, _load_one)
        return Loaded(stepped.problems, stepped.defaults, stepped.dropped)
    place, options = parse_query(name)
    preset_name, _, path = place.partition(":")
    if place.startswith("hf:"):
        rows = hub.read_rows(path, options.pop("split", split), options.pop("config", None))
        return _from_rows(name, chosen_rows(rows, name, options), options)
    if preset_name in PRESETS:
        preset = PRESETS[preset_name]
        rows = files.read_rows(path) if path else _hub_rows(preset_name, preset, split, options)
        return _from_preset(name, preset, chosen_rows(rows, name, options), options)
    if not files.is_file_name(place) and "/" not in place:
        known = nearest(preset_name, PRESETS)
        raise UserError(f"{name!r} is no source of data: give tasks:NAME, a file, hf:ID or a preset ({known})")
    return _from_rows(name, chosen_rows(files.read_rows(place), name, options), options)


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
    refuse_unknown(name, options, ())
    dropped: Counter[str] = Counter()
    return Loaded(tuple(problems_of(rows, dropped)), {}, dropped)


def _from_preset(name: str, preset: Preset, rows: Sequence[Row], options: Mapping[str, str]) -> Loaded:
    refuse_unknown(name, options, preset.options)
    return Loaded(tuple(preset.convert(row, options) for row in rows), preset.defaults)


def _hub_rows(name: str, preset: Preset, split: Split, options: dict[str, str]) -> list[Row]:
    wanted = options.pop("split", preset.splits.get(split))
    if wanted is None:
        known = " and ".join(preset.splits.values())
        raise UserError(f"{name} has no {split} split, only {known}: hold rows out, as in {name}?split=train[-500:]")
    return hub.read_rows(preset.hub, wanted, preset.config)


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
