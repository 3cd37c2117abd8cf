"""The source `steps:SOURCE?targets=all&think=none&held=0.1&by=repo`: step instances of whatever SOURCE holds.

SOURCE is anything else that `data.load` reads, and any file of trajectories that an importer knows. Options of the
instances and of the importers, `format` (of the file), `held` and `by` are taken here; all others go on to SOURCE, but
that `rows=START:STOP` chooses among the trajectories of a file.

`held` is the share of trajectories that `validation` and `test` get, half each; `train` gets the rest. Who goes where
is read from a hash of the problem, or of the column `by`, so that no problem, or no repository, stands on two sides.
Without `held` a file gives all it has for every split, and a task or preset its own splits. What the instances bring
for a stage (room, stop strings, kind of comparison) is read off all trajectories, held out or not, so that the sides
agree on it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from superrl.data import files
from superrl.data.contexts import TEMPLATE, completion, target
from superrl.data.importers import Imported, cut, load_trajectories
from superrl.data.importers.base import ImportOptions, Parser
from superrl.data.instances import InstanceOptions, experts, instances, target_steps
from superrl.data.presets import PRESETS
from superrl.data.query import chosen_rows, refuse_unknown
from superrl.errors import UserError, nearest
from superrl.records import Problem

if TYPE_CHECKING:
    from superrl.data import Loaded

Split = Literal["train", "validation", "test"]
PREFIX = "steps:"
TASK_DEFAULTS = {"targets": "all", "title": "none", "think": "none", "layout": "continued"}
"""A step of the tiny tasks is a line, and their model writes no monologue."""
THOUGHT_TOKENS = 512
"""Room that a stage without `max_new_tokens` leaves for thought."""
MOST_TOKENS = 2048
HELD: tuple[Split, ...] = ("validation", "test")

Read = Callable[[str, Split], "Loaded"]


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """What `steps:` itself takes: the file's format, and who is held out."""

    format: str = "auto"
    held: float = 0.0
    by: str | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.held < 1.0:
            raise UserError(f"held={self.held} is no share of the trajectories: give a number from 0 to below 1")
        if self.by is not None and not self.held:
            raise UserError(f"by={self.by} says what stays together when some are held out: give held, e.g. held=0.1")


class Wanted(NamedTuple):
    """All that a query of `steps:` says, by who reads it."""

    options: InstanceOptions
    importing: ImportOptions
    own: SourceOptions


class Found(NamedTuple):
    """The trajectories of a source, the defaults it brings itself, and what was dropped on the way."""

    problems: Sequence[Problem]
    brought: Mapping[str, Any]
    dropped: Mapping[str, int]


class Stepped(NamedTuple):
    """The instances, what they bring for a stage, and what was left out, by reason."""

    problems: tuple[Problem, ...]
    defaults: Mapping[str, Any]
    dropped: Mapping[str, int]


def load(name: str, place: str, query: Mapping[str, str], split: Split, read: Read) -> Stepped:
    """The instances of `steps:PLACE?query`; `read` loads an ordinary source. `name` is the source as it was written."""
    if place.startswith(PREFIX):
        raise UserError(f"{name} asks for steps of steps: name the source itself after {PREFIX}")
    is_task = place.startswith("tasks:")
    given = {**(TASK_DEFAULTS if is_task else {}), **query}
    wanted = Wanted(
        _typed(InstanceOptions, given, name, leave=("ends",)),
        _typed(ImportOptions, given, name),
        _typed(SourceOptions, given, name),
    )
    rest = {key: value for key, value in query.items() if key not in _KNOWN}
    found = _read(place, rest, "train" if wanted.own.held else split, wanted, read)
    sides = held_out(found.problems, wanted.own, name) if wanted.own.held else [split] * len(found.problems)
    chosen = [problem for problem, side in zip(found.problems, sides, strict=True) if side == split]
    options = replace(wanted.options, ends=ending(found.problems, wanted.options))
    dropped = Counter(found.dropped)
    made = tuple(instances(chosen, options, dropped))
    if not made:
        why = ", ".join(f"{count} {reason}" for reason, count in dropped.items() if count)
        raise UserError(f"{name} gives no step instance for {split}{f' ({why})' if why else ''}: choose other data")
    return Stepped(made, _defaults(found, options, is_task), {k: n for k, n in dropped.items() if n})


def held_out(problems: Sequence[Problem], options: SourceOptions, name: str) -> list[Split]:
    """The side of every problem. By text each stands where its hash says, whatever else is in the file. By a column the
    groups, in the order of their hashes, fill the held-out sides as far as they fit; no side is empty while train has
    two groups."""
    keys = [_key(problem, options.by, name) for problem in problems]
    if options.by is None:
        return [_side(_place(key), options.held) for key in keys]
    sizes = Counter(keys)
    room: dict[Split, float] = dict.fromkeys(HELD, options.held / 2 * len(problems))
    sides: dict[str, Split] = {}
    for key in sorted(sizes, key=lambda key: (_place(key), key)):
        roomy = max(HELD, key=lambda side: room[side])
        fits = sizes[key] <= room[roomy]
        sides[key] = roomy if fits else "train"
        room[roomy] -= sizes[key] if fits else 0
    for empty in set(HELD) - set(sides.values()):
        trained = sorted((key for key in sizes if sides[key] == "train"), key=lambda key: (sizes[key], _place(key)))
        if len(trained) > 1:
            sides[trained[0]] = empty
    return [sides[key] for key in keys]


