"""Where a run stands: a frozen record that, with weights and optimizer, is all a resumed run needs.

The order of problems is a pure function of (seed, stage, epoch), so a cursor is enough. Of groups carried over by
dynamic sampling, and of a batch rolled out ahead, the rollouts are kept; their problems come from the data again, by
id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from superrl.errors import UserError
from superrl.records import Group, Score, State, Trajectory


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step learns from: its scored `groups`, all groups that were `drawn` for it, where the draws left the
    stage's order of problems (`cursor`) and dynamic sampling (`carried`), what the method tells of its requests
    (`asked`), and the wall-clock `seconds` by phase that it took."""

    groups: tuple[Group, ...]
    drawn: tuple[Group, ...]
    cursor: int
    carried: tuple[Group, ...] = ()
    asked: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Position:
    """`step` counts over all stages, `stage_step` within one; `evaluated` is the last step whose evaluation is
    recorded; `waited` counts evaluations since `stage_best`, the best one of the stage; `seconds` is the wall-clock
    spent so far; `ahead` is the next step's batch, where that was rolled out beside the last one's training; `lengths`
    are the bytes that the run's files had here."""

    stage: int = 0
    stage_step: int = 0
    step: int = 0
    cursor: int = 0
    evaluated: int = -1
    best: float | None = None
    best_step: int | None = None
    stage_best: float | None = None
    waited: int = 0
    updates: int = 0
    refused: int = 0
    generated: int = 0
    trained: int = 0
    fallbacks: int = 0
    seconds: float = 0.0
    method_state: State = field(default_factory=dict)
    carried: tuple[Group, ...] = ()
    ahead: Batch | None = None
    lengths: Mapping[str, int] = field(default_factory=dict)

    @property
    def began(self) -> int:
        """How many steps the stages before this one took."""
        return self.step - self.stage_step

    def counting(self, metrics: Mapping[str, Any]) -> Position:
        """The same position with a step's tokens and fallbacks added to the run's."""
        return replace(
            self,
            generated=self.generated + int(metrics["tokens/generated"] or 0),
            trained=self.trained + int(metrics["tokens/trained"] or 0),
            fallbacks=self.fallbacks + int(metrics["switch/fallbacks"] or 0),
        )

    def after(self, batch: Batch) -> Position:
        """Where the step that learns from `batch` leaves the run, but for what only learning tells."""
        step, stage_step = self.step + 1, self.stage_step + 1
        return replace(self, step=step, stage_step=stage_step, cursor=batch.cursor, carried=batch.carried, ahead=None)

    def at_stage(self, stage: int, method_state: State, updates: int, refused: int) -> Position:
        """The start of a stage, after one that took `updates` optimizer steps and refused `refused`."""
        return replace(
            self,
            stage=stage,
            stage_step=0,
            cursor=0,
            stage_best=None,
            waited=0,
            method_state=method_state,
            carried=(),
            ahead=None,
            updates=self.updates + updates,
            refused=self.refused + refused,
        )

    def dump(self) -> dict[str, Any]:
        """JSON values; `restore` is their inverse."""
        plain = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        ahead = self.ahead and {
            "groups": [_dumped(group) for group in self.ahead.groups],
            "drawn": [_dumped(group) for group in self.ahead.drawn],
            "cursor": self.ahead.cursor,
            "carried": [_dumped(group) for group in self.ahead.carried],
            "asked": dict(self.ahead.asked),
            "seconds": dict(self.ahead.seconds),
        }
        return {**plain, "carried": [_dumped(group) for group in self.carried], "ahead": ahead}


def restore(values: Mapping[str, Any], groups: Iterable[Group]) -> Position:
    """The position a checkpoint's JSON holds; `groups` are its stage's, without rollouts."""
    ahead = values.get("ahead")  # checkpoints of before had none
    known = {group.problem.id: group for group in groups} if values["carried"] or ahead else {}

    def of(entries: Iterable[Mapping[str, Any]]) -> tuple[Group, ...]:
        return tuple(_group(entry, known) for entry in entries)

    batch = ahead and Batch(
        of(ahead["groups"]), of(ahead["drawn"]), ahead["cursor"], of(ahead["carried"]),
        ahead.get("asked", {}), ahead.get("seconds", {}),
    )  # fmt: skip
    return Position(**{**values, "carried": of(values["carried"]), "ahead": batch})


def _dumped(group: Group) -> dict[str, Any]:
    rollouts = [asdict(trajectory) for trajectory in group.trajectories]
    return {"problem": group.problem.id, "key": group.key, "trajectories": rollouts}


def _group(values: Mapping[str, Any], known: Mapping[str, Group]) -> Group:
    if values["problem"] not in known:
        raise UserError(
            f"the checkpoint holds rollouts of problem {values['problem']!r}, which the data no longer have: "
            "put the data back as they were, or start a new run"
        )
    rollouts = tuple(_trajectory(trajectory) for trajectory in values["trajectories"])
    return replace(known[values["problem"]], trajectories=rollouts, key=tuple(values["key"]))


def _trajectory(values: Mapping[str, Any]) -> Trajectory:
    aligned = {name: tuple(values[name]) for name in ("tokens", "loss_mask", "logp_sampler")}
    annotations = {name: tuple(column) for name, column in values["annotations"].items()}
    score = None if values["score"] is None else Score(**values["score"])
    return Trajectory(**{**values, **aligned, "annotations": annotations, "score": score})