def _key(problem: Problem, by: str | None, name: str) -> str:
    if by is None:
        return repr([(message["role"], message["content"]) for message in problem.messages])
    if by in problem.meta:
        return repr(problem.meta[by])
    known = ", ".join(sorted(map(str, problem.meta))) or "none at all"
    raise UserError(f"{name}: problem {problem.id!r} has no column {by!r} for `by`, only {known}")


def _place(key: str) -> float:
    """A number in [0, 1) that is a function of the key alone."""
    return int.from_bytes(sha256(f"superrl/held/{key}".encode(errors="surrogatepass")).digest()[:6], "big") / 2**48


def _side(place: float, held: float) -> Split:
    return "train" if place >= held else "validation" if place < held / 2 else "test"


def _read(place: str, rest: dict[str, str], split: Split, wanted: Wanted, read: Read) -> Found:
    """The trajectories of a source, and what it brings itself."""
    dropped: Counter[str] = Counter()
    preset = place.partition(":")[0]
    if files.is_file_name(place) and preset not in PRESETS and preset != "hf":
        changed = Path(place).expanduser().stat().st_mtime_ns if Path(place).expanduser().is_file() else 0
        found = _imported(place, changed, wanted.own.format, wanted.importing)
        chosen = chosen_rows(found.problems, place, rest)
        refuse_unknown(place, rest, sorted(_KNOWN))
        return Found(chosen, {}, found.drops.counts)
    if wanted.own.format != "auto":
        raise UserError(f"{place} is no file, so that format={wanted.own.format} has nothing to read: leave it out")
    whole = read(place + ("?" + "&".join(f"{key}={value}" for key, value in rest.items()) if rest else ""), split)
    dropped.update(whole.dropped)
    ready = preset == "tasks" or wanted.options.targets == "whole"
    problems = whole.problems if ready else tuple(_cut(whole.problems, wanted.importing.parser, dropped))
    return Found(problems, whole.defaults, dropped)


@lru_cache(maxsize=2)
def _imported(place: str, changed: int, format: str, options: ImportOptions) -> Imported:
    """A file's trajectories, read once for the splits of a run; `changed` is when the file last was."""
    return load_trajectories(place, format, options)


def _cut(problems: Sequence[Problem], parser: Parser, dropped: Counter[str]) -> Iterator[Problem]:
    """The problems with a demonstration in steps each; what cannot be cut is counted by the reason."""
    for problem in problems:
        many = len(problem.demonstrations) > 1
        if not problem.demonstrations:
            yield problem
        for number, demonstration in enumerate(problem.demonstrations, start=1):
            found = cut(problem, demonstration, parser)
            if isinstance(found, str):
                dropped[found] += 1
            else:
                yield replace(found, id=f"{problem.id}/{number}") if many else found


def ending(problems: Sequence[Problem], options: InstanceOptions) -> str:
    """The white space that closes every step but the last of every trajectory and stands in none, or nothing: it can be
    the stage's stop string where the policy goes on in the very text of the solution."""
    if not options.seamless or options.targets == "whole":
        return ""
    found = [one for one in experts(problems, options, Counter()) if not one.turns]
    gaps = {one.gap(i) for one in found for i in range(len(one.steps) - 1)}
    (gap,) = gaps if len(gaps) == 1 else ("",)
    inside = any(gap in step.text.rstrip() for one in found for step in one.steps)
    return "" if inside else gap


def _extent(problems: Sequence[Problem], options: InstanceOptions) -> tuple[int, bool]:
    """Characters of the longest completion of a target step, and whether any calls a tool; contexts, which cost most of
    the time that instances take, are not written for it."""
    longest, calls = 0, False
    for one in experts(problems, options, Counter()):
        for i in target_steps(len(one.steps), options):
            if target(one, i, options):
                longest = max(longest, len(completion(one, i, options)))
                calls = calls or bool(one.steps[i].tool)
    return longest, calls


def _defaults(found: Found, options: InstanceOptions, is_task: bool) -> dict[str, Any]:
    """Prompt, reward, room and stop strings for a stage on the instances of these trajectories, all sides alike."""
    own = found.brought.get("prompt", {"template": "{prompt}"})
    prompt = own if options.layout == "continued" else {"template": TEMPLATE}
    reward: dict[str, Any] = {"name": "step_similarity"}
    longest, calls = _extent(found.problems, options)
    if calls:
        reward["kind"] = "tool_call"
    if is_task and options.think == "none":
        room = 8 * (longest // 8 + 1)  # their tokens are characters
    else:
        thought = 0 if options.think == "none" else THOUGHT_TOKENS
        room = min(64 * (longest // 128 + 1) + thought, MOST_TOKENS)
    stop = {"stop": [options.ends]} if options.ends else {}
    return {"prompt": prompt, "reward": reward, "max_new_tokens": room, **stop}


_KNOWN = {field.name for kind in (InstanceOptions, ImportOptions, SourceOptions) for field in fields(kind)} - {"ends"}


def _typed(kind: type, values: Mapping[str, str], name: str, leave: Sequence[str] = ()) -> Any:
    """The options of `kind` among the values of a query."""
    kinds = get_type_hints(kind)
    mine = {field.name for field in fields(kind)} - set(leave)
    return kind(**{key: _convert(key, value, kinds[key], name) for key, value in values.items() if key in mine})


def _convert(key: str, value: str, kind: Any, name: str) -> Any:
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise UserError(f"{name} has {key}={value}: {nearest(value, get_args(kind))}")
        return value
    wanted = next(one for one in (bool, int, float, str) if one in (get_args(kind) or (kind,)))
    try:
        return {"true": True, "false": False}[value] if wanted is bool else wanted(value)
    except (ValueError, KeyError):
        raise UserError(f"{name} has {key}={value}: {key} takes {wanted.__name__}") from None
